"""All file names of a campaign's folder, and reading and writing its records."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from hydragnn_hpc.atomic import Hold, storage_errors, write_json, written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.validation import one_line

_R = TypeVar("_R", bound=BaseModel)
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)  # whatever the file's content


def write_record(path: Path, record: BaseModel, hold: Hold = contextlib.nullcontext) -> None:
    """Write a record as JSON to ``path``, whole or not at all."""
    write_json(path, record.model_dump(mode="json", by_alias=True), hold)


def read_record(path: Path, kind: type[_R]) -> _R:
    """Read a record from a JSON file.

    Raises
    ------
    UserError
        If it is missing, is not JSON, or is not such a record of this version.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        versions = [e["input"] for e in error.errors(include_url=False) if e["loc"] == ("schema",)]
        reason = f"it is of format version {versions[0]!r}" if versions else one_line(error, kind)
        raise UserError(f"cannot read {path}: {reason}") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], hold: Hold = contextlib.nullcontext) -> None:
    """Write arrays as a compressed ``.npz`` file to ``path``, whole or not at all.

    A name may be one that ``numpy.savez_compressed`` takes for its own argument, such as ``file``.
    """
    with written_whole(path, hold=hold) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)


def read_arrays(
    path: Path, remedy: str = "remove it and its member's result.json, and run again"
) -> dict[str, np.ndarray] | None:
    """Read an ``.npz`` file into memory; None if there is none.

    Parameters
    ----------
    path : Path
    remedy : str, optional
        What to do where it is damaged; by default, for a member's file.

    Raises
    ------
    UserError
        If the file cannot be read, or is not valid.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # on a damaged file NumPy passes on whatever its zip reader raises
        if isinstance(error, OSError) and error.errno in _UNREADABLE:
            remedy = "make it readable"
        reason = getattr(error, "strerror", None) or str(error) or "it is truncated"
        raise UserError(f"cannot read {path}: {reason}; {remedy}") from error


def append_record(path: Path, record: BaseModel) -> None:
    """Append a record to ``path`` as one line of JSON, after whatever a crash left of the line before.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    line = json.dumps(record.model_dump(mode="json", by_alias=True), ensure_ascii=False) + "\n"
    # One write at the end of the file: concurrent writers do not mix their lines.
    with storage_errors(path), path.open("ab") as stream:
        stream.write(b"\n" * _ends_within_a_line(path) + line.encode())


def _ends_within_a_line(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as stream:  # empty, or not readable
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
    return False


def check_appendable(path: Path) -> None:
    """Check that records can be appended to ``path``, as far as possible without writing; a missing file is not made.

    Raises
    ------
    UserError
        If something else is in its place, or it is read-only.
    """
    # A pipe without a reader would block.
    with storage_errors(path), contextlib.suppress(FileNotFoundError):
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))


def noise_of(task: str) -> str:
    """Return the name of a task's noise among the arrays of predictions: one that no task can have."""
    return f"{task}:noise"


class MemberFolder:
    """The files of one member, ``<campaign>/members/<variant>/<replica>/``."""

    def __init__(self, root: Path, variant: str, replica: int) -> None:
        self.root = root / "members" / variant / f"{replica:02d}"
        self.result = self.root / "result.json"
        self.failure = self.root / "failure.json"
        self.checkpoint = self.root / "checkpoint.pt"
        self.previous_checkpoint = self.root / "checkpoint.previous.pt"
        self.model = self.root / "model.pt"
        self.predictions = self.root / "predictions.npz"
        self.validation = self.root / "validation.npz"
        self.features = self.root / "features.npz"
        self.history = self.root / "history.csv"
        self.log = self.root / "log.txt"
        self.claim = self.root / "claim.json"

    @property
    def written(self) -> list[Path]:
        """The files that a worker writes before the result."""
        return [path for path in vars(self).values() if path not in (self.root, self.result, self.failure)]

    def obsolete(self, keep_checkpoint: bool) -> tuple[Path, ...]:
        """Return the files that are removed once a member has its result, but no checkpoint that is kept."""
        always = (self.previous_checkpoint, self.claim)
        return always if keep_checkpoint else (self.checkpoint, *always)

    def make(self) -> None:
        """Create the folder."""
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)


class CampaignFolder:
    """The files of a campaign's folder, which hold the campaign's whole state."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.campaign = self.root / "campaign.yaml"
        self.test_set = self.root / "test_set.npz"
        self.validation_set = self.root / "validation_set.npz"
        self.dataset = self.root / "dataset.json"
        self.members = self.root / "members"
        self.logs = self.root / "logs"
        self.events = self.root / "logs" / "events.jsonl"
        self.progress = self.root / "progress.json"
        self.lock = self.root / "run.lock"
        self.run = self.root / "run.json"
        self.rungs = self.root / "rungs.json"
        self.remarks = self.root / "remarks.json"
        self.jobs = self.root / "jobs"
        self.job_script = self.jobs / "job.sh"
        self.job_record = self.jobs / "submitted.jsonl"
        self.job_chain = self.jobs / "chain.json"
        self.report = self.root / "report"
        self.figures = self.report / "figures"
        self.page = self.report / "index.html"
        self.summary = self.report / "summary.json"
        self.claims = self.report / "claims.md"
        self.supplement = self.report / "report.md"
        self.tensorboard = self.report / "tensorboard"

    def member(self, variant: str, replica: int) -> MemberFolder:
        """Return the files of one member."""
        return MemberFolder(self.root, variant, replica)

    def table(self, name: str, suffix: str) -> Path:
        """Return a table's file: ``name`` as in `report.tables.registry`, ``suffix`` csv, md or tex."""
        return self.report / f"{name}.{suffix}"

    def worker_log(self, rank: int, slot: int) -> Path:
        """Return the file of one worker's standard output and error."""
        return self.logs / f"worker-{rank:04d}-{slot}.txt"
