"""Pipes that fail while members are trained: a worker that sends rubbish, and standard error without a reader."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.test_workers import failures
from tests.ranks import process_of

pytestmark = [pytest.mark.mpi, pytest.mark.long]
RUBBISH = {
    "garbage": b"\xff\x00\x80garbage\n",
    "a flood": b'{"kind": "alive"}\n' * (1 << 20),
    "a line without end": b"x" * (100 << 20),
}

PIECE = 227 * len(b'{"kind": "alive"}\n')  # whole lines, and no more than a pipe takes in one piece
PROMPT_SECONDS = 40.0  # for the end of a run after a signal


def pipe_of(worker: harness.Process) -> Path:
    """Return the pipe through which a worker sends its messages."""
    words = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode().split("\0")
    return Path(f"/proc/{worker.pid}/fd") / words[words.index("--out") + 1]


def pour(pipe: Path, sent: bytes, pause: float = 0.0) -> threading.Thread:
    """Write ``sent`` into ``pipe`` in the background, until its reader closes it; with a ``pause`` after each piece."""
    stream = pipe.open("wb", buffering=0)

    def write() -> None:
        # The rank closes its end in the middle of it.
        with contextlib.suppress(BrokenPipeError), stream:
            left = sent
            while left:
                left = left[stream.write(left[:PIECE] if pause else left) :]
                time.sleep(pause)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_from_a_training_worker_costs_one_attempt(arena, what: str) -> None:
    out = arena.folder / "out"
    launch = arena.launch(out)
    pour(pipe_of(launch.training_worker()), RUBBISH[what]).join()
    assert launch.end() == 0, launch.tail()
    arena.check_outcome(out)
    assert len({(f["rank"], f["cause"]) for f in failures(out)}) == 1, failures(out)
    harness.check_clean(arena, out)


@pytest.mark.parametrize("what", ["a flood", "a line without end", "a flood within the limits"])
def test_a_rank_hears_a_signal_during_a_flood(arena, fault_seed: int, what: str) -> None:
    """Everything is saved, and the same command is to be run again, as without the flood."""
    rng = random.Random(f"{fault_seed} {what}")
    out = arena.folder / "out"
    launch = arena.launch(out)
    worker = launch.training_worker()
    rank = process_of(out, launch.place_of(worker)[0])
    within = what == "a flood within the limits"  # it lasts until the run ends; the rank ends the others soon
    poured = pour(pipe_of(worker), RUBBISH["a flood" if within else what], pause=0.03 if within else 0.0)
    time.sleep(rng.uniform(0.0, 0.5 if within else 0.05))
    number = rng.choice([signal.SIGTERM, signal.SIGUSR2])
    os.kill(rank, number)
    assert launch.end(PROMPT_SECONDS) == 75, launch.tail()
    poured.join(PROMPT_SECONDS)
    assert f"{number.name} received" in launch.tail() and "Traceback" not in launch.tail(), launch.tail()
    assert any(out.glob("members/*/*/checkpoint.pt")) and not poured.is_alive()
    if within:
        assert not failures(out), failures(out)
    arena.recover(out)


@pytest.mark.parametrize("case", range(4))
def test_a_reader_of_standard_error_that_goes_changes_nothing(arena, fault_seed: int, case: int) -> None:
    """After some bytes of each rank's lines nobody reads them any more."""
    rng = random.Random(f"{fault_seed} {case}")
    wrapper = arena.folder / "wrapper.sh"
    wrapper.write_text(f'#!/bin/bash\nexec "$@" 2> >(exec head -c {rng.randrange(1500)} >&2)\n')
    wrapper.chmod(0o755)
    out = arena.folder / "out"
    assert arena.run(out, wrapper=wrapper) == 0, arena.last().tail()
    arena.check_outcome(out)
    harness.check_clean(arena, out)
