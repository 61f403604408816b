"""The node's copy of a data set while a run needs it: made by a child process, locked, and removed at the end.

A child process, so that a reader that crashes or hangs on a broken file does not take an MPI rank down with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from hydragnn_hpc import processes
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.staged import copies, room
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.lock import ProcessIdentity
from hydragnn_hpc.records.recipe import Requirements

_PREFIX = "hydragnn-hpc-"
_LOCK = "lock"
_SILENCE = 300.0  # seconds without progress (`_progress`) after which the copying child is considered hung


class Staging:
    """The node's copy of a data set, for the duration of a ``with`` block; only one process per node enters it.

    Copies left behind by killed runs, whose lock no process holds, are removed first.

    Parameters
    ----------
    bp : Path
        The data set.
    given : Path or None
        Where to make the copy; if None, `room.node_local_parent` chooses.
    alive : callable, optional
        Called a few times a second while copying, so that messages are still answered.
    silence : float
        Seconds without a byte read or written, or anything computed, after which the copying is considered hung.
    required : sequence of Requirements, optional
        What a campaign requires in addition.
    """

    def __init__(
        self,
        bp: Path,
        given: Path | None,
        alive: Callable[[], None] | None = None,
        silence: float = _SILENCE,
        required: Sequence[Requirements] = (),
    ) -> None:
        self._bp, self._given, self._alive, self._silence = bp, given, alive, silence
        self._required = required
        self._lock = -1
        self.folder = Path()

    def __enter__(self) -> Staging:
        manifest = store.read_manifest(self._bp)
        for folder in room.candidates(self._given):
            remove_abandoned(folder)
        parent = room.node_local_parent(self._given, copies.space_needed(manifest))
        try:
            self.folder, self._lock = _own_folder(parent, f"{_PREFIX}{manifest.sha256[:12]}-")
            self._copy()
        except OSError as error:
            self.__exit__(None, None, None)
            raise UserError(
                f"cannot stage {self._bp} in {parent}: {error.strerror or error}; give another --stage-dir"
            ) from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def _copy(self) -> None:
        command = [sys.executable, "-P", "-m", "hydragnn_hpc.dataset.staged.copies", str(self._bp), str(self.folder)]
        command.append(str(os.getpid()))
        command += [each.model_dump_json() for each in self._required]
        with tempfile.TemporaryFile("w+", dir=self.folder, errors="replace") as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            try:
                self._watch(child)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            if child.returncode == 0 and (self.folder / store.MANIFEST).exists():
                return
            output.seek(0)
            lines = [line for line in output.read().splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        if last.startswith(copies.ERROR):
            raise UserError(last.removeprefix(copies.ERROR))
        tail = f", its last output: {last}" if last else ""
        raise UserError(
            f"cannot stage {self._bp}: its reader failed ({processes.outcome(child.returncode)}){tail}; check the data"
            " set with data info --verify"
        )

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Wait for the child; raise when it has made no progress for too long."""
        last, since = -1, time.monotonic()
        while child.poll() is None:
            if self._alive:
                self._alive()
            time.sleep(0.05)
            progress = _progress(child.pid, self.folder)
            if progress != last:
                last, since = progress, time.monotonic()
            elif time.monotonic() - since > self._silence:
                raise UserError(
                    f"cannot stage {self._bp}: its reader has made no progress for {self._silence:g} s; see whether the"
                    " file system responds, and check the data set with data info --verify"
                )


def _progress(pid: int, folder: Path) -> int:
    """Return a number that grows as a process reads, writes into ``folder``, or computes."""
    moved = 0
    with contextlib.suppress(OSError, ValueError):  # a hardened /proc hides it; the folder still shows progress
        lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
        moved = sum(int(line.split()[1]) for line in lines if line.startswith(("rchar:", "wchar:")))
    # Whole seconds only: while ADIOS2 waits for data that do not come, it uses a little time as well.
    return moved + sum(p.stat().st_size for p in folder.glob("*.npy")) + int(processes.cpu_seconds(pid))


def _own_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Create a private folder and lock it; return the folder and the lock.

    Where the file system has no ``flock``, the lock's file says which process the folder belongs to.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with contextlib.ExitStack() as undo:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            # Another run may take it for abandoned, and remove it before it is locked.
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
                undo.callback(os.close, lock)
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                os.write(lock, json.dumps(processes.identity().model_dump(exclude_none=True)).encode())
                if os.path.samestat(os.fstat(lock), (folder / _LOCK).stat()):
                    undo.pop_all()
                    return folder, lock


def remove_abandoned(parent: Path) -> int:
    """Remove the copies in ``parent`` left behind by killed runs of this user; return how many."""
    removed = 0
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            # Other users can plant links in /tmp that lead elsewhere.
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                if not _is_held(lock):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += not folder.exists()
            finally:
                os.close(lock)
    return removed


def _is_held(lock: int) -> bool:
    """Take the lock of a folder; return whether another process has it, or may have it where there is no ``flock``."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        try:
            holder = ProcessIdentity.model_validate_json(os.pread(lock, 4096, 0))
        except ValidationError:
            return True  # being made
        return processes.lives(holder) is not False
    return False
