"""One run at a time in a campaign's folder; a dead run's lock does not block.

The lock file names its holder (`processes.identity`) and has a counter that the holder advances. Whether a holder on
this system lives is known at once. One on another host is dead when its counter stands still; no clocks are compared.

No two runs can take the same lock, on any file system: the file is created by a hard link, or else exclusively; and of
all runs that see the same dead holder, only the one that creates the *claim*, a file named after that holder's token,
may replace the lock. ``flock``, where it works, only shortens the wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hydragnn_hpc import processes
from hydragnn_hpc.atomic import TEMPORARY_PREFIX, storage_errors
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.logs import print_line
from hydragnn_hpc.records.lock import LockHolder

BEAT_SECONDS = 2.0
STANDSTILL_SECONDS = 60.0
"""Longer than many beats, than a network file system caches a file, and than a run takes to write its tables."""
_RECORD_BYTES = 512  # every record is padded to this length, so that it is overwritten in one write


@dataclass(frozen=True)
class _Content:
    """The content of a lock file, and the holder that it names; None where it is no record of this version."""

    raw: bytes
    holder: LockHolder | None

    @property
    def token(self) -> str:
        """The holder's token, or one that stands for these bytes."""
        return self.holder.token if self.holder else hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def is_record(self) -> bool:
        """Whether it is a whole record, of this version or of another; if not, it is half-written, or garbage."""
        try:
            return isinstance(json.loads(self.raw), dict)
        except (ValueError, RecursionError):
            return False


class RunLock:
    """The lock of one folder.

    Parameters
    ----------
    path : Path
        The lock file.
    standstill : float, optional
        Seconds without an advance of its counter after which a holder elsewhere is dead.
    """

    def __init__(self, path: Path, standstill: float = STANDSTILL_SECONDS) -> None:
        self._path, self._standstill = path, standstill
        self._handle = -1
        self._beat_at = 0.0
        self._holder = LockHolder(
            **processes.identity().model_dump(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            token=secrets.token_hex(8),
            beats=0,
        )

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        UserError
            If another run holds it and lives, or the folder cannot be written.
        """
        try:
            with storage_errors(self._path):
                self._take(self._path)
        except BaseException:
            self._close()
            raise
        if not self._is_held():  # this run stalled for so long that its claim was replaced
            self._close()
            raise UserError(_in_use(self._path, _read(self._path)))

    def beat(self, force: bool = False) -> bool:
        """Show that the holder lives. Call it often: it writes only every few seconds, or at once with ``force``.

        Returns False once another run has taken the lock, because this one stood still for too long.
        """
        if not force and time.monotonic() - self._beat_at < BEAT_SECONDS:
            return True
        self._beat_at = time.monotonic()
        self._holder = self._holder.model_copy(update={"beats": self._holder.beats + 1})
        with contextlib.suppress(OSError):  # a full disk must not end a run that still can train
            os.pwrite(self._handle, self._record(), 0)
        with contextlib.suppress(OSError):
            content = _read(self._path)
            return content is None or content.token == self._holder.token
        return True

    def release(self) -> None:
        """Release the lock, unless another run has taken it."""
        if self._handle >= 0:
            # A folder may have turned read-only; a lock that is left does not block.
            with contextlib.suppress(OSError):
                if self._is_held():
                    self._path.unlink(missing_ok=True)
            self._close()

    def _is_held(self) -> bool:
        """Whether the lock file names this run."""
        content = _read(self._path)
        return content is not None and content.token == self._holder.token

    def _take(self, path: Path) -> None:
        """Create ``path`` with this run's record, or replace it if its holder is dead."""
        while not self._create(path):
            before = _read(path)
            if before is None:
                continue  # released meanwhile
            self._refuse_living(path, before)
            claim = path.with_name(f"{TEMPORARY_PREFIX}{self._path.name}-{before.token}")
            self._take(claim)
            now = _read(path)
            if now is not None and now.token == before.token:
                claim.replace(path)
                return
            claim.unlink(missing_ok=True)  # the lock was replaced or released before this run had the claim
            self._close()

    def _create(self, path: Path) -> bool:
        """Create ``path`` with this run's record, open and locked; return False if it exists."""
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        self._handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.pwrite(self._handle, self._record(), 0)
            with contextlib.suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(temporary, path)
        except FileExistsError:
            # NFS may have made the link and lost the answer.
            made = os.fstat(self._handle).st_nlink == 2
            if not made:
                self._close()
            return made
        except OSError:  # a file system without hard links
            self._close()
            try:
                self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            try:
                os.pwrite(self._handle, self._record(), 0)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _record(self) -> bytes:
        return json.dumps(self._holder.model_dump(exclude_none=True)).encode().ljust(_RECORD_BYTES)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _refuse_living(self, path: Path, content: _Content) -> None:
        """Raise `UserError` if the holder lives; wait if only its counter can show that."""
        holder = content.holder
        lives = processes.lives(holder) if holder else None
        if lives is None and holder and processes.same_system(holder):
            lives = _is_flocked(path)  # in another container: one kernel, one set of locks
        if lives is None:
            # The content may be no record yet, since another run is writing it at this moment.
            seconds = self._standstill if content.is_record else min(self._standstill, 2 * BEAT_SECONDS)
            host = holder.host if holder else "an unknown host"
            print_line(
                f"{self._path.parent} was in use on {host}; waiting up to {seconds:.0f} s to see whether it still is"
            )
            lives = _is_flocked(path) or _changes(path, content, seconds)
        if lives:
            raise UserError(_in_use(self._path, content))


def _is_flocked(path: Path) -> bool | None:
    """Whether a process holds the ``flock`` of ``path``; None where the file system does not support it."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


def _read(path: Path) -> _Content | None:
    """Return what is in ``path``; None where there is no file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():  # to nowhere: it would never be free
            raise OSError(errno.ELOOP, "a link to nowhere") from None
        return None
    try:
        return _Content(raw, LockHolder.model_validate_json(raw))
    except ValidationError:
        return _Content(raw, None)


def _changes(path: Path, content: _Content, seconds: float) -> bool:
    """Whether the content of ``path`` changes within ``seconds``."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        time.sleep(min(0.5, seconds / 4))
        if _read(path) != content:
            return True
    return False


def _in_use(path: Path, content: _Content | None) -> str:
    holder = content.holder if content else None
    who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "an unknown process"
    return f"{path.parent} is in use: {who}; wait for it, end it, or give another folder"
