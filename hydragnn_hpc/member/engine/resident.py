"""Training data on an engine's device, and checks of batches."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.sizes import Array
from hydragnn_hpc.member.engine.training_data import SampleGraphs

ATOMS_PREDICTED_ON_CPU = 4096
"""Atoms predicted at once on a CPU: as many as fit into a core's caches."""
ATOMS_PREDICTED_ELSEWHERE = 65536
"""Atoms of all members predicted at once on other devices, to bound the memory."""


def prediction_batch_size(graphs: SampleGraphs, device: torch.device, members: int = 1) -> int:
    """Return how many samples are predicted at once for each of ``members`` members that are processed together."""
    atoms = ATOMS_PREDICTED_ON_CPU if device.type == "cpu" else ATOMS_PREDICTED_ELSEWHERE
    largest = int(np.diff(graphs.atom_offsets).max())
    return max(1, atoms // (largest * members))


def resident(array: Array, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy an array to the device as ``dtype``, in C order; on the CPU, one that is so already is not copied.

    Kernels rely on the order: torch would keep that of a transposed array. What is not copied may be read-only.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)


def send(array: Array, device: torch.device) -> Tensor:
    """Copy an array to the device; to an accelerator from pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def vector_lanes(device: torch.device) -> int | None:
    """Return the float32 numbers per vector instruction in torch's CPU kernels; None on another device."""
    if device.type != "cpu":
        return None
    return {"AVX512": 16, "AVX2": 8, "SVE256": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)


def check_batch(index: Array, graphs: SampleGraphs) -> None:
    """Check that every member's batch has batch statistics; ``index`` ``[E, B]`` are sample numbers.

    Raises
    ------
    UserError
        If a member's batch is one sample of one atom.
    """
    if index.shape[1] < 2 and bool(np.any(graphs.atom_offsets[index + 1] - graphs.atom_offsets[index] < 2)):
        raise UserError(
            "a batch of one sample of one atom has no batch statistics; set training.batch_size so that no batch has"
            " one sample, not even the last of an epoch"
        )
