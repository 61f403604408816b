"""One run at a time in a campaign's folder; a dead run's lock does not block.

The lock file holds who has it and a counter that its holder advances. On file systems with ``flock`` a holder that died
on this host is known at once. A holder on another host, or a file system without it, is judged by the counter alone: it
is dead when the counter stands still. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import holder_lives
from hydragnn_hpc.logs import tell

BEAT_SECONDS = 2.0
_STANDSTILL_SECONDS = 60.0  # many beats, what a network file system may cache, and what tables may take


class RunLock:
    """The lock of one folder.

    Parameters
    ----------
    path : Path
        The lock file.

    Raises
    ------
    UserError
        On entering, if another run holds it and lives, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1
        self._beats = 0
        self._beat_at = 0.0
        self._about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}

    def acquire(self) -> None:
        """Take the lock."""
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}; mend the folder, then run again") from error
        try:
            knows = self._flock()
            holder = self._read()
            lives = holder_lives(holder)
            dead = not holder or (lives is not None and (knows or not lives))
            if not dead and lives is None:
                where = holder.get("host", "?")
                tell(f"{self._path.parent} was in use on {where}; waiting up to {_STANDSTILL_SECONDS:.0f} s to see")
            if not dead and self._moves(holder):
                raise UserError(_told(self._path, holder))
            self.beat(force=True)
        except BaseException:
            self._close()
            raise

    def beat(self, force: bool = False) -> None:
        """Show that the holder lives; call it often, it writes every few seconds only."""
        if not force and time.monotonic() - self._beat_at < BEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        self._beats += 1
        content = json.dumps({**self._about, "beats": self._beats}).encode()
        with contextlib.suppress(OSError):  # a full disk must not end a run that still can train
            os.pwrite(self._handle, content.ljust(256), 0)

    def release(self) -> None:
        """Give the lock back."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):  # of a folder that has turned read-only; a lock left does not block
                self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        os.close(self._handle)
        self._handle = -1

    def _flock(self) -> bool:
        """Whether the file system can tell who holds the lock, and it is not held."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(_told(self._path, self._read())) from error
        except OSError:
            return False
        # Its holder may have removed the file between our open and our lock.
        try:
            ours = os.fstat(self._handle).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            ours = False
        if not ours:
            raise UserError(f"{self._path}: another run has just ended; run the same command again")
        return True

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(os.pread(self._handle, 4096, 0).decode())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _moves(self, holder: dict[str, Any]) -> bool:
        """Whether the holder's counter advances within a while."""
        limit = time.monotonic() + _STANDSTILL_SECONDS
        while time.monotonic() < limit:
            time.sleep(0.5)
            if self._read().get("beats") != holder.get("beats"):
                return True
        return False


def _told(path: Path, holder: dict[str, Any]) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
    return f"{path.parent} is in use: {who}; wait for it, end it, or run into another folder"
