"""The files of a folder or an archive, one after another: streamed, not unpacked to disk, and never lost silently.

Python's ``tarfile`` stops silently at a damaged or missing header, and its own decompression checks no gzip checksum
and stops after the first of several compressed streams. So the archive is decompressed here and read to its very end,
and every header is checked.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from hydragnn_hpc.atomic import place_of_temporary_files, storage_errors
from hydragnn_hpc.dataset.read.compression import decompressing, is_compressed, start_of, without_suffix
from hydragnn_hpc.dataset.read.frames import FrameLabel
from hydragnn_hpc.dataset.store.foreign import INDEX
from hydragnn_hpc.dataset.store.manifest import MANIFEST
from hydragnn_hpc.errors import UserError

LARGEST = 256 * 2**20
"""Bytes; a larger file (some 800,000 atoms of LSMS text) is not read whole."""

LARGEST_COPY = 4 * 2**30
"""Bytes; a larger member of an archive is not read, and no larger copy is made for a library that reads from disk."""

_MAX_EXPANSION = 200
"""An archive that decompresses to more than `LARGEST_COPY` may grow by at most this factor; text grows 3 to 10 times.
Members that are skipped must be decompressed too, at 4 s per GB."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, NotImplementedError,
)  # fmt: skip
"""What reading a damaged or truncated file may raise."""
_HEADER_ERRORS = (ValueError, RecursionError)  # what tarfile raises for malformed numbers and endless header chains
_EXTENSIONS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_MOST_DIGITS = 4300  # that Python converts to an integer
_LONGEST_EXTENSION = 2**20  # bytes; tarfile reads the whole of it into memory


@dataclass(frozen=True)
class RawFile:
    """One file of a source.

    Attributes
    ----------
    where : str
        Its name in errors: the source's path, and within an archive the member's.
    origin : str
        Its path within the source; the file name, where the source is a single file.
    open_stored : callable
        Opens it for reading as it is stored, without decompressing it.
    path : Path or None
        Where it is on disk; None within an archive.
    problem : str
        Why it cannot be read; empty where it can.
    """

    where: str
    origin: str
    open_stored: Callable[[], IO[bytes]]
    path: Path | None = None
    problem: str = ""

    @property
    def plain_name(self) -> str:
        """Its name without folders and compression suffix."""
        return without_suffix(PurePosixPath(self.origin).name)

    def named(self, number: str, what: str) -> FrameLabel:
        """Return the names of one of its structures: ``number`` identifies it in the file, errors call it ``what``."""
        name = PurePosixPath(self.origin).name
        return FrameLabel(f"{name}@{number}", f"{self.origin}@{number}", f"{self.where}, {what}")

    def open(self) -> Any:
        """Open it for reading, decompressed.

        Raises
        ------
        OSError, UserError
            If it cannot be opened, is compressed with zstd, or is an archive itself.
        """
        stream = decompressing(self.open_stored(), self.where)
        start = stream.peek(512)[:512]
        if start.startswith(_ZIP) or (start[257:262] == b"ustar" and b"\0" in start):
            with stream:
                raise UserError(
                    f"{self.where}: is an archive in a folder, in another archive or compressed again; unpack it, or"
                    " give it alone"
                )
        return stream

    def read(self) -> bytes:
        """Return its content, decompressed.

        Raises
        ------
        UserError
            If it cannot be read, or is larger than `LARGEST`.
        """
        try:
            with self.open() as stream:
                content = bytes(stream.read(LARGEST + 1))
        except DAMAGE as error:
            raise UserError(f"{self.where}: {reason(error)}") from error
        if len(content) > LARGEST:
            raise UserError(f"{self.where}: more than {LARGEST:,} bytes are too many for one structure")
        return content

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Yield the path of the file, or of a decompressed copy under its own name that is removed afterwards.

        Raises
        ------
        UserError
            If it is an archive itself, compressed with zstd, or larger than `LARGEST_COPY`.
        StorageError
            If the copy cannot be written.
        Exception
            One of :data:`DAMAGE`, if it cannot be read.
        """
        if self.path is not None and not is_compressed(self.path):
            yield self.path
            return
        with temporary_folder() as folder:
            path = folder / self.plain_name
            with self.open() as stream:
                pieces = iter(lambda: stream.read(2**20), b"")
                # Opened for each piece, so that a full disk cannot be taken for an error of reading.
                for piece in chain([b""], pieces):
                    with storage_errors(path), path.open("ab") as copy:
                        copy.write(piece)
                        size = copy.tell()
                    if size > LARGEST_COPY:
                        raise UserError(f"{self.where}: more than {LARGEST_COPY:,} bytes; decompress it first")
            yield path


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for temporary files; it is removed afterwards.

    Raises
    ------
    StorageError
        If it cannot be created.
    """
    with storage_errors(place_of_temporary_files()):
        created = tempfile.TemporaryDirectory()
    with created as folder:
        yield Path(folder)


def reason(error: BaseException) -> str:
    """Return, for a message, why a file could not be read; ``error`` is one of :data:`DAMAGE`."""
    if isinstance(error, OSError) and error.strerror:  # from the system, not from the file's content
        return f"cannot be read: {error.strerror}; make it readable, or leave the file out"
    if isinstance(error, NotImplementedError):  # from zipfile, for compression methods that it does not know
        return f"cannot be read: {error}; unpack the archive, and give the folder"
    return f"cannot be read: {error}; it is damaged or truncated"


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key under which ``out_2`` comes before ``out_10``."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    return tuple((0, int(part)) if part.isdecimal() and len(part) <= _MOST_DIGITS else (1, part) for part in parts)


def count_files(source: Path) -> int:
    """Return how many files a folder holds; 0 for anything else (to count in an archive is to read it twice)."""
    return len(visible(source)) if source.is_dir() else 0


def iter_files(source: Path, step: int = 1) -> Iterator[RawFile]:
    """Yield every file of a folder or an archive; any other file is yielded itself.

    The files of a folder, at any depth (links to folders are followed), come in natural order; those of an archive in
    its own order, each to be read before the next is requested. Hidden files and folders are left out.

    Parameters
    ----------
    source : Path
    step : int
        Only every ``step``-th file of a folder is yielded.

    Raises
    ------
    UserError
        If ``source`` or one of its folders cannot be read, or the archive is damaged or truncated.
    """
    if _is_adios(source):
        yield _on_disk(source, source.parent)
    elif source.is_dir():
        yield from (_on_disk(path, source) for path in visible(source)[::step])
    elif source.is_file():
        try:
            if _is_zip(source):
                yield from _in_zip(source)
            elif _is_tar(source):
                yield from _in_tar(source)
            else:
                yield _on_disk(source, source.parent)
        except (*DAMAGE, *_HEADER_ERRORS) as error:
            if isinstance(error, OSError) and error.strerror:
                raise UserError(f"cannot read {source}: {error.strerror}; make it readable") from error
            raise UserError(
                f"cannot read {source}: {error}; it is damaged, truncated or not an archive; fetch it again, or give a"
                " folder, a file, or a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz"
            ) from error
    else:
        raise UserError(f"no such file or folder: {source}")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)


def _is_adios(path: Path) -> bool:
    """Whether a path is an ADIOS2 folder, which is read as one file; False for a folder that cannot be accessed."""
    with contextlib.suppress(OSError):
        return (path / INDEX).is_file()
    return False


def visible(folder: Path) -> list[Path]:
    """Return the files of a folder at any depth, without hidden ones, in natural order; an ADIOS2 folder is one file.

    Raises
    ------
    UserError
        If a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename}: {error.strerror}; correct its permissions") from error

    paths: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back into the tree
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        if INDEX in names:
            paths.append(Path(here))
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(here, name) for name in names if not name.startswith(".")]
    return sorted(paths, key=lambda path: (natural_key(str(path)), str(path)))


def _on_disk(path: Path, source: Path) -> RawFile:
    where = _printable(str(path))
    problem = _name_problem(str(path))
    stored = path
    try:
        if _is_adios(path):
            stored = path / INDEX
            if (path / MANIFEST).is_file():
                problem = "is a data set of this program already; use data split, or data convert"
        elif not problem and not path.is_file():
            path.stat()
            problem = "is not a regular file"
    except OSError as error:
        target = ""
        with contextlib.suppress(OSError):  # no link, or in a folder that cannot be accessed
            target = f" (it is a link to {path.readlink()})"
        problem = f"cannot be read: {error.strerror}{target}"
    origin = _printable(path.relative_to(source).as_posix())
    return RawFile(where, origin, lambda: stored.open("rb"), path, problem)


def _in_tar(archive: Path) -> Iterator[RawFile]:
    seen: set[str] = set()
    compressed = is_compressed(archive)
    with (
        decompressing(archive.open("rb"), str(archive)) as decompressed,
        _Bounded(decompressed, archive) if compressed else decompressed as stream,
        # Without compression, members that are skipped are not read.
        tarfile.open(fileobj=stream, mode="r|" if compressed else "r:", tarinfo=_Header) as tar,
    ):
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else every header is kept to the end
            if member.size < 0:  # tarfile would go back, and read the same members forever
                raise tarfile.ReadError(f"a member of {member.size:,} bytes")
            if member.isdir() or _is_hidden(member.name):
                continue
            name = member.name.removeprefix("./")
            problem = _member_problem(member) or (_DUPLICATE if name in seen else "")
            seen.add(name)
            yield _member(archive, member.name, _opener_of(tar.extractfile, member), problem)
        while stream.read(2**20):  # a checksum is verified at the end of its stream
            continue


def _in_zip(archive: Path) -> Iterator[RawFile]:
    seen: set[str] = set()
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if member.is_dir() or _is_hidden(member.filename):
                continue
            problem = _DUPLICATE if member.filename in seen else _name_problem(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                problem = "is a link; pack it again without links"
            elif member.flag_bits & 0x1:
                problem = "is encrypted; unpack the archive with its password, and give the folder"
            elif member.file_size > LARGEST_COPY:
                problem = _too_large(member.file_size)
            seen.add(member.filename)
            yield _member(archive, member.filename, _opener_of(packed.open, member), problem)


def _opener_of(open_member: Callable[[Any], Any], member: Any) -> Callable[[], IO[bytes]]:
    return lambda: open_member(member)


_DUPLICATE = "is in the archive twice; pack it again"


def _member(archive: Path, name: str, open_stored: Callable[[], IO[bytes]], problem: str) -> RawFile:
    return RawFile(_printable(f"{archive}/{name}"), _printable(name.removeprefix("./")), open_stored, None, problem)


def _is_zip(file: Path) -> bool:
    return start_of(file).startswith(_ZIP)


def _is_tar(file: Path) -> bool:
    """Return whether a file starts like a tar archive once decompressed, or is named like one."""
    try:
        with decompressing(file.open("rb"), str(file)) as stream:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except DAMAGE:
        return without_suffix(file.name).endswith(".tar") or file.suffix in (".tgz", ".tbz2", ".txz")
    return True


class _Bounded(contextlib.AbstractContextManager[Any]):
    """A decompressed archive that is refused if it is out of proportion to its file: reading it would take forever."""

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self._stream, self._archive = stream, archive
        self._limit = self._left = max(LARGEST_COPY, _MAX_EXPANSION * archive.stat().st_size)

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise UserError(
                f"{self._archive} holds more than {self._limit:,} bytes, over {_MAX_EXPANSION} times its own size;"
                " unpack it, and give the folder"
            )
        return piece

    def __exit__(self, *_: object) -> None:
        """Leave the stream open: whoever opened it closes it."""


class _Header(tarfile.TarInfo):
    """A member of an archive; an invalid header is an error anywhere in the archive, not its end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark at the archive's end
            cause = str(error) if len(buf) == tarfile.BLOCKSIZE else "it ends before its end-of-archive mark"
            raise tarfile.ReadError(cause) from error
        if header.type in _EXTENSIONS and not 0 <= header.size <= _LONGEST_EXTENSION:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def _member_problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"is a link (to {_printable(member.linkname)}); pack it again with tar --dereference --hard-dereference"
    if not member.isfile():
        return "is not a regular file"
    return _too_large(member.size) if member.size > LARGEST_COPY else _name_problem(member.name)


def _name_problem(name: str) -> str:
    return "" if _printable(name) == name else "its name is not UTF-8; rename it"


def _too_large(size: int) -> str:
    return f"{size:,} bytes are too many (at most {LARGEST_COPY:,}); unpack the archive, and give the folder"


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
