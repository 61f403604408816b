"""A rank that is stopped, considered lost, and wakes up: its worker writes nothing to members that others have now."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from hydragnn_hpc.ownership import read_claim
from hydragnn_hpc.paths import MemberFolder
from tests.faults import harness
from tests.ranks import DRIVE, process_of
from tests.waiting import has_ended, wait_for

pytestmark = pytest.mark.mpi

LOST_SECONDS = 3
WAKES = ("another trains its member", "its member is finished", "all members are finished")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case; with ``--long``, each moment of waking, and a worker that stops with its claim locked."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", [*range(len(WAKES)), "locked"] if metafunc.config.getoption("--long") else [0])


def test_the_worker_of_a_lost_rank_writes_nothing_more(arena, fault_seed: int, case: int | str) -> None:
    """Rank 1 and its worker are stopped in the middle of a member, which rank 0 then trains; then both are resumed."""
    rng = random.Random(f"{fault_seed} {case}")
    wakes = WAKES[1] if case == "locked" else random.Random(fault_seed).sample(WAKES, len(WAKES))[int(case)]
    out, wrapper = arena.folder / "out", arena.folder / "drive.sh"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {DRIVE} "$3" "$4" "$6"\n')
    wrapper.chmod(0o755)
    times = {"DRIVE_BEAT_SECONDS": "0.1", "DRIVE_LOST_SECONDS": str(LOST_SECONDS)}
    launch = arena.launch(out, wrapper=wrapper, environment=times)
    number, epochs = rng.randrange(1, 3), rng.randrange(1, 40)
    worker, member = amid_a_member(launch, number, epochs)
    rank = process_of(out, 1)
    os.kill(rank, signal.SIGSTOP)
    stop(worker, locked=case == "locked")
    assert not member.result.exists(), "stopped too late"
    print(f"stopped after epoch {epochs} of {member.root.relative_to(out)}, resumed when {wakes}")
    wait_until(wakes, launch, member)
    before = content(out)
    for pid in (worker, rank):  # the worker first, before its rank could end it
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: has_ended(worker))
    launch.end()  # with any exit code: MPI ends all ranks where one of them was lost

    if wakes != "all members are finished":  # else MPI has killed its rank, and the system ends a stopped orphan
        assert "writes nothing more" in (out / "logs" / "worker-0001-0.txt").read_text()
    assert content(out).items() >= before.items(), "a finished member's files have changed"
    assert "Traceback" not in launch.tail(1000), launch.tail(1000)
    result = json.loads(member.result.read_text())
    assert (result["sessions"][-1]["rank"], result["attempt"]) == (0, 2), result
    check_epochs(out)
    harness.check_files(out)
    if wakes == "all members are finished":
        arena.finish(out)  # the system may have ended the worker while it wrote: the next run removes that file
    else:
        harness.check_clean(arena, out)
    arena.check_outcome(out)


def amid_a_member(launch: harness.Launch, number: int, epochs: int) -> tuple[int, MemberFolder]:
    """Wait until rank 1 has trained ``epochs`` of its ``number``-th member or a later one; return worker and member."""
    found: list[tuple[int, MemberFolder]] = []

    def look() -> bool:
        names, assigned = launch.assigned((1, 0))
        members = [MemberFolder(launch.out, *name) for name in names]
        workers = [worker.pid for worker in launch.of_role("worker") if launch.place_of(worker) == (1, 0)]
        found[:] = [(w, m) for w in workers for m in members if len(epochs_of(m)) >= epochs and not m.result.exists()]
        return bool(found) and assigned >= number

    assert launch.wait_until(look), launch.tail()
    return found[0]


def stop(worker: int, locked: bool) -> None:
    """Stop a worker; with ``locked``, at a moment at which it holds its claim to put a file into place."""
    os.kill(worker, signal.SIGSTOP)
    while locked and f" WRITE {worker} " not in Path("/proc/locks").read_text():
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.001)
        os.kill(worker, signal.SIGSTOP)


def wait_until(wakes: str, launch: harness.Launch, member: MemberFolder) -> None:
    """Wait for the moment at which rank 1 is to wake up."""
    claim = read_claim(member)
    if wakes == "another trains its member":
        wait_for(lambda: read_claim(member) not in (claim, None))
    elif wakes == "its member is finished":
        wait_for(lambda: member.result.exists() and not member.claim.exists())
    else:
        wait_for(lambda: "6 of 6 members finished" in launch.tail())


def epochs_of(member: MemberFolder) -> list[int]:
    """Return the epochs in a member's history, in its order."""
    text = member.history.read_text() if member.history.exists() else ""
    return [int(row["epoch"]) for row in csv.DictReader(text.splitlines())]


def check_epochs(out: Path) -> None:
    """Check that every member's history has each epoch once: it is not one of two attempts."""
    for path in out.glob("members/*/*"):
        epochs = epochs_of(MemberFolder(out, path.parent.name, int(path.name)))
        assert epochs == list(range(1, len(epochs) + 1)), path


def content(out: Path) -> dict[str, tuple[int, bytes]]:
    """Return the inode and the bytes of every file of every finished member."""
    folders = [path.parent for path in out.glob("members/*/*/result.json") if not (path.parent / "claim.json").exists()]
    return {str(p): (p.stat().st_ino, p.read_bytes()) for folder in folders for p in folder.iterdir()}
