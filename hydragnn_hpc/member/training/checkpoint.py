"""A member's files: checkpoints while it trains, and what it leaves when it is done."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.paths import MemberFolder, write_json, write_text, written_whole

SCHEMA = 1
HISTORY = ("epoch", "train_loss", "validation_loss", "learning_rate", "seconds_training", "seconds_validation")


@dataclass
class Checkpoint:
    """One member after an epoch, as saved: plain data and tensors on the CPU.

    Attributes
    ----------
    identity : dict
        ``config_hash, dataset_sha256, variant, replica``: another member's checkpoint is refused.
    tensors : dict
        ``parameters, best_parameters`` ``[P]``, ``buffers, best_buffers`` ``[Q]``, and the optimiser's state.
    schedule : Schedule
    history : list of list of float
        A row an epoch, columns as :data:`HISTORY`.
    sessions : list of dict
        Who trained it when.
    """

    identity: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    schedule: Schedule
    history: list[list[float]]
    sessions: list[dict[str, Any]]


def save(files: MemberFolder, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the one before stays as ``checkpoint.previous.pt``."""
    with written_whole(files.checkpoint, keep=files.previous_checkpoint) as stream:
        torch.save({"schema": SCHEMA, **vars(checkpoint), "schedule": asdict(checkpoint.schedule)}, stream)


def load(
    files: MemberFolder, identity: dict[str, Any], shapes: dict[str, int], tell: Callable[[str], None]
) -> Checkpoint | None:
    """Read the latest checkpoint that can be used, or None.

    Parameters
    ----------
    identity : dict
        What its ``identity`` must be.
    shapes : dict
        Length of each tensor.
    tell : callable
        Is told of each checkpoint that cannot be used, and why.
    """
    for path in (files.checkpoint, files.previous_checkpoint):
        if not path.exists():
            continue
        try:
            return _read(path, identity, shapes)
        except Exception as error:  # a damaged file raises almost anything
            reason = str(error).split(chr(10))[0][:160] or type(error).__name__
            tell(f"{path.name} cannot be used ({reason}); going on from what came before it")
    return None


def _read(path: Path, identity: dict[str, Any], shapes: dict[str, int]) -> Checkpoint:
    content = read_weights(path)
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise UserError("written by another version")
    found = Checkpoint(**{**content, "schedule": Schedule(**content["schedule"])})
    if found.identity != identity:
        raise UserError("of another campaign or member")
    for name, length in shapes.items():
        if found.tensors[name].shape != (length,) or not bool(found.tensors[name].isfinite().all()):
            raise UserError(f"'{name}' is damaged")
    return found


def read_weights(path: Path) -> Any:
    """Read a file of ``torch.save``: tensors and plain data, of which nothing is executed.

    Raises
    ------
    Exception
        Of almost any kind, if the file is damaged.
    """
    # A changed bit passes torch.load as another number; the archive's checksums tell.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise UserError(f"the checksum of its part '{damaged}' is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def remove(files: MemberFolder) -> None:
    """Remove the checkpoints of a member that is done."""
    files.checkpoint.unlink(missing_ok=True)
    files.previous_checkpoint.unlink(missing_ok=True)


def write_history(files: MemberFolder, history: list[list[float]]) -> None:
    """Write ``history.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HISTORY)
    writer.writerows([int(row[0]), *(repr(value) for value in row[1:])] for row in history)
    write_text(files.history, text.getvalue())


def write_done(
    files: MemberFolder, result: dict[str, Any], model: dict[str, Any], predictions: dict[str, np.ndarray]
) -> None:
    """Write what a finished member leaves; ``result.json`` comes last and says that all the rest is there."""
    with written_whole(files.model) as stream:
        torch.save(model, stream)
    with written_whole(files.predictions) as stream:
        np.savez_compressed(stream, allow_pickle=False, **predictions)
    write_json(files.result, result)
    remove(files)
