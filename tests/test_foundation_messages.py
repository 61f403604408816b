"""What a user reads: errors in one line, exit codes, and progress lines in a batch log."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragnn_hpc import logs
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import ExitCode, UserError, nearest


def test_one_thing_is_singular() -> None:
    assert [counted(n, "node") for n in (0, 1, 2, 1_200)] == ["0 nodes", "1 node", "2 nodes", "1,200 nodes"]
    assert [counted(n, "geometry", "geometries") for n in (1, 2)] == ["1 geometry", "2 geometries"]


@given(st.text())
def test_an_error_is_always_one_line(text: str) -> None:
    error = UserError(text)
    assert len(str(error).splitlines()) <= 1
    assert error.exit_code is ExitCode.USAGE


def test_a_path_is_shown_as_it_is() -> None:
    assert str(UserError("cannot read 'two  spaces\t.xyz':\n  it is\r\n  damaged\n")) == (
        "cannot read 'two  spaces\\t.xyz': it is damaged"
    )


def test_exit_codes_are_those_of_the_readme() -> None:
    assert {c.name: int(c) for c in ExitCode} == {
        "DONE": 0, "MEMBERS_FAILED": 1, "USAGE": 2, "AGAIN": 75, "INTERRUPTED": 130, "READER_GONE": 141,
    }  # fmt: skip


def test_the_nearest_word_is_proposed() -> None:
    assert nearest("epoch", ["epochs", "batch_size"]) == "; did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("fe", ["Xe", "Fe"]) == "; did you mean 'Fe'?"
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize(
    "line", ["from hydragnn_hpc.logs import log; log('x')", "from hydragnn_hpc.cli.main import main; main()"]
)
def test_lines_come_in_one_piece(line: str) -> None:
    """A launcher merges the ranks' output write by write: a line in two writes may be mixed with another rank's."""
    reader, writer = os.pipe2(os.O_DIRECT)  # a read returns one write
    subprocess.run([sys.executable, "-u", "-c", line, "no-such-command"], stderr=writer, check=False, timeout=60)
    os.close(writer)
    assert os.read(reader, 4096).endswith(b"\n")
    assert os.read(reader, 4096) == b""
    os.close(reader)


def test_a_batch_log_gets_lines_not_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.progress("reading", "files", every=0.0) as update:
        update(1, 1000)
        update(1000, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d reading: 1 of 1,000 files", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d reading: 1,000 of 1,000 files in \d+\.\d s", lines[-1])


def test_an_unknown_total_is_left_out_and_no_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.progress("reading", "files", every=1e9) as update:
        update(12, 0)
    assert re.search(r"reading: 12 files in", capsys.readouterr().err)
    with logs.progress("reading", "files"):
        logs.log("between")
    assert capsys.readouterr().err.splitlines()[0].endswith("between")
