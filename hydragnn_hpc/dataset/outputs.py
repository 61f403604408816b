"""Files and folders of raw data that appear whole or not at all."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import TEMPORARY_PREFIX, written_whole


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """Make a folder to write LSMS text into; it becomes ``out`` in the end. Of a link, what it points to is replaced.

    Raises
    ------
    UserError
        If ``out`` exists and is not empty (and not ``force``), holds anything but ``out_<number>``, or cannot be
        written.
    """
    try:
        out = out.resolve()
        _refuse_existing(out, force)
        temporary = _beside(out)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            _put_in_place(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; free space or choose another folder"
        ) from error


def _refuse_existing(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give the name of a folder")
    if Path.cwd().is_relative_to(out):
        raise UserError(f"{out} is where you are; give the name of a new folder")
    names = sorted(path.name for path in out.iterdir())
    if names and not force:
        raise UserError(f"{out} exists and is not empty; give another folder, or --force to replace it")
    for name in names:
        if not re.fullmatch(r"out_\d+", name):
            raise UserError(f"{out} holds '{name}', which is no LSMS text; --force replaces data alone: move it away")


def _put_in_place(temporary: Path, out: Path) -> None:
    if not out.exists():
        temporary.rename(out)
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


def refuse_file(out: Path, force: bool) -> None:
    """Refuse to write over the file ``out``, or over anything that is no plain file.

    Raises
    ------
    UserError
        If it exists and not ``force``, or is a folder.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of a file")
    if out.exists() and not force:
        raise UserError(f"{out} exists; give another name, or --force to replace it")


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[IO[bytes]]:
    """Open a new file, in a folder that is made if need be; it becomes ``out`` in the end.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose another folder") from error
    with written_whole(out) as stream:
        yield stream
