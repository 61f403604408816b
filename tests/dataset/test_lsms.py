"""LSMS text: byte for byte, from folders and archives, and one clear line for every malformed file."""

from __future__ import annotations

import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import lsms_samples

from hydragnn_hpc.dataset.read import frames, sources
from hydragnn_hpc.dataset.read.formats import lsms
from hydragnn_hpc.dataset.read.frames import MalformedError
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.errors import UserError

pytestmark = pytest.mark.usefixtures("written_here")

finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))
DECIMALS = (6, 6, 6, 2, 6, 6, 6, 4, 6, 6, 6)  # of columns 8 to 18, as far as the format and a double hold them


@given(
    z=st.lists(st.integers(1, 118), min_size=1, max_size=8),
    energies=st.lists(finite, min_size=3, max_size=3),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read_again(z: list[int], energies: list[float], data: st.DataObject) -> None:
    n = len(z)
    numbers = st.lists(st.floats(-900, 900).map(lambda x: round(x, 6)), min_size=n, max_size=n)
    charge, moment, y, z_of_pos = (np.array(data.draw(numbers)) for _ in range(4))
    pos = np.stack([np.arange(n) * 1.5, y, z_of_pos], 1)
    sample = lsms.new_sample("out_1", np.array(energies), np.array(z), pos, (charge, moment))
    sample.table[:, 1] = data.draw(st.lists(st.integers(0, 10**8 - 1), min_size=n, max_size=n))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sample.table[:, 7:] = np.stack([rng.uniform(-900, 900, n).round(d) for d in DECIMALS], 1)
    text = lsms.format_sample(sample)
    again = lsms.parse_sample(text.encode(), "out_1")
    np.testing.assert_array_equal(again.table, sample.table)
    np.testing.assert_array_equal(again.energies, sample.energies)
    assert (again.charge.tolist(), again.moment.tolist()) == (charge.tolist(), moment.tolist())
    assert (again.atomic_numbers.tolist(), again.pos.tolist()) == (z, pos.tolist())
    assert lsms.format_sample(again) == text


def test_fortrans_exponents_are_numbers() -> None:
    sample = lsms.new_sample("out_1", np.array([-1.5, 0.25, 1e-3]), np.array([26]), np.zeros((1, 3)), (np.ones(1),) * 2)
    expected = lsms.parse_sample(lsms.format_sample(sample).encode(), "out_1")
    words = [[f"{value:.12e}".replace("e", "D") for value in row] for row in (sample.energies, *sample.table)]
    text = "\n".join(" ".join(row) for row in words).encode()
    assert b"-1.500000000000D+00" in text and lsms.detect(text, "out_1")
    again = lsms.parse_sample(text, "out_1")
    np.testing.assert_array_equal(again.table, expected.table)
    np.testing.assert_array_equal(again.energies, expected.energies)
    with pytest.raises(UserError, match="line 2, column 1: '26D0' is not a number"):  # Fortran writes a point
        lsms.parse_sample(text.replace(words[1][0].encode(), b"26D0"), "out_1")


def test_folder_and_archives_give_the_same_samples(raw: Path, tmp_path: Path) -> None:
    expected = {s.name: lsms.format_sample(s) for s in lsms_samples(raw)}
    assert expected == {p.name: p.read_text() for p in raw.iterdir()}
    for mode in ("", "gz", "bz2", "xz"):
        archive = tmp_path / f"raw.tar.{mode}"
        with tarfile.open(archive, f"w:{mode}") as tar:  # type: ignore[call-overload]
            tar.add(raw, "inside")
        assert {s.name: lsms.format_sample(s) for s in lsms_samples(archive)} == expected


def test_a_folder_is_read_in_natural_order(raw: Path) -> None:
    names = [s.name for s in lsms_samples(raw)]
    assert names == [f"out_{k}" for k in range(len(names))]


GOOD = lsms.format_sample(
    lsms.new_sample("x", np.ones(3), np.array([26, 78]), np.eye(3)[:2], (np.array([26.5, 77.5]), np.zeros(2)))
)
LINES = GOOD.splitlines()
WORDS = LINES[2].split()
SECOND_ON_FIRST = (LINES[2], " ".join([*WORDS[:2], "1.0", "0.0", "0.0", *WORDS[5:]]))


def test_line_ends_of_other_systems_and_blank_lines_at_the_end_are_fine() -> None:
    expected = lsms.parse_sample(GOOD.encode(), "x").table
    for content in (GOOD.replace("\n", "\r\n"), GOOD.rstrip("\n"), GOOD + "\n \n"):
        np.testing.assert_array_equal(lsms.parse_sample(content.encode(), "x").table, expected)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 3)), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_damage_is_reported_or_read_as_python_reads_it(edits: list[tuple[int, bytes, int]]) -> None:
    content = bytearray(GOOD.encode())
    for at, new, removed in edits:
        content[at : at + removed] = new
    try:
        sample = lsms.parse_sample(bytes(content), "x")
    except UserError as error:
        assert str(error).startswith("x") and str(error).isprintable()
        return
    header, *lines = content.decode("ascii").rstrip().split("\n")
    assert sample.energies.tolist() == [float(word) for word in header.split()]
    assert sample.table.tolist() == [[float(word) for word in line.split()] for line in lines]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b" \n\n", "is empty (3 bytes)"),
        (b"\xff\xfe\x00binary", "line 1: byte 0xff is not text"),
        (GOOD.replace("77.500000", "77.5000µ", 1).encode(), "line 3: byte 0xc2 is not text"),
        (bytes(4096), "line 1: expected the total"),
        (b"1.0 2.0 nan\n", "line 1: expected the total"),
        (b"1.0 2.0 3.0 4.0\n", "line 1: expected the total"),
        (b"\x1b[31mnotes\n", "found '\\x1b[31mnotes'"),
        (b"some notes on the run\n", "line 1: expected the total"),
        (LINES[0].encode() + b"\n", "no atoms"),
        (GOOD[:-200].encode(), "columns, expected 18; the file is truncated"),
        (GOOD[:-200].encode() + bytes(200), "line 3, column"),
        (GOOD.replace("77.500000", "77.5-1.00").encode(), "line 3, column 6: '77.5-1.00' is not a number"),
        ((GOOD.rstrip().rsplit(" ", 1)[0] + " 1-1\n").encode(), "line 3, column 18: '1-1' is not a number"),
        (
            "\n".join([LINES[0], LINES[1], "", LINES[2]]).encode(),
            "line 3: 0 columns, expected 18; every line must be an atom",
        ),
        (GOOD.replace("78.", "nan", 1).replace("77.500000", "      nan").encode(), "line 3, column 6: nan"),
        (GOOD.replace("77.500000", "      inf").encode(), "line 3, column 6: inf"),
        (GOOD.replace("77.500000", "   gibber").encode(), "line 3, column 6: 'gibber'"),
        ((LINES[0] + "\n" + LINES[1] + " 1.0\n" + LINES[2] + "\n").encode(), "line 2: 19 columns, expected 18"),
        (GOOD.replace(" 26  ", "-26  ", 1).encode(), "line 2: -26 is not a proton number"),
        (GOOD.replace(" 26  ", "26.5 ", 1).encode(), "line 2: 26.5 is not a proton number"),
        (GOOD.replace(" 26  ", "  0  ", 1).encode(), "line 2: 0 is not a proton number"),
        (GOOD.replace(" 26  ", "119  ", 1).encode(), "line 2: 119 is not a proton number"),
        (
            "\n".join([LINES[0], LINES[1], LINES[1], ""]).encode(),
            "at the same position, [1.0, 0.0, 0.0]",
        ),
        (GOOD.replace("0.0000", "0.0001", 1).replace(*SECOND_ON_FIRST).encode(), "atoms 0 and 1 are at"),
    ],
)
def test_a_malformed_file_is_named_with_line_and_reason(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "out_1").write_bytes(GOOD.encode())
    (tmp_path / "out_2").write_bytes(content)
    with pytest.raises(MalformedError, match="out_2") as caught:
        sources.read(tmp_path, Options())
    assert message in str(caught.value) and "\n" not in str(caught.value)
    found = sources.read(tmp_path, Options(on_error="skip"))
    assert found.samples.names == ["out_1"]
    assert found.skipped.count == 1 and message in found.skipped.reasons[0]


def test_files_that_cannot_be_read_are_skipped_on_request(tmp_path: Path) -> None:
    (tmp_path / "out_1").write_text(GOOD)
    (tmp_path / "out_2").symlink_to("nowhere")
    (tmp_path / "README").write_text("notes on these runs\n")
    with pytest.raises(MalformedError, match="README, line 1"):
        sources.read(tmp_path, Options())
    found = sources.read(tmp_path, Options(on_error="skip"))
    assert found.samples.names == ["out_1"]
    assert found.skipped.count == 2 and "link to nowhere" in found.skipped.reasons[1]
    with pytest.raises(UserError, match="did you mean 'skip'"):
        sources.read(tmp_path, Options(on_error="skp"))


def test_many_failures_are_counted_and_the_first_few_shown(tmp_path: Path) -> None:
    for k in range(50):
        (tmp_path / f"out_{k}").write_text("broken\n" if k % 2 else GOOD)
    found = sources.read(tmp_path, Options(on_error="skip"))
    skipped = found.skipped
    assert len(found.samples.names) == 25
    assert skipped.count == 25 and len(skipped.reasons) == 5 and "out_1," in skipped.reasons[0]


def test_geometries_beyond_the_remembered_are_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_REMEMBERED", 2)
    check, good = frames.FrameCheck(), lsms.frame_of(lsms.parse_sample(GOOD.encode(), "x"), "x", "x")
    for k in range(5):
        check(replace(good, pos=good.pos + k))
    with pytest.raises(UserError, match="are at the same position"):
        check(replace(good, pos=np.ones((2, 3))))


def test_the_first_of_coinciding_atoms_are_named_however_many_there_are() -> None:
    sites = np.stack(np.meshgrid(*[np.arange(9.0)] * 3), axis=-1).reshape(-1, 3)
    sites[[300, 700]] = sites[[500, 299]]
    frame = frames.Frame("x", "x", "x", np.full(len(sites), 26), sites, np.zeros((3, 3)), None)
    with pytest.raises(UserError, match="atoms 299 and 700 are at the same position"):
        frames.FrameCheck()(frame)
    n = 3000
    tracemalloc.start()
    with pytest.raises(UserError, match="atoms 0 and 1 are at the same position"):
        frames.FrameCheck()(replace(frame, atomic_numbers=np.full(n, 26), pos=np.zeros((n, 3))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * n, "all pairs would take 72 MB"


def test_invalid_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        sources.read(tmp_path / "nowhere", Options())
    with pytest.raises(UserError, match="contains no files"):
        sources.read(tmp_path, Options())
    (tmp_path / "notes.tar").write_bytes(b"not an archive" * 100)
    with pytest.raises(UserError, match="not an archive"):
        sources.read(tmp_path / "notes.tar", Options())


@pytest.mark.realdata
@pytest.mark.slow
def test_all_real_files_come_back_byte_for_byte(real_archive: Path) -> None:
    count = 0
    with tarfile.open(real_archive, "r|*") as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                assert lsms.format_sample(lsms.parse_sample(content, member.name)).encode() == content
                count += 1
    assert count == 32_015
