"""Folders and archives: every file comes once, and what is damaged, missing or no regular file is reported."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragnn_hpc.atomic import StorageError
from hydragnn_hpc.dataset.build.convert import convert
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read import files
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError

CONTENT = {f"o/out_{k}": f"{k} ".encode() * 300 for k in range(12)}
BLOCK = 512 + 1024  # a member's header and content; the contents are 600 to 900 bytes


def pack(content: dict[str, bytes]) -> bytes:
    """A plain tar archive."""
    return pack_members([(name, data, tarfile.REGTYPE) for name, data in content.items()])


def pack_members(members: list[tuple[str, bytes, bytes]]) -> bytes:
    """A plain tar archive of members of any type: name, content and type of each."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data, kind in members:
            header = tarfile.TarInfo(name)
            header.type, header.size = kind, len(data)
            header.linkname = "elsewhere" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def read(archive: Path) -> dict[str, bytes | UserError]:
    """All files by their name within the archive."""
    return {where.removeprefix(f"{archive}/"): content for where, content in contents(archive)}


def contents(source: Path) -> Iterator[tuple[str, bytes | UserError]]:
    """Every file's place and content, or why it cannot be read."""
    for file in files.iter_files(source):
        try:
            yield file.where, UserError(f"{file.where}: {file.problem}") if file.problem else file.read()
        except UserError as error:
            yield file.where, error


def test_a_member_that_is_there_twice_is_reported(tmp_path: Path) -> None:
    """As when a file was packed once by its name and once from the folder."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(pack_members([(name, b"1", tarfile.REGTYPE) for name in ("a", "./a", "b", "a")]))
    found = [str(content) for _, content in contents(archive)]
    assert ["is in the archive twice" in text for text in found] == [False, True, False, True]


def test_a_member_is_as_long_as_assumed() -> None:
    assert {(len(c) + 511) // 512 * 512 for c in CONTENT.values()} == {BLOCK - 512}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("pieces", [1, 3])
def test_every_compression_in_one_stream_or_several(
    tmp_path: Path, compress: Callable[[bytes], bytes], pieces: int
) -> None:
    """Parallel compressors write several streams into one file. The name does not matter, the content does."""
    tar, archive = pack(CONTENT), tmp_path / "archive"
    step = -(-len(tar) // pieces)
    archive.write_bytes(b"".join(compress(tar[k : k + step]) for k in range(0, len(tar), step)))
    assert read(archive) == CONTENT
    assert files.count_files(archive) == 0  # to count would be to read the archive twice


def test_the_lzma_format_before_xz(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(lzma.compress(pack(CONTENT), format=lzma.FORMAT_ALONE))
    assert read(tmp_path / "a") == CONTENT


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(
    "cut", [7 * BLOCK, 7 * BLOCK + 100, 7 * BLOCK + 512, 7 * BLOCK + 700, 8 * BLOCK - 5, 12 * BLOCK]
)
def test_an_archive_cut_anywhere_is_reported(tmp_path: Path, compress: Callable[[bytes], bytes], cut: int) -> None:
    """The cut is at a member's start, in its header, after it, in its content, in its padding, or before the end."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(compress(pack(CONTENT)[:cut]))
    with pytest.raises(UserError, match="truncated"):
        read(archive)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.97])
def test_a_compressed_stream_cut_anywhere_is_reported(
    tmp_path: Path, compress: Callable[[bytes], bytes], kept: float
) -> None:
    archive, noise = tmp_path / "a.tar", {f"n_{k}": os.urandom(3000) for k in range(8)}
    whole = compress(pack(noise))
    archive.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=r"cannot read .*a\.tar"):
        read(archive)


def test_a_damaged_header_or_checksum_is_reported(tmp_path: Path) -> None:
    archive, tar = tmp_path / "a.tar", bytearray(pack(CONTENT))
    tar[7 * BLOCK : 7 * BLOCK + 300] = b"\xaa" * 300
    archive.write_bytes(tar)
    with pytest.raises(UserError, match="invalid header"):
        read(archive)
    zipped = bytearray(gzip.compress(pack(CONTENT)))
    zipped[-6] ^= 0xFF  # in the checksum: all contents are read, and then reported as possibly wrong
    archive.write_bytes(zipped)
    with pytest.raises(UserError, match="CRC"):
        read(archive)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an archive" * 100, "not an archive"),
        (b"", "not an archive"),
        (b"PK\x03\x04" + bytes(1000), "not an archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(1000), r"zstd -d .*a\.tar"),
    ],
)
def test_invalid_archives_are_reported(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["fept.targets.xyz", "a.tar.xyz"])
def test_a_file_with_tar_within_its_name_is_no_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive" * 100)
    ((_, content),) = contents(tmp_path / name)
    assert content == b"not an archive" * 100


def test_an_empty_archive_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(pack({}))
    assert read(tmp_path / "a.tar") == {}


def test_members_that_are_not_regular_files_are_reported_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, archive = tarfile.REGTYPE, tmp_path / "a.tar"
    monkeypatch.setattr(files, "LARGEST_COPY", 100)
    archive.write_bytes(
        pack_members(
            [
                ("o", b"", tarfile.DIRTYPE),
                ("o/soft", b"", tarfile.SYMTYPE),
                ("o/hard", b"", tarfile.LNKTYPE),
                ("o/pipe", b"", tarfile.FIFOTYPE),
                ("o/big", b"x" * 101, plain),
                ("o/bad\udcff", b"", plain),
                ("o/once", b"1", plain),
                ("o/once", b"2", plain),
                ("o/after", b"x" * 100, plain),
            ]
        )
    )
    found = list(contents(archive))
    assert [c for _, c in found if isinstance(c, bytes)] == [b"1", b"x" * 100]
    reasons = [str(c) for _, c in found if isinstance(c, UserError)]
    expected = ["soft: is a link", "hard: is a link", "pipe: is not a", "101 bytes", "not UTF-8", "once: is in the"]
    assert len(reasons) == len(expected) and all(e in r for e, r in zip(expected, reasons, strict=True)), reasons


def test_hidden_files_are_left_out_of_folders_and_archives(tmp_path: Path) -> None:
    names = ["out_1", "deep/er/out_2", ".hidden", ".git/config", "deep/._out_2"]
    folder = tmp_path / "raw"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    archive = tmp_path / "a.tar"
    archive.write_bytes(pack({f"./{name}": name.encode() for name in names}))
    assert list(read(archive).values()) == [b"out_1", b"deep/er/out_2"]
    assert [c for _, c in contents(folder)] == [b"deep/er/out_2", b"out_1"]
    assert files.count_files(folder) == 2


def test_links_in_a_folder(tmp_path: Path) -> None:
    """Links to files and folders are followed, once each; a loop ends; one to nowhere is reported."""
    folder, outside = tmp_path / "raw", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "out_1").write_text("1")
    (folder / "linked").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "out_2").symlink_to(outside / "out_1")
    (folder / "out_3").symlink_to("nowhere")
    os.mkfifo(folder / "out_4")
    found = [(Path(where).name, content) for where, content in contents(folder)]
    assert [name for name, _ in found] == ["out_1", "out_2", "out_3", "out_4"]
    assert [c for _, c in found[:2]] == [b"1", b"1"]
    assert "No such file or directory (it is a link to nowhere)" in str(found[2][1])
    assert "is not a regular file" in str(found[3][1])


def test_a_folder_whose_files_cannot_be_accessed_costs_only_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without the right to search it still lists its files' names."""
    for name in ("closed/out_1", "out_2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    of_system = os.stat

    def refusing(path: Any, **options: Any) -> os.stat_result:
        if "closed/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return of_system(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    (_, closed), (_, content) = contents(tmp_path)
    assert str(closed).endswith("closed/out_1: cannot be read: Permission denied") and content == b"1"
    assert [str(closed) for _, closed in contents(tmp_path / "closed")] == [str(closed)]


def test_a_file_too_large_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 10**6)
    for name, size in (("out_1", 10**6), ("out_2", 10**6 + 1)):
        (tmp_path / name).write_bytes(bytes(size))
    (_, right), (_, large) = contents(tmp_path)
    assert right == bytes(10**6) and "more than 1,000,000 bytes are too many for one structure" in str(large)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1), unique=True), st.randoms())
def test_any_names_have_one_natural_order(names: list[str], random: Random) -> None:
    shuffled = random.sample(names, len(names))
    first, second = (sorted(n, key=lambda n: (files.natural_key(n), n)) for n in (names, shuffled))
    assert first == second


def test_natural_order() -> None:
    names = ["out_2", "out_10", "out_1", "a3b", "a20b", "²", "10", "9", "out"]
    assert sorted(names, key=files.natural_key) == ["9", "10", "a3b", "a20b", "out", "out_1", "out_2", "out_10", "²"]


def test_an_archive_cannot_write_anywhere(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that lead out of a folder, files below a link, links and devices: nothing is unpacked by its name."""
    prefixes = ["../up_", f"{tmp_path}/", "link/", "./a/../../", "..//"] * 100
    named = zip(prefixes, sorted(raw.iterdir()), strict=False)
    good = [(f"{prefix}{path.name}", path.read_bytes(), tarfile.REGTYPE) for prefix, path in named]
    bad = [
        ("link", b"", tarfile.SYMTYPE), ("hard", b"", tarfile.LNKTYPE), ("null", b"", tarfile.CHRTYPE),
        ("disk", b"", tarfile.BLKTYPE), ("pipe", b"", tarfile.FIFOTYPE),
    ]  # fmt: skip
    inside, elsewhere = tmp_path / "in", tmp_path / "temporary"
    inside.mkdir()
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.chdir(inside)
    (inside / "a.tar").write_bytes(pack_members([*bad, *good]))
    with pytest.raises(UserError, match=r"a\.tar/link: is a link.*--on-error skip"):
        prepare(inside / "a.tar", inside / "x.bp", Options())
    facts = prepare(inside / "a.tar", inside / "x.bp", Options(on_error="skip")).plain()["source"]
    assert facts["skipped"] == len(bad) and facts["read"] == len(good) > 100
    database = b"SQLite format 3\0" + bytes(600)
    (inside / "b.tar").write_bytes(pack({"../../up.db": database, f"{tmp_path}/b.db": database}))
    with pytest.raises(UserError):
        prepare(inside / "b.tar", inside / "y.bp", Options(targets=parse_targets(["e=graph:energy:eV"])))
    assert sorted(p.name for p in inside.iterdir()) == ["a.tar", "b.tar", "x.bp"]
    assert not list(elsewhere.iterdir()) and sorted(tmp_path.iterdir()) == [inside, elsewhere]


@pytest.mark.parametrize("name", ["../up", "/tmp/up", "..", ".", ".hidden", "a/b", "a b"])
def test_a_structures_name_is_not_used_as_a_path(tmp_path: Path, raw: Path, name: str) -> None:
    convert(raw, tmp_path / "a.extxyz", Options())
    first, comment, rest = (tmp_path / "a.extxyz").read_text().split("\n", 2)
    comment = re.sub(r"name=\S+", f'name="{name}"', comment)
    (tmp_path / "a.extxyz").write_text("\n".join([first, comment, rest]))
    with pytest.raises(UserError, match="not a valid file name; rename the structure"):
        convert(tmp_path / "a.extxyz", tmp_path / "deep" / "out", Options())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.extxyz", "deep"]


def extension(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """A tar header that extends the next one, and its content, of which the header may state a wrong ``size``."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, len(content) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def record(key: str, value: str) -> bytes:
    """A record of at most 99 bytes of a pax header."""
    return f"{len(key) + len(value) + 5} {key}={value}\n".encode()


LONG = extension(tarfile.GNUTYPE_LONGNAME, b"name")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (extension(tarfile.XHDTYPE, b"", 2**33), "a header of 8,589,934,592 bytes"),
        (extension(tarfile.XGLTYPE, b"", 2**21), "a header of 2,097,152 bytes"),
        (extension(tarfile.GNUTYPE_LONGNAME, b"", 2**33), "a header of"),
        (extension(tarfile.GNUTYPE_LONGLINK, b"", -(2**30)), "a header of -"),
        (LONG * 3000, "recursion"),
        (extension(tarfile.XHDTYPE, record("GNU.sparse.map", "one,two")), "invalid literal"),
        (extension(tarfile.XHDTYPE, record("size", "-9999")), "a member of -9,999 bytes"),
    ],
    ids=["pax", "global pax", "long name", "negative", "nested", "no numbers", "backwards"],
)
def test_headers_made_to_take_memory_or_never_to_end_are_one_error(tmp_path: Path, start: bytes, message: str) -> None:
    """``tarfile`` reads a header whole: a huge one, of a few megabytes once compressed, would fill the memory."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(gzip.compress(start + pack({"out_1": b"1"})))
    with pytest.raises(UserError, match=rf"cannot read .*a\.tar: .*{message}"):
        read(archive)
    archive.write_bytes(LONG + pack({"out_1": b"1"}))
    assert read(archive) == {"name": b"1"}


def test_what_is_passed_over_in_a_plain_archive_is_not_read(tmp_path: Path) -> None:
    archive, large = tmp_path / "a.tar", 2**40
    header = tarfile.TarInfo("large")
    header.size = large
    with archive.open("wb") as stream:  # sparse: no space taken
        stream.write(pack({"out_1": b"1"})[:1024] + header.tobuf(tarfile.GNU_FORMAT))
        stream.seek(large, os.SEEK_CUR)
        stream.write(pack({"out_2": b"2"}))
    one, problem, two = (content for _, content in contents(archive))
    assert (one, two) == (b"1", b"2") and "1,099,511,627,776 bytes are too many" in str(problem)


def test_a_member_of_negative_size_is_damage(tmp_path: Path) -> None:
    """In a plain archive, reading would continue at an earlier member, forever."""
    back = extension(tarfile.XHDTYPE, record("size", "-1536"))
    (tmp_path / "a.tar").write_bytes(pack({"out_1": b"1" * 4000})[:4608] + back + pack({"out_2": b"2"}))
    with pytest.raises(UserError, match=r"cannot read .*a\.tar: a member of -1,536 bytes"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_out_of_proportion_to_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(compress(pack({"out_1": b"1", "zeros": bytes(10**7), "out_2": b"2"})))
    assert archive.stat().st_size * 200 < 10**7
    assert len(read(archive)) == 3
    monkeypatch.setattr(files, "LARGEST_COPY", 10**6)
    found = contents(archive)
    assert [next(found)[1]] == [b"1"]
    with pytest.raises(UserError, match="over 200 times its own size; unpack it"):
        list(found)


def test_a_zip_archive_of_bombs_and_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 10**6)
    monkeypatch.setattr(files, "LARGEST_COPY", 3 * 10**6)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for k in range(3000):
            packed.writestr(f"{'../' * (k % 3)}o/{k}", b"x")
        packed.writestr("/two", bytes(2 * 10**6))
        packed.writestr("../four", bytes(4 * 10**6))
    assert (tmp_path / "a.zip").stat().st_size < 10**6
    found = [content for _, content in contents(tmp_path / "a.zip")]
    assert [c for c in found if isinstance(c, bytes)] == [b"x"] * 3000
    two, four = (str(c) for c in found[3000:])
    assert "more than 1,000,000 bytes are too many" in two and "4,000,000 bytes are too many" in four


def test_a_full_disk_is_not_blamed_on_a_structure(tmp_path: Path) -> None:
    """Otherwise ``--on-error skip`` would leave out whatever found no room."""
    frame = "2\nProperties=species:S:1:pos:R:3:f:R:3 pbc=F\nCu 0 0 0 0 0 0\nAu 0 0 {} 0 0 1\n"
    (tmp_path / "a.xyz").write_text("".join(frame.format(2 + k / 9000) for k in range(9000)))
    refused_on_a_full_disk(tmp_path, "data prepare a.xyz x.bp --target f=node:f:eV/Å --on-error skip")
    assert [path.name for path in tmp_path.iterdir()] == ["a.xyz"]


def test_a_full_disk_is_not_blamed_on_a_file_that_is_copied_to_it(tmp_path: Path) -> None:
    """Such as a compressed one that ASE reads."""
    (tmp_path / "in").mkdir()
    for name, cells in (("small", 1), ("large", 20)):
        cell = "1 0 0\n0 1 0\n0 0 1"
        text = f"Cu\n1\n{cell}\nCu\n{cells**3}\nDirect\n" + "0.123456789 0.5 0.5\n" * cells**3
        (tmp_path / "in" / f"{name}.vasp.gz").write_bytes(gzip.compress(text.encode()))
    refused_on_a_full_disk(tmp_path, "data convert in out.extxyz --on-error skip")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_file_is_not_blamed_where_no_temporary_folder_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.gz").write_bytes(gzip.compress(b"1"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    (file,) = files.iter_files(tmp_path)
    with pytest.raises(StorageError, match=r"no folder for temporary files: No usable.*; set TMPDIR"), file.on_disk():
        pass


def refused_on_a_full_disk(folder: Path, words: str) -> None:
    """Run a command where no file may be larger than 100 kB; it must end with one line on what cannot be written."""
    program = Path(sys.executable).with_name("hydragnn-hpc")
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 100; exec {program} {words}"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 2 and "skip" not in done.stderr, done
    assert done.stderr.splitlines()[-1].startswith("hydragnn-hpc: error: cannot write "), done.stderr
