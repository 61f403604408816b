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
from hydragnn_hpc.errors import UserError, first_line
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.paths import MemberFolder, write_arrays, write_record
from hydragnn_hpc.records.base import FileRecord
from hydragnn_hpc.records.member import HISTORY, HistoryRow, Identity, Result, Session
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
    history : list of HistoryRow
        A row per epoch.
    sessions : list of Session
        When it was trained, and by which workers.
    """

    identity: Identity
    tensors: dict[str, torch.Tensor]
    schedule: Schedule
    history: list[HistoryRow]
    sessions: list[Session]


@dataclass(frozen=True)
class TrainedModel:
    """A member's model: its best weights, parameters and buffers by name, and what is needed to apply them."""

    facts: ModelFacts
    weights: dict[str, torch.Tensor]


def save(files: MemberFolder, checkpoint: Checkpoint, hold: Hold = nullcontext) -> None:
    """Write a checkpoint; the one before is kept as ``checkpoint.previous.pt``."""
    facts = CheckpointFacts(
        identity=checkpoint.identity,
        schedule=ScheduleState(**asdict(checkpoint.schedule)),
        history=[list(row) for row in checkpoint.history],
        sessions=checkpoint.sessions,
    )
    plain = facts.model_dump(by_alias=True)
    first = {key: plain.pop(key) for key in ("schema", "identity")}
    with written_whole(files.checkpoint, keep=files.previous_checkpoint, hold=hold) as stream:
        torch.save({**first, "tensors": checkpoint.tensors, **plain}, stream)


def load(
    files: MemberFolder, identity: Identity, lengths: dict[str, int], warn: Callable[[str], None]
) -> Checkpoint | None:
    """Read the latest checkpoint that can be used; return None if there is none.

    Parameters
    ----------
    files : MemberFolder
    identity : Identity
        Of the member that is to be trained.
    lengths : dict
        Of the checkpoint's tensors, by name.
    warn : callable
        Called with a line for each checkpoint that cannot be used.
    """
    paths = [path for path in (files.checkpoint, files.previous_checkpoint) if path.exists()]
    for path in paths:
        try:
            return _read(path, identity, lengths)
        except Exception as error:  # a damaged file raises almost anything
            consequence = "training from the beginning" if path == paths[-1] else "continuing from the one before"
            warn(f"{path.name} cannot be used ({reason_of(error)}); {consequence}")
    return None


def _read(path: Path, identity: Identity, lengths: dict[str, int]) -> Checkpoint:
    facts, tensors = _facts_and_tensors(path, "tensors", CheckpointFacts)
    if facts.identity != identity:
        raise UserError("it belongs to another campaign or member")
    if missing := lengths.keys() - tensors.keys():
        raise UserError(f"'{min(missing)}' is missing")
    for name, length in lengths.items():
        if tensors[name].shape != (length,) or not bool(tensors[name].isfinite().all()):
            raise UserError(f"'{name}' is damaged")
    history = [HistoryRow(int(epoch), *numbers) for epoch, *numbers in facts.history]
    return Checkpoint(identity, tensors, Schedule(**dict(facts.schedule)), history, facts.sessions)


def _facts_and_tensors(path: Path, name: str, kind: type[_R]) -> tuple[_R, dict[str, torch.Tensor]]:
    """Read a file of ``torch.save``, executing nothing in it: its record, and the tensors under ``name``.

    Raises
    ------
    Exception
        Of almost any kind, if the file is damaged.
    """
    verify_checksums(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("schema") != 1:
        raise UserError("it was written by another version")
    tensors = content.pop(name, None)
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise UserError(f"'{name}' are missing, or not tensors")
    try:
        return kind.model_validate(content), tensors
    except ValidationError as error:
        raise UserError(one_line(error, kind)) from error


def verify_checksums(path: Path) -> None:
    """Verify the checksums of a file of ``torch.save``, a zip archive: ``torch.load`` does not notice a changed bit.

    Raises
    ------
    Exception
        Of almost any kind, if the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise UserError(f"the checksum of '{damaged}' in it is wrong")


def read_model(
    files: MemberFolder, remedy: str = "remove the member's folder and run the campaign again"
) -> TrainedModel:
    """Read ``model.pt``.

    Raises
    ------
    UserError
        If the file is missing, damaged or of another version, with the ``remedy``; or if it may not be read.
    """
    try:
        return TrainedModel(*_facts_and_tensors(files.model, "weights", ModelFacts))
    except PermissionError as error:
        raise UserError(f"cannot read {files.model}: {error.strerror}; make it readable") from error
    except Exception as error:  # a damaged file raises almost anything
        raise UserError(f"cannot read {files.model}: {reason_of(error)}; {remedy}") from error


def reason_of(error: Exception) -> str:
    """Return the first line of an error's message, shortened; the error's type if there is none."""
    return first_line(error)[:160]


def write_history(files: MemberFolder, history: list[HistoryRow], hold: Hold = nullcontext) -> None:
    """Write ``history.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HISTORY)
    writer.writerows(history)
    write_text(files.history, text.getvalue(), hold)


def write_done(
    files: MemberFolder,
    result: Result,
    model: TrainedModel,
    arrays: Mapping[Path, Mapping[str, np.ndarray]],
    hold: Hold = nullcontext,
) -> None:
    """Write the files of a finished or diverged member; ``result.json`` is last: it shows that the others are complete.

    ``arrays`` are the contents of the ``.npz`` files.
    """
    plain = model.facts.plain()
    with written_whole(files.model, hold=hold) as stream:
        torch.save({"schema": plain.pop("schema"), "weights": model.weights, **plain}, stream)
    for path, content in arrays.items():
        write_arrays(path, content, hold)
    write_record(files.result, result, hold)
