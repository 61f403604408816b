"""Every file name of a campaign's folder, and the one way to write a file: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.validation import one_line

_R = TypeVar("_R", bound=BaseModel)
TEMPORARY_PREFIX = ".tmp-"
"""What a half-written file's name starts with; leftovers of a kill are removed by :func:`remove_leftovers`."""


@contextmanager
def written_whole(path: Path, mode: str = "wb", keep: Path | None = None) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on leaving without an error it is synced and renamed to ``path``.

    A reader sees the old file or the new one, never a half; ``keep`` is what the old one is then called. File modes
    follow the umask.

    Raises
    ------
    UserError
        If the folder cannot be written: missing, read-only, or the disk is full.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        with os.fdopen(handle, mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            os.fsync(stream.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        Path(temporary).replace(path)
        temporary = ""
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or mend the folder, then run again"
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all (:func:`written_whole`)."""
    with written_whole(path, "w") as stream:
        stream.write(text)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON to ``path`` whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    UserError
        If it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON to ``path`` whole or not at all."""
    write_json(path, record.model_dump(mode="json", by_alias=True))


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


def remove_leftovers(folder: Path) -> int:
    """Remove what killed writers left in ``folder`` itself; returns how many. Call only while nobody writes there."""
    removed = 0
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):  # a folder that became unreadable; what stays is in nobody's way
            if path.is_file():
                path.unlink()
                removed += 1
    return removed


def _umask() -> int:
    # Linux tells it without setting it; setting and restoring it would race with other threads.
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        self.history = self.root / "history.csv"
        self.log = self.root / "log.txt"

    def make(self) -> None:
        """Create the folder."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot create {self.root}: {error.strerror or error}; mend the folder, then run again"
            ) from error


class CampaignFolder:
    """The files of a campaign's folder: the whole truth about it."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.campaign = self.root / "campaign.yaml"
        self.test_set = self.root / "test_set.npz"
        self.members = self.root / "members"
        self.logs = self.root / "logs"
        self.events = self.root / "logs" / "events.jsonl"
        self.progress = self.root / "progress.json"
        self.lock = self.root / "run.lock"
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
        """Return a table's file: ``name`` is ``table1``, ``timing`` or ``members``; ``suffix`` csv, md or tex."""
        return self.report / f"{name}.{suffix}"

    def worker_log(self, rank: int, slot: int) -> Path:
        """Return where one worker's standard output and error go."""
        return self.logs / f"worker-{rank:04d}-{slot}.txt"
