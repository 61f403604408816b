"""Files and folders that appear whole or not at all, and one wording for errors of the file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from hydragnn_hpc.errors import UserError

TEMPORARY_PREFIX = ".tmp-"
"""Start of the name of a half-written file or folder; what a kill left is removed: files by :func:`remove_leftovers`,
folders by :func:`new_folder`."""

Hold = Callable[[], contextlib.AbstractContextManager[None]]
"""Context in which a file is put into place; it holds the folder meanwhile, or refuses."""

_REMEDY = "free space, check permissions, or choose another folder"
_WRONG_KIND = "something else is in its place; move or remove it"
_IN_ITS_PLACE = (errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.ENOTEMPTY, errno.ELOOP, errno.ENXIO)
_REMEDIES = dict.fromkeys(_IN_ITS_PLACE, _WRONG_KIND)


class StorageError(UserError):
    """A file cannot be written because of the storage, not because of its content."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system while ``path`` is written into one line for the user.

    Raises
    ------
    StorageError
        With the reason: missing, read-only, full, or a folder where a file is needed.
    UserError
        If another file, which is named, was the problem: one that is copied, for example.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if _is_elsewhere(error.filename, path):
            raise UserError(
                f"cannot access {error.filename}: {reason}; check that it exists, and its permissions"
            ) from error
        remedy = _REMEDIES.get(error.errno or 0, _REMEDY)
        raise StorageError(f"cannot write {path}: {reason}; {remedy}") from error


def _is_elsewhere(name: object, path: Path) -> bool:
    """Whether a file is neither ``path`` nor above, within or temporarily beside it; False where that is not known."""
    with contextlib.suppress(OSError):  # the current folder has been removed
        if isinstance(name, str):
            file, path = Path(name).absolute(), path.absolute()
            belongs = file == path or path in file.parents or file in path.parents
            return not belongs and not any(part.startswith(TEMPORARY_PREFIX) for part in file.parts)
    return False


def place_of_temporary_files() -> Path:
    """Return the folder in which temporary files are created.

    Raises
    ------
    StorageError
        If none can be used.
    """
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"no folder for temporary files: {reason}; set TMPDIR to one with free space") from error


@contextlib.contextmanager
def written_whole(
    path: Path, mode: str = "wb", keep: Path | None = None, hold: Hold = contextlib.nullcontext
) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on leaving without an error it is synced and renamed to ``path``.

    A reader sees the old file or the new one, never a half. With ``keep``, the old one is first renamed to it: a kill
    in between leaves ``keep`` and no ``path``. Files are renamed within ``hold()``, which may refuse it. File modes
    follow the umask.

    Raises
    ------
    StorageError
        If ``path`` cannot be written (:func:`storage_errors`).
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    temporary = ""
    with storage_errors(path):
        try:
            handle, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
            with os.fdopen(handle, mode, **text) as stream:  # type: ignore[call-overload]
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), 0o666 & ~_umask())
                os.fsync(stream.fileno())
            with hold():
                if keep is not None and path.exists():
                    path.replace(keep)
                Path(temporary).replace(path)
            temporary = ""
            sync(path.parent)
        finally:
            if temporary:
                Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str, hold: Hold = contextlib.nullcontext) -> None:
    """Write ``text`` to ``path``, whole or not at all (:func:`written_whole`)."""
    with written_whole(path, "w", hold=hold) as stream:
        stream.write(text)


def write_json(path: Path, content: Any, hold: Hold = contextlib.nullcontext) -> None:
    """Write ``content`` as JSON to ``path``, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", hold)


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which becomes ``out`` at the end; makes its folder if need be. Errors as for `written_whole`."""
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as stream:
        yield stream


@contextlib.contextmanager
def new_folder(out: Path, replace: bool = False) -> Iterator[Path]:
    """Make a folder to write into; at the end it becomes ``out``, and may ``replace`` what is there.

    Where ``out`` is a link, its target is replaced. Leftovers of killed writers of ``out`` are removed; running writers
    hold a lock. Where the file system has no locks, leftovers stay.

    Raises
    ------
    UserError
        If the folder cannot be written (:func:`storage_errors`).
    """
    out = out.resolve()
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        for folder in out.parent.glob(f"{TEMPORARY_PREFIX}{glob.escape(out.name)}-*"):
            with contextlib.suppress(OSError), _locked(folder):
                shutil.rmtree(folder, ignore_errors=True)
        temporary = _beside(out)
        temporary.mkdir()
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            with contextlib.suppress(OSError):
                stack.enter_context(_locked(temporary))
            yield temporary
            _put_in_place(temporary, out, replace)
            sync(out.parent)


def refuse_file(out: Path, force: bool) -> None:
    """Refuse to write over the file ``out``, or over anything that is not a regular file.

    Raises
    ------
    UserError
        If it exists and not ``force``, or is not a regular file.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of a file")
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is not a regular file; give another name")
    if out.exists() and not force:
        raise UserError(f"{out} exists; give another name, or --force to replace it")


def remove_leftovers(folder: Path) -> int:
    """Remove files that killed writers left in ``folder`` itself; return how many.

    Nothing may be written there meanwhile.
    """
    removed = 0
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):  # a folder that became unreadable; what stays does no harm
            if path.is_file():
                path.unlink()
                removed += 1
    return removed


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(temporary: Path, out: Path, replace: bool) -> None:
    if not (replace and out.exists()):
        temporary.rename(out)  # fails where another writer was faster
        return
    old = _beside(out)
    out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path) -> Path:
    # Named at random: two at once must not write into one folder.
    return out.with_name(f"{TEMPORARY_PREFIX}{out.name}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _umask() -> int:
    # Linux shows it without setting it; setting and restoring it would race with other threads.
    with contextlib.suppress(OSError):  # without /proc
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
