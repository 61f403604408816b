"""Signals to any process, at any moment: the same command again gives the same tables; no process outlives its run."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest

from tests.faults import harness
from tests.ranks import OVER_NETWORK, age, segments_of

pytestmark = pytest.mark.mpi

TARGETS = ("launcher", "rank", "worker", "group")
LONG_CASES = 56
DEADLY = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, "STOP then KILL")


def hurt(launch: harness.Launch, target: str, what: signal.Signals | str, rng: random.Random) -> str:
    """Send the signal; return the processes that it reached (empty if none of that role was alive)."""
    if target == "group":
        pids = [p.pid for p in harness.processes(launch.mark) if p.role != "worker"]
    else:
        alive = launch.of_role(target)
        pids = [rng.choice(alive).pid] if alive else []
    for number in (signal.SIGSTOP, signal.SIGKILL) if isinstance(what, str) else (what,):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.3 if number is signal.SIGSTOP else 0)
    return f"{target} {pids}" if pids else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each case: one round of `cases`, or all of them several times with ``--long``."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", range(LONG_CASES if metafunc.config.getoption("--long") else len(TARGETS)))


def cases(seed: int) -> list[tuple[str, signal.Signals | str]]:
    """Return every target with every signal, in random rounds of four: each has every target and every signal once."""
    rng = random.Random(seed)
    targets, signals = rng.sample(TARGETS, len(TARGETS)), rng.sample(DEADLY, len(DEADLY))
    return [(t, signals[(k + turn) % len(signals)]) for turn in range(len(signals)) for k, t in enumerate(targets)]


def test_any_signal_at_any_moment(arena, undisturbed, fault_seed: int, case: int) -> None:
    known = cases(fault_seed)
    target, what = known[case % len(known)]
    rng = random.Random(f"{fault_seed} {case}")
    out, moment = arena.folder / "out", rng.uniform(0.0, undisturbed.seconds)
    network = rng.random() < 0.5
    launch = arena.launch(out, environment=OVER_NETWORK if network else None)
    launch.let_run(moment)
    met = hurt(launch, target, what, rng)
    code = launch.end()
    assert (out / "report" / "table1.csv").exists() or code != 0, "exit code 0 without tables"
    way = "network" if network else "memory"
    print(f"{moment:5.2f} s  {way:8s}{what!s:15s} {met or target + ' (none alive)':24s} exit {code}")
    arena.recover(out)


def test_an_interrupt_while_ranks_start_leaves_none_waiting(arena) -> None:
    """For a short time one rank dies of the signal while another is inside MPI's initialisation."""
    for k in range(6):
        launch = arena.launch(arena.folder / f"out{k}")
        launch.let_run(0.45 + 0.06 * k)
        os.kill(launch.process.pid, signal.SIGINT)
        assert launch.end(30) != 0


def test_a_rank_that_ends_before_mpi_starts_is_not_waited_for(arena) -> None:
    """It exits without a signal, so the launcher ends no other rank; and MPI's start has no time limit of its own."""
    half = arena.folder / "half.sh"
    half.write_text('#!/bin/sh\n[ "$PMI_RANK" = 1 ] && exit 1\nexec "$@"\n')
    half.chmod(0o755)
    launch = arena.launch(arena.folder / "out", "--start-limit", "2s", wrapper=half)
    assert launch.end(30) != 0
    assert "MPI has not started within 2 s" in launch.tail()


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_finishes(arena, undisturbed, fault_seed: int) -> None:
    """Every launch is killed early; each gets a little further, because finished epochs are saved."""
    rng = random.Random(fault_seed + 1)
    out = arena.folder / "out"
    for _ in range(4):
        launch = arena.launch(out)
        launch.let_run(rng.uniform(0.4, 0.7) * undisturbed.seconds)
        hurt(launch, "launcher", signal.SIGKILL, rng)
        launch.end()
    arena.recover(out)


def test_a_requested_stop_saves_everything_and_asks_to_be_run_again(arena) -> None:
    out = arena.folder / "out"
    launch = arena.launch(out)
    launch.wait_for_file("checkpoint.pt")
    for rank in launch.of_role("rank"):
        os.kill(rank.pid, signal.SIGUSR2)
    assert launch.end() == 75, launch.tail()
    arena.recover(out)


def test_shared_memory_of_killed_ranks_goes_with_the_next_run(arena, undisturbed) -> None:
    """MPI leaves a segment if its ranks are killed as they start; one that is in use, or new, stays."""
    out = shutil.copytree(undisturbed.out, arena.folder / "out")
    names = [Path("/dev/shm") / f"mpich_shm_test{uuid.uuid4().hex}_{k}" for k in range(3)]
    abandoned, mapped, _ = names
    try:
        for path in names:
            path.write_bytes(bytes(4096))
        for path in (abandoned, mapped):
            os.utime(path, (0, time.time() - 3600))
        with mapped.open("r+b") as stream, mmap.mmap(stream.fileno(), 0):
            arena.finish(out)
            assert [path.exists() for path in names] == [False, True, True]
    finally:
        for path in names:
            path.unlink(missing_ok=True)


def test_a_killed_run_leaves_no_shared_memory_to_the_next(arena, undisturbed, fault_seed: int) -> None:
    """The run is killed at a random moment; the next one removes what its ranks left, and leaves nothing itself."""
    rng = random.Random(fault_seed)
    out = arena.folder / "out"
    launch = arena.launch(out)
    assert launch.wait_until(lambda: segments_of(p.pid for p in launch.of_role("rank"))), launch.tail()
    launch.let_run(rng.uniform(0.0, 0.5) * undisturbed.seconds)
    left = segments_of(p.pid for p in launch.of_role("rank"))
    launch.kill()
    assert left and all(path.exists() for path in left), "MPI leaves nothing: this test has lost its object"
    age(left)
    again = arena.launch(out)
    assert again.wait_until(lambda: segments_of(p.pid for p in again.of_role("rank"))), again.tail()
    own = segments_of(p.pid for p in again.of_role("rank"))
    assert again.end() == 0, again.tail()
    assert not [path for path in left | own if path.exists()]
    arena.check_outcome(out)
