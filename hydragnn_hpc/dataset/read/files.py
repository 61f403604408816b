"""The files of a folder or a tar archive, one after another: streamed, nothing unpacked to disk, nothing lost unseen.

Python's ``tarfile`` ends in silence at a damaged or missing header, and its own decompression checks no gzip checksum
and stops after the first of several compressed streams. So the archive is decompressed here, read to its very end, and
every header is held to be one.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from hydragnn_hpc.errors import UserError

LARGEST = 256 * 2**20
"""Bytes; a larger file (some 800,000 atoms of LSMS text) is refused unread."""

_KINDS: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (rb"\x1f\x8b\x08", gzip.open),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", bz2.open),
    (rb"\xfd7zXZ\x00", lzma.open),
    (rb"\]\x00\x00", lzma.open),  # the older .lzma
)
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged or truncated file may raise."""


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which ``out_2`` comes before ``out_10``."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)


def count_files(source: Path) -> int:
    """Return how many files a folder holds, 0 for an archive (counting would mean reading it twice)."""
    return len(visible(source)) if source.is_dir() else 0


def iter_files(source: Path) -> Iterator[tuple[str, bytes | UserError]]:
    """Yield (name, content) of every file; the reason in place of the content where one cannot be read.

    A folder's files come at any depth (links to folders are followed) in natural order, an archive's in its own.
    Hidden files and folders are left out.

    Raises
    ------
    UserError
        If ``source`` or one of its folders cannot be read, or the archive is damaged, truncated, or none.
    """
    if source.is_dir():
        yield from _in_folder(source)
    elif source.is_file():
        try:
            yield from _in_archive(source)
        except DAMAGE as error:
            if isinstance(error, OSError) and error.strerror:  # of the system, not of what is in the file
                raise UserError(f"cannot read {source}: {error.strerror}") from error
            raise UserError(
                f"cannot read {source} as a tar archive: {error}; it is damaged, truncated or no archive: fetch it"
                " again, or give a folder or a .tar, .tar.gz, .tar.bz2 or .tar.xz"
            ) from error
    else:
        raise UserError(f"no such file or folder: {source}")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)


def visible(folder: Path) -> list[Path]:
    """Return the files of a folder, at any depth, in natural order, without hidden ones.

    Raises
    ------
    UserError
        If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename}: {error.strerror}; mend its permissions") from error

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back into the tree
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: (natural_key(str(path)), str(path)))


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes | UserError]]:
    for path in visible(folder):
        where, content = _printable(str(path)), None
        problem = _name_problem(str(path))
        try:
            status = path.stat()
            if not problem and not path.is_file():
                problem = "is no plain file"
            elif status.st_size > LARGEST:
                problem = _too_large(status.st_size)
            elif not problem:
                content = path.read_bytes()
        except OSError as error:
            target = f" (it is a link to {path.readlink()})" if path.is_symlink() else ""
            problem = f"cannot be read: {error.strerror}{target}"
        yield where, UserError(f"{where}: {problem}") if content is None else content


def _in_archive(archive: Path) -> Iterator[tuple[str, bytes | UserError]]:
    seen: set[str] = set()
    with (
        decompressed(archive) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar,
    ):
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else every header is kept to the end
            if member.isdir() or _is_hidden(member.name):
                continue
            where, content = _printable(f"{archive}/{member.name}"), None
            problem = _member_problem(member) or ("is in the archive twice; pack it again" * (member.name in seen))
            seen.add(member.name)
            if not problem and (opened := tar.extractfile(member)) is not None:
                content = opened.read()
            yield where, UserError(f"{where}: {problem}") if content is None else content
        while stream.read(2**20):  # a checksum is looked at where its stream ends
            continue


def is_compressed(file: Path) -> bool:
    """Return whether a file starts as gzip, bzip2 or xz do."""
    try:
        with file.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; mend its permissions") from error
    return any(re.match(magic, start) for magic, _ in _KINDS)


def is_archive(file: Path) -> bool:
    """Return whether a file starts like a tar archive, once decompressed."""
    try:
        with decompressed(file) as stream:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except DAMAGE:
        return False
    return True


def decompressed(archive: Path) -> Any:
    """Open a file for reading, through gzip, bzip2 or xz where it is compressed.

    Raises
    ------
    UserError
        If it is compressed with zstd.
    """
    stream = archive.open("rb")
    start = stream.read(16)
    stream.seek(0)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        stream.close()
        raise UserError(f"{archive} is compressed with zstd, which is not read here; decompress it: zstd -d {archive}")
    for magic, opener in _KINDS:
        if re.match(magic, start):
            stream.close()
            return opener(archive)  # type: ignore[arg-type]
    return stream


class _Header(tarfile.TarInfo):
    """A member whose header, where it is none, is an error at any place in the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark at the archive's end
            reason = str(error) if len(buf) == tarfile.BLOCKSIZE else "it ends before its end-of-archive mark"
            raise tarfile.ReadError(reason) from error


def _member_problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"is a link (to {_printable(member.linkname)}); pack it again with tar --dereference --hard-dereference"
    if not member.isfile():
        return "is no plain file"
    return _too_large(member.size) if member.size > LARGEST else _name_problem(member.name)


def _name_problem(name: str) -> str:
    return "" if _printable(name) == name else "its name is not UTF-8; rename it"


def _too_large(size: int) -> str:
    return f"{size:,} bytes are too many for LSMS text (at most {LARGEST:,})"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
