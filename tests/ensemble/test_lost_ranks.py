"""Ranks that fall silent, permanently or temporarily: others train their members, and none waits for them forever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydragnn_hpc.ensemble.messenger import RankMonitor, SoloMessenger
from tests import campaigns
from tests.ranks import DRIVE, OVER_NETWORK, process_of
from tests.waiting import wait_for

MPIRUN = Path(sys.executable).with_name("mpirun")
SHARED_MEMORY: dict[str, str] = {}


def lost_within(monitor: RankMonitor, seconds: float) -> list[int]:
    """Poll the monitor for ``seconds``; return the ranks that it considers lost."""
    lost, limit = [], time.monotonic() + seconds
    while time.monotonic() < limit:
        lost += monitor.newly_lost()
        time.sleep(0.01)
    return lost


def test_silence_counts_only_while_listening() -> None:
    monitor = RankMonitor(SoloMessenger(), [1, 2], patience=0.5)
    assert lost_within(monitor, 0.2) == []
    time.sleep(1.0)  # blocked, as by a slow file system
    assert monitor.newly_lost() == []
    monitor.record_message(2)
    assert lost_within(monitor, 0.45) == [1]
    assert (monitor.lost, monitor.expected) == ({1}, [2])
    monitor.departed.add(2)
    assert lost_within(monitor, 0.7) == [] and monitor.expected == []


def test_an_unreachable_rank_is_lost_at_once() -> None:
    messenger = SoloMessenger()
    monitor = RankMonitor(messenger, [1, 2], patience=100)
    messenger.unreachable.add(2)
    assert (monitor.newly_lost(), monitor.newly_lost(), monitor.expected) == ([2], [], [1])


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("transport", "returns"),
    [
        pytest.param(SHARED_MEMORY, False, id="shared memory, permanently"),
        pytest.param(SHARED_MEMORY, True, id="shared memory, temporarily", marks=pytest.mark.long),
        pytest.param(OVER_NETWORK, False, id="network, permanently", marks=pytest.mark.long),
        pytest.param(OVER_NETWORK, True, id="network, temporarily"),
    ],
)
def test_a_stopped_rank_is_lost(small: Path, tmp_path: Path, transport: dict[str, str], returns: bool) -> None:
    """A stopped rank receives no messages, like a killed one that its launcher ignores; but it may be resumed later."""
    out, stage = tmp_path / "out", tmp_path / "stage"
    stage.mkdir()
    (small / "many.yaml").write_text(campaigns.text(replicas=4))
    command = [str(MPIRUN), "-n", "4", sys.executable, str(DRIVE), str(small / "many.yaml"), str(out), str(stage)]
    times = {"DRIVE_BEAT_SECONDS": "0.02", "DRIVE_LOST_SECONDS": "3"}
    log_file = tmp_path / "output.txt"
    with log_file.open("w+") as log:
        run = subprocess.Popen(
            [*command, "good", "-", "1"], env={**os.environ, **transport, **times}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_for(lambda: list(out.glob("members/*/*/result.json")))
            victim = process_of(out, 2)
            os.kill(victim, signal.SIGSTOP)
            if returns:
                wait_for(lambda: "no longer answers" in log_file.read_text())
                os.kill(victim, signal.SIGCONT)
            else:  # killed, or the launcher would wait for it
                wait_for(lambda: "mpi_abort" in log_file.read_text().lower())  # as each MPI writes it
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            run.wait(60)  # the exit code may be any: launchers count ranks that an abort ends as failures
        finally:
            run.kill()
        output = log_file.read_text()
    assert len(list(out.glob("members/*/*/result.json"))) == 12, output
    assert "Traceback" not in output and "12 of 12 members finished" in output, output
