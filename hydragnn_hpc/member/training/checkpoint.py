"""A member's files: checkpoints during training, and the files of a finished member."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from hydragnn_hpc.atomic import Hold, write_text, written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.paths import MemberFolder, write_record
from hydragnn_hpc.records.base import FileRecord
from hydragnn_hpc.records.member import HISTORY, Identity, Result, Session
from hydragnn_hpc.records.model import CheckpointFacts, ModelFacts, ScheduleState
from hydragnn_hpc.validation import one_line

_R = TypeVar("_R", bound=FileRecord)


@dataclass
class Checkpoint:
    """The state of one member after an epoch, as saved: plain data and tensors on the CPU.

    Attributes
    ----------
    identity : Identity
        Another member's checkpoint is refused.
    tensors : dict
        ``parameters, best_parameters`` ``[P]``, ``buffers, best_buffers`` ``[Q]``, and the optimiser's state.
    schedule : Schedule
    history : list of list of float
        A row per epoch, columns as :data:`HISTORY`.
    sessions : list of Session
        By which workers, and when, it was trained.
    """

    identity: Identity
    tensors: dict[str, torch.Tensor]
    schedule: Schedule
    history: list[list[float]]
    sessions: list[Session]


@dataclass(frozen=True)
class TrainedModel:
    """A member's model: its best weights, parameters and buffers by name, and what is needed to apply them."""

    facts: ModelFacts
    weights: dict[str, torch.Tensor]


def save(files: MemberFolder, checkpoint: Checkpoint, hold: Hold = nullcontext) -> None:
    """Write a checkpoint; the one before stays as ``checkpoint.previous.pt``."""
    facts = CheckpointFacts(
        identity=checkpoint.identity,
        schedule=ScheduleState(**asdict(checkpoint.schedule)),
        history=checkpoint.history,
        sessions=checkpoint.sessions,
    )
    plain = facts.model_dump(by_alias=True)
    first = {key: plain.pop(key) for key in ("schema", "identity")}
    with written_whole(files.checkpoint, keep=files.previous_checkpoint, hold=hold) as stream:
        torch.save({**first, "tensors": checkpoint.tensors, **plain}, stream)


def load(
    files: MemberFolder, identity: Identity, shapes: dict[str, int], warn: Callable[[str], None]
) -> Checkpoint | None:
    """Read the latest checkpoint that can be used, or None.

    Parameters
    ----------
    identity : Identity
        Of the member that is to be trained.
    shapes : dict
        Length of each tensor.
    warn : callable
        Called with a line for each checkpoint that cannot be used.
    """
    for path in (files.checkpoint, files.previous_checkpoint):
        if not path.exists():
            continue
        try:
            return _read(path, identity, shapes)
        except Exception as error:  # a damaged file raises almost anything
            warn(f"{path.name} cannot be used ({reason_of(error)}); continuing from what came before it")
    return None


def _read(path: Path, identity: Identity, shapes: dict[str, int]) -> Checkpoint:
    facts, tensors = _parts(path, "tensors", CheckpointFacts)
    checkpoint = Checkpoint(facts.identity, tensors, Schedule(**dict(facts.schedule)), facts.history, facts.sessions)
    if checkpoint.identity != identity:
        raise UserError("of another campaign or member")
    for name, length in shapes.items():
        if checkpoint.tensors[name].shape != (length,) or not bool(checkpoint.tensors[name].isfinite().all()):
            raise UserError(f"'{name}' is damaged")
    return checkpoint


def _parts(path: Path, name: str, kind: type[_R]) -> tuple[_R, dict[str, torch.Tensor]]:
    """Read a file of ``torch.save``, of which nothing is executed: its record, and the tensors under ``name``.

    Raises
    ------
    Exception
        Of almost any kind, if the file is damaged.
    """
    check_sums(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("schema") != 1:
        raise UserError("written by another version")
    tensors = content.pop(name, None)
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise UserError(f"'{name}' are missing, or not tensors")
    try:
        return kind.model_validate(content), tensors
    except ValidationError as error:
        raise UserError(one_line(error, kind)) from error


def check_sums(path: Path) -> None:
    """Check a file of ``torch.save`` by its archive's checksums: ``torch.load`` does not notice a changed bit.

    Raises
    ------
    Exception
        Of almost any kind, if the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise UserError(f"the checksum of its part '{damaged}' is wrong")


def read_model(
    files: MemberFolder, remedy: str = "remove the member's folder and run the campaign again"
) -> TrainedModel:
    """Read ``model.pt``; an error names the ``remedy``.

    Raises
    ------
    UserError
        If it is damaged, or of another version.
    """
    try:
        return TrainedModel(*_parts(files.model, "weights", ModelFacts))
    except Exception as error:  # a damaged file raises almost anything
        raise UserError(f"cannot read {files.model}: {reason_of(error)}; {remedy}") from error


def reason_of(error: Exception) -> str:
    """Return why such a file cannot be read, in a short line."""
    return str(error).split(chr(10))[0][:160] or type(error).__name__


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
    model: TrainedModel,
    arrays: Mapping[Path, Mapping[str, np.ndarray]],
    hold: Hold = nullcontext,
) -> None:
    """Write the files of a finished member; ``result.json`` comes last, and shows that all others are complete.

    ``arrays`` are the contents of its ``.npz`` files.
    """
    plain = model.facts.plain()
    with written_whole(files.model, hold=hold) as stream:
        torch.save({"schema": plain.pop("schema"), "weights": model.weights, **plain}, stream)
    for path, content in arrays.items():
        with written_whole(path, hold=hold) as stream:
            np.savez_compressed(stream, **content)  # type: ignore[arg-type]  # older numpy takes no allow_pickle=
    write_record(files.result, result, hold)
