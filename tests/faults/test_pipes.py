"""Pipes that are spoilt while members are trained: a worker's messages, and the reader of standard error."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.test_workers import failures

pytestmark = [pytest.mark.mpi, pytest.mark.long]
SPOILT = {
    "garbage": b"\xff\x00\x80garbage\n",
    "a flood": b'{"kind": "alive"}\n' * (1 << 20),
    "a line without end": b"x" * (100 << 20),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_a_training_worker_should_not_send_costs_one_attempt(arena, what: str) -> None:
    out = arena.folder / "out"
    launch = arena.launch(out)
    worker = launch.training_worker()
    words = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode().split("\0")
    pipe = Path(f"/proc/{worker.pid}/fd") / words[words.index("--out") + 1]
    # The rank closes its end in the middle of it.
    with contextlib.suppress(BrokenPipeError), pipe.open("wb", buffering=0) as stream:
        sent = SPOILT[what]
        while sent:
            sent = sent[stream.write(sent) :]
    assert launch.end() == 0, launch.tail()
    arena.check_outcome(out)
    assert len({(f["rank"], f["cause"]) for f in failures(out)}) == 1, failures(out)
    harness.check_clean(arena, out)


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
