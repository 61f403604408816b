"""Ownership of a member's files: only the latest attempt to which the member has been assigned may write them.

A rank that becomes silent is considered dead, and its members are assigned to others; yet its worker may still run. So
each assignment has a claim, greater than all earlier ones. A worker first writes its claim to the member's
``claim.json``, only over a smaller one, and reads it again whenever it puts a file into place. The claim is removed
once the member has its result. A worker that does not find its own claim has lost the member.

Claims are compared and files put into place under ``flock`` on the claim's file. Where the file system has no
``flock``, a worker may lose the member between the two; and so it may where it stalls between them, after which a later
worker replaces the locked file. So a worker that takes a member removes all temporary files from its folder after
writing the claim: a file of the earlier worker is in place before that, or its rename fails.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydragnn_hpc.atomic import remove_leftovers, storage_errors, write_json
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder, MemberFolder
from hydragnn_hpc.records.claim import Claim, RunNumber

_CLAIM_BYTES = 80  # fixed length, so that it is overwritten in one write
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02


class NotOwnerError(UserError):
    """The member belongs to another attempt, or no longer to any."""


def begin_run(folder: CampaignFolder, unfinished: Iterable[MemberFolder]) -> int:
    """Return the number of a new run, greater than all before, and record it. The caller holds the run's lock.

    ``unfinished`` members may hold claims of runs whose record was lost.
    """
    claims = (read_claim(files) for files in unfinished)
    number = max(_run_number(folder), *(claim.run for claim in claims if claim is not None), 0) + 1
    write_json(folder.run, RunNumber(run=number).model_dump())
    return number


def read_claim(files: MemberFolder) -> Claim | None:
    """Return the claim on a member; None if there is none, or it cannot be read."""
    try:
        return _decoded(files.claim.read_bytes())
    except OSError:
        return None


class Ownership:
    """A member's folder, owned by one attempt.

    Parameters
    ----------
    files : MemberFolder
    claim : Claim
    patience : float, optional
        Seconds to wait for another process that is putting a file into place.
    """

    def __init__(self, files: MemberFolder, claim: Claim, patience: float = _PATIENCE_SECONDS) -> None:
        self._files, self._claim, self._patience = files, claim, patience

    def take(self, folder: CampaignFolder) -> None:
        """Claim the member.

        Raises
        ------
        NotOwnerError
            If it has been claimed by a later assignment, has a result, or a later run has begun.
        UserError
            If its folder cannot be written, or a process of a later assignment keeps its claim locked.
        """
        with storage_errors(self._files.claim), self._locked(create=True) as (handle, owner):
            if self._files.result.exists() or _run_number(folder) > self._claim.run:
                if owner is None:
                    self._files.claim.unlink(missing_ok=True)
                raise self._lost("has a result, or a later run has begun")
            if owner is not None and owner.order >= self._claim.order:
                raise self._lost(f"belongs to {owner}")
            self._write(handle, new=owner is None)
            remove_leftovers(self._files.root)
            if self._files.result.exists():  # put into place meanwhile, without flock
                self._files.claim.unlink(missing_ok=True)
                raise self._lost("has a result")

    def _write(self, handle: int, new: bool) -> None:
        """Write the claim to its file, or remove a ``new`` file that it does not fit into."""
        content = self._claim.model_dump_json().encode().ljust(_CLAIM_BYTES)
        try:
            if os.pwrite(handle, content, 0) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            if new:
                self._files.claim.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the member while files are put into place: no other attempt can claim the member meanwhile.

        Raises
        ------
        NotOwnerError
            If the member is no longer this attempt's.
        """
        try:
            with self._locked() as (_, owner):
                if owner != self._claim:
                    raise self._lost(f"belongs to {owner or 'nobody'}")
                yield
        except FileNotFoundError as error:
            if Path(error.filename or "") == self._files.claim:
                raise self._lost("no longer belongs to anyone") from None
            if (owner := read_claim(self._files)) != self._claim:
                raise self._lost(f"belongs to {owner or 'nobody'}") from None
            raise

    def end(self, keep_checkpoint: bool = False) -> None:
        """Remove what a member with a result no longer needs: the claim, and checkpoints."""
        with self.held():
            for path in self._files.obsolete(keep_checkpoint):
                path.unlink(missing_ok=True)

    def _lost(self, why: str) -> NotOwnerError:
        return NotOwnerError(f"{self._files.root} {why}: {self._claim} writes nothing more to it")

    @contextlib.contextmanager
    def _locked(self, create: bool = False) -> Iterator[tuple[int, Claim | None]]:
        """Open and lock the claim's file; yield its descriptor and the claim in it.

        With ``create``, the file is made where there is none, and anew where a process of an earlier claim keeps it
        locked.
        """
        while True:
            # NFS locks only files opened for writing. A new file is empty, and belongs to nobody.
            handle = os.open(self._files.claim, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
            try:
                locked = self._lock(handle)
                owner = _decoded(os.pread(handle, _CLAIM_BYTES, 0))
                if not locked and not (create and self._follows(owner)):
                    raise UserError(
                        f"{self._files.claim} has been locked for {self._patience:g} s by a process that has stalled;"
                        " another attempt takes the member from it"
                    )
                if self._is_in_place(handle):  # not removed while this process waited for the lock
                    if locked:
                        yield handle, owner
                        return
                    self._files.claim.unlink(missing_ok=True)
            finally:
                os.close(handle)

    def _is_in_place(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._files.claim.stat())
        except FileNotFoundError:
            return False

    def _follows(self, owner: Claim | None) -> bool:
        return owner is None or owner.order < self._claim.order

    def _lock(self, handle: int) -> bool:
        """Lock a file, and return True; return False where another process keeps it locked."""
        limit = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > limit:
                    return False
                time.sleep(_PAUSE_SECONDS)
            except OSError:
                return True  # a file system without locks
            else:
                return True


def _decoded(content: bytes) -> Claim | None:
    try:
        return Claim.model_validate_json(content)
    except ValueError:
        return None


def _run_number(folder: CampaignFolder) -> int:
    try:
        return RunNumber.model_validate_json(folder.run.read_bytes()).run
    except (OSError, ValueError):
        return 0
