"""A member's files: checkpoints while it trains, and what it leaves when it is done."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hydragnn_hpc.atomic import Hold, write_text, written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.paths import MemberFolder, write_record
from hydragnn_hpc.records.member import HISTORY, Identity, Result, Session

SCHEMA = 1


@dataclass
class Checkpoint:
    """One member after an epoch, as saved: plain data and tensors on the CPU.

    Attributes
    ----------
    identity : Identity
        Another member's checkpoint is refused.
    tensors : dict
        ``parameters, best_parameters`` ``[P]``, ``buffers, best_buffers`` ``[Q]``, and the optimiser's state.
    schedule : Schedule
    history : list of list of float
        A row an epoch, columns as :data:`HISTORY`.
    sessions : list of Session
        Who trained it when.
    """

    identity: Identity
    tensors: dict[str, torch.Tensor]
    schedule: Schedule
    history: list[list[float]]
    sessions: list[Session]


def save(files: MemberFolder, checkpoint: Checkpoint, hold: Hold = nullcontext) -> None:
    """Write a checkpoint; the one before stays as ``checkpoint.previous.pt``."""
    with written_whole(files.checkpoint, keep=files.previous_checkpoint, hold=hold) as stream:
        plain = {
            "identity": checkpoint.identity.model_dump(),
            "schedule": asdict(checkpoint.schedule),
            "sessions": [s.model_dump() for s in checkpoint.sessions],
        }
        torch.save({"schema": SCHEMA, **vars(checkpoint), **plain}, stream)


def load(
    files: MemberFolder, identity: Identity, shapes: dict[str, int], tell: Callable[[str], None]
) -> Checkpoint | None:
    """Read the latest checkpoint that can be used, or None.

    Parameters
    ----------
    identity : Identity
        Of the member that is to be trained.
    shapes : dict
        Length of each tensor.
    tell : callable
        Called with a line for each checkpoint that cannot be used.
    """
    for path in (files.checkpoint, files.previous_checkpoint):
        if not path.exists():
            continue
        try:
            return _read(path, identity, shapes)
        except Exception as error:  # a damaged file raises almost anything
            reason = str(error).split(chr(10))[0][:160] or type(error).__name__
            tell(f"{path.name} cannot be used ({reason}); continuing from what came before it")
    return None


def _read(path: Path, identity: Identity, shapes: dict[str, int]) -> Checkpoint:
    content = read_weights(path)
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise UserError("written by another version")
    declared = {
        "identity": Identity(**content["identity"]),
        "schedule": Schedule(**content["schedule"]),
        "sessions": [Session(**s) for s in content["sessions"]],
    }
    found = Checkpoint(**{**content, **declared})
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


def write_history(files: MemberFolder, history: list[list[float]], hold: Hold = nullcontext) -> None:
    """Write ``history.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HISTORY)
    writer.writerows([int(row[0]), *(repr(value) for value in row[1:])] for row in history)
    write_text(files.history, text.getvalue(), hold)


def write_done(
    files: MemberFolder,
    result: Result,
    model: dict[str, Any],
    predictions: dict[str, np.ndarray],
    hold: Hold = nullcontext,
) -> None:
    """Write what a finished member leaves; ``result.json`` comes last and says that all the rest is there."""
    with written_whole(files.model, hold=hold) as stream:
        torch.save(model, stream)
    with written_whole(files.predictions, hold=hold) as stream:
        np.savez_compressed(stream, allow_pickle=False, **predictions)
    write_record(files.result, result, hold)
