"""Standard output and error that are full, closed, without a reader, or in an encoding that lacks a character."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hydragnn_hpc.streams import OptionalStream

SAY = "import sys; from hydragnn_hpc import streams; streams.prepare(); from hydragnn_hpc.logs import log; {}"


def python(code: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with its streams prepared, under a redirection of the shell."""
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, SAY.format(code)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2> >(exec true)", ">&- 2>&-", "<&- >&- 2>&-"])
def test_standard_error_that_cannot_be_written_changes_nothing(redirection: str, tmp_path: Path) -> None:
    done = python(
        f"[log('x' * 9999) for _ in range(50)]; open({str(tmp_path / 'end')!r}, 'w').write('here')", redirection
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "end").read_text() == "here"


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    done = python("import os; print(min(os.open('/dev/null', 0) for _ in range(3)) > 2)", "<&- 2>&-")
    assert done.stdout == "True\n"


def test_lines_that_nobody_reads_are_lost_after_a_single_delay() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        stream = OptionalStream(pipe, patience=0.05)
        for number in range(100):
            stream.write(f"{number:02d}" + "x" * 4000 + "\n")
        taken = bytearray()

        def read() -> None:
            while piece := os.read(reading, 65536):
                taken.extend(piece)

        reader = threading.Thread(target=read)
        reader.start()
        while b"again" not in taken:
            stream.write("again\n")
    reader.join()
    os.close(reading)
    lines = taken.decode().splitlines()
    whole = [line for line in lines if line.endswith("x" * 4000)]
    assert 10 < len(whole) < 30, "as much as the pipe holds"
    assert [line[:2] for line in whole] == [f"{n:02d}" for n in range(len(whole))]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "µ ≤ ± é ?\n"), ("latin-1", "µ <= ± é ?\n"), ("ascii", "u <= +- e ?\n"), ("cp437", "µ ≤ ± é ?\n")],
)
def test_characters_that_an_encoding_lacks_are_spelt_out(encoding: str, expected: str) -> None:
    text = "'\\u00b5 \\u2264 \\u00b1 \\u00e9 \\udcff'"
    for code, name in ((f"print({text})", "stdout"), (f"print({text}, file=sys.stderr)", "stderr")):
        done = subprocess.run(
            [sys.executable, "-c", SAY.format(code)],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        assert getattr(done, name).decode(encoding) == expected


def test_a_stream_without_a_descriptor_works_too() -> None:
    text = io.StringIO()
    OptionalStream(text).write("line\n")
    text.close()
    OptionalStream(text).write("dropped\n")
    assert OptionalStream(None).write("dropped") == 7


COMMANDS = [["--help"], ["data", "info", "small.bp"], ["data", "info", "small.bp", "--json"]]


@pytest.fixture(scope="module")
def folder(small_bp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``small.bp`` is a data set."""
    made = tmp_path_factory.mktemp("streams")
    (made / "small.bp").symlink_to(small_bp)
    return made


def command(folder: Path, words: list[str], redirection: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the program under a redirection of the shell."""
    line = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "hydragnn_hpc", *words]
    return subprocess.run(line, capture_output=True, cwd=folder, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_output_without_a_reader(folder: Path, words: list[str]) -> None:
    for redirection, code, said in (
        ("> >(exec true)", 141, b""),  # the reader is gone before Python has started
        (">/dev/full", 2, b"hydragnn-hpc: error: cannot write to standard output: No space left on device"),
        (
            ">&-",
            2,
            b"hydragnn-hpc: error: cannot write to standard output: it is closed; free space or write elsewhere\n",
        ),
        (">&- 2>&-", 2, b""),
    ):
        done = command(folder, words, redirection)
        assert done.returncode == code, (redirection, done.stderr)
        assert done.stderr.startswith(said) and b"Traceback" not in done.stderr and done.stderr.count(b"\n") < 2


def buffered() -> dict[str, str]:
    """This process's environment, with buffers for a child's output."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "> >(exec true)"])
def test_what_is_left_to_write_does_not_hide_an_error(redirection: str) -> None:
    code = """
import sys
from hydragnn_hpc.cli import main
from hydragnn_hpc.errors import UserError
def app(**options):
    print("a line")
    raise UserError("why")
main.app = app
main.main()
"""
    line = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, env=buffered())
    assert (done.returncode, done.stderr) == (2, b"hydragnn-hpc: error: why\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_commands_succeed_in_an_encoding_that_lacks_characters(folder: Path, encoding: str) -> None:
    for words in COMMANDS:
        done = command(folder, words, "", env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode(encoding).strip()


def test_what_a_library_prints_is_in_a_workers_log() -> None:
    code = """
import ctypes, runpy
from hydragnn_hpc import ledger
def read_frozen(folder):
    ctypes.CDLL(None).puts(b"from a library")
    raise ValueError("why")
ledger.read_frozen = read_frozen
runpy.run_module("hydragnn_hpc.member.worker", run_name="__main__", alter_sys=True)
"""
    reading, writing = os.pipe()
    options = {"campaign": "x", "staged": "x", "rank": 0, "local-rank": 0, "slot": 0, "in": reading, "out": writing}
    line = [sys.executable, "-c", code, *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(line, capture_output=True, env=buffered(), pass_fds=(reading, writing))
    os.close(reading)
    os.close(writing)
    assert (done.returncode, done.stdout) == (1, b"from a library\n"), done.stderr
