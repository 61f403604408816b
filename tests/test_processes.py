"""Whether the process that a file names is the one that wrote it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydragnn_hpc import processes
from hydragnn_hpc.records.lock import ProcessIdentity
from tests.waiting import has_ended, wait_for

PRINT = "from hydragnn_hpc import processes; print(processes.identity().model_dump_json(), flush=True); input()"


def started() -> tuple[subprocess.Popen[str], ProcessIdentity]:
    """Start a process; return it with its identity."""
    process = subprocess.Popen([sys.executable, "-c", PRINT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, ProcessIdentity.model_validate_json(process.stdout.readline())


def test_a_process_lives_until_it_is_killed() -> None:
    process, identity = started()
    assert identity.pid == process.pid
    assert processes.lives(identity) is True
    process.kill()
    wait_for(lambda: has_ended(process.pid))
    assert processes.lives(identity) is False, "dead, but not yet reaped by its parent"
    process.wait()
    assert processes.lives(identity) is False


def test_a_number_alone_does_not_identify_a_process() -> None:
    me = processes.identity()
    assert processes.lives(me) is True
    assert processes.lives(me.model_copy(update={"started": "17"})) is False, "the number was used again"
    for unknown in ({"boot": "another"}, {"namespace": "a container's"}, {"boot": None}):
        assert processes.lives(me.model_copy(update=unknown)) is None, unknown
    assert processes.lives(ProcessIdentity(host=me.host, pid=os.getpid())) is None


def test_a_process_that_proc_hides_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    process, identity = started()
    with monkeypatch.context() as hidden:
        hidden.setattr(processes, "_stat", lambda pid: [])
        assert processes.lives(identity) is None
        process.kill()
        process.wait()
        assert processes.lives(identity) is False


@pytest.mark.parametrize(
    ("end", "words"),
    [("exit 3", "exit code 3"), ("kill -9 $$", "killed by signal 9 (SIGKILL)"), ("kill -40 $$", "killed by signal 40")],
)
def test_how_a_process_ended(end: str, words: str) -> None:
    assert processes.outcome(subprocess.run(["bash", "-c", end], check=False).returncode) == words


def test_nothing_is_known_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    me = processes.identity()
    processes._kernel.cache_clear()
    monkeypatch.setattr(processes, "_BOOT_ID", tmp_path / "nowhere")
    try:
        assert processes.identity() == ProcessIdentity(host=me.host, pid=me.pid)
        assert processes.lives(me) is None
    finally:
        processes._kernel.cache_clear()
