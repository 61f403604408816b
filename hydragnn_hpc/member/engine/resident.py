"""Training data on the device of an engine, and what a batch must hold."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.sizes import Array
from hydragnn_hpc.member.engine.training_data import Structure

PREDICTED_AT_ONCE = {"cpu": 4096}
"""Atoms predicted at once: what stays in a core's caches; elsewhere `PREDICTED`, to bound the memory."""
PREDICTED = 65536


def samples_at_once(structure: Structure, device: torch.device, members: int = 1) -> int:
    """Return how many samples ``members`` predict together."""
    most = int(np.diff(structure.atom_offsets).max())
    return max(1, PREDICTED_AT_ONCE.get(device.type, PREDICTED) // (most * members))


def resident(array: Array, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bring a whole array to the device; on the CPU a mapped file stays one, read-only, where its type is right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array)).to(device, dtype)


def vector_lanes(device: torch.device) -> int | None:
    """Return how many float32 numbers torch's kernels take at once on a CPU; None on another device."""
    if device.type != "cpu":
        return None
    return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)


def check_statistics(index: Array, structure: Structure) -> None:
    """Refuse a training batch that has no batch statistics.

    Raises
    ------
    UserError
        If a member's batch has fewer than two atoms.
    """
    if index.shape[1] < 2 and bool(np.any(structure.atom_offsets[index + 1] - structure.atom_offsets[index] < 2)):
        raise UserError("a batch of one sample of one atom has no batch statistics; make the batches larger")
