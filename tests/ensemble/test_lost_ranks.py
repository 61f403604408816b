"""Ranks that fall silent, for good or for a while: their members go to others, and nobody waits for them for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hydragnn_hpc.ensemble.messenger import Alone, Roll
from tests.ranks import OVER_NETWORK, process_of

MPIRUN = Path(sys.executable).with_name("mpirun")
DRIVE = Path(__file__).with_name("drive.py")
MEMORY: dict[str, str] = {}


def called(roll: Roll, seconds: float) -> list[int]:
    """Call the roll all the time for ``seconds``; return who was lost."""
    lost, limit = [], time.monotonic() + seconds
    while time.monotonic() < limit:
        lost += roll.newly_lost()
        time.sleep(0.01)
    return lost


def test_silence_counts_only_while_one_listens() -> None:
    roll = Roll(Alone(), [1, 2], patience=0.5)
    assert called(roll, 0.2) == []
    time.sleep(1.0)  # held up, as by a file system
    assert roll.newly_lost() == []
    roll.hear(2)
    assert called(roll, 0.45) == [1]
    assert (roll.lost, roll.expected) == ({1}, [2])
    roll.gone.add(2)
    assert called(roll, 0.7) == [] and roll.expected == []


def test_who_cannot_be_reached_is_lost_at_once() -> None:
    messenger = Alone()
    roll = Roll(messenger, [1, 2], patience=100)
    messenger.unreachable.add(2)
    assert (roll.newly_lost(), roll.newly_lost(), roll.expected) == ([2], [], [1])


def wait_for(condition: Callable[[], object], seconds: float = 100.0) -> None:
    """Wait until something is so."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "never came"
        time.sleep(0.05)


@pytest.mark.mpi
@pytest.mark.parametrize("way", [MEMORY, OVER_NETWORK], ids=["memory", "network"])
@pytest.mark.parametrize("returns", [False, True], ids=["for good", "for a while"])
def test_a_rank_that_stands_still(small: Path, tmp_path: Path, way: dict[str, str], returns: bool) -> None:
    """Stopped, it takes no message, as a killed one that its launcher leaves alone; later, it may live after all."""
    out, stage, text = tmp_path / "out", tmp_path / "stage", (small / "campaign.yaml").read_text()
    stage.mkdir()
    (small / "many.yaml").write_text(text.replace("replicas: 2", "replicas: 4"))
    command = [str(MPIRUN), "-n", "4", sys.executable, str(DRIVE), str(small / "many.yaml"), str(out), str(stage)]
    times = {"DRIVE_BEAT_SECONDS": "0.02", "DRIVE_LOST_SECONDS": "3"}
    with (tmp_path / "said").open("w+") as said:
        run = subprocess.Popen(
            [*command, "good", "-", "1"], env={**os.environ, **way, **times}, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            wait_for(lambda: list(out.glob("members/*/*/result.json")))
            victim = process_of(out, "PMI_RANK", 2)
            os.kill(victim, signal.SIGSTOP)
            if returns:
                wait_for(lambda: "no longer answers" in (tmp_path / "said").read_text())
                os.kill(victim, signal.SIGCONT)
            else:  # its launcher would wait for it
                wait_for(lambda: "MPI_Abort" in (tmp_path / "said").read_text())
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            run.wait(60)  # with any code: launchers count ranks that an abort ends
        finally:
            run.kill()
        told = (tmp_path / "said").read_text()
    assert len(list(out.glob("members/*/*/result.json"))) == 12, told
    assert "Traceback" not in told and "12 of 12 members finished" in told, told
