"""Files of tensors, of other programs and of members, as NumPy arrays: for code that does not import torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from hydragnn_hpc.atomic import written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.training.checkpoint import TrainedModel, read_model, reason_of, verify_checksums
from hydragnn_hpc.paths import MemberFolder
from hydragnn_hpc.records.model import ModelFacts


def read_state(path: Path, key: str) -> dict[str, np.ndarray]:
    """Return the tensors under ``key`` in a file of ``torch.save`` as arrays, executing nothing in it.

    NumPy has no bfloat16: such tensors become float32.

    Raises
    ------
    UserError
        If the file cannot be read, or has no tensors under that key.
    """
    try:
        if zipfile.is_zipfile(path):  # torch's older format has no checksums
            verify_checksums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get(key) if isinstance(content, dict) else None
        if isinstance(state, dict) and all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            return {str(name): _array(tensor) for name, tensor in state.items()}
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except PermissionError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable") from error
    except Exception as error:  # a damaged or malicious file raises almost anything
        raise UserError(f"cannot read {path}: {reason_of(error)}; copy it again, or save the weights alone") from error
    raise UserError(f"{path} has no tensors under '{key}'; give a checkpoint of HydraGNN")


def _array(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()).numpy()


def write_state(path: Path, key: str, state: dict[str, np.ndarray]) -> None:
    """Write arrays as tensors under ``key``."""
    with written_whole(path) as stream:
        torch.save({key: {name: torch.from_numpy(value.copy()) for name, value in state.items()}}, stream)


def read_weights(files: MemberFolder) -> tuple[ModelFacts, dict[str, np.ndarray]]:
    """Read a member's ``model.pt``; errors as for `read_model`."""
    model = read_model(files)
    return model.facts, {name: tensor.numpy() for name, tensor in model.weights.items()}


def model_of(facts: ModelFacts, weights: dict[str, np.ndarray]) -> TrainedModel:
    """Return a model with these weights, in float32."""
    return TrainedModel(facts, {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()})
