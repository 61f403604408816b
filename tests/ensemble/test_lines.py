"""Lines over pipes: whole, in order, bounded; and neither end waits for the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragnn_hpc.ensemble.lines import BadLinesError, LineLimits, LineReader, LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the end to read, the end to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=20), st.integers(1, 30))
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], size: int) -> None:
    source, sink = os.pipe()
    sent, received = b"".join(line + b"\n" for line in lines), []
    reader = LineReader(source, LineLimits())
    for start in range(0, len(sent), size):
        os.write(sink, sent[start : start + size])
        received += reader.read()
    assert received == lines and not reader.ended
    os.close(sink)
    assert reader.read() == [] and reader.ended
    os.close(source)


def test_one_read_is_bounded(pipe: tuple[int, int]) -> None:
    """A pipe that is flooded is read in turn with the others."""
    source, sink = pipe
    writer, reader = LineWriter(sink), LineReader(source, LineLimits(lines_per_second=10**9))
    writer.write(b"x\n" * (1 << 20))
    assert writer.blocked_seconds > 0
    assert 0 < len(reader.read()) <= 1 << 16
    writer.write(b"")
    assert len(reader.read()) > 0


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"x" * 11, "a line of more than 10 bytes, b'x"),
        (b"x" * 11 + b"\nx\n", "a line of more than 10 bytes, b'x"),
        (b"x\nxxxxx\n" + b"y" * 11, "a line of more than 10 bytes, b'y"),
        (b"x\n" * 6, "more than 5 lines per second"),
    ],
)
def test_what_exceeds_a_limit_is_refused(pipe: tuple[int, int], sent: bytes, message: str) -> None:
    source, sink = pipe
    os.write(sink, sent)
    with pytest.raises(BadLinesError, match=message):
        LineReader(source, LineLimits(line_bytes=10, lines_per_second=5)).read()


def test_unread_lines_wait_and_are_dropped_once_the_reader_has_gone() -> None:
    source, sink = os.pipe()
    writer, reader = LineWriter(sink), LineReader(source, LineLimits(lines_per_second=10**9))
    sent, received = b"0123456789\n" * 20_000, 0
    writer.write(sent)
    while received < 20_000:
        received += len(reader.read())
        writer.write(b"")
    assert writer.blocked_seconds == 0
    writer.write(sent)
    os.close(source)
    writer.write(b"")
    assert writer.blocked_seconds == 0
    os.close(sink)
