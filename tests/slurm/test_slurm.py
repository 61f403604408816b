"""The rendered job script under a real Slurm: time limits, signals, cancellation, killed ranks and a failing node."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.ranks import process_of
from tests.slurm.conftest import SlurmSetup

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]
ONE_NODE = ("--nodes", "1")
"""Options of tests that need no second node."""
MEMBERS = 12
"""In the campaign."""


def finished(out: Path) -> int:
    """Return how many members have a result."""
    return len(list(out.glob("members/*/*/result.json")))


def runs(out: Path) -> int:
    """Return how many runs the chain has made."""
    return int(json.loads((out / "jobs" / "chain.json").read_text())["runs"])


def test_two_nodes_of_two_ranks_give_what_mpirun_gives(slurm: SlurmSetup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = slurm.submit(out)
    slurm.wait_for_end(job, out)
    assert runs(out) == 1
    entry = json.loads((out / "jobs" / "submitted.jsonl").read_text())
    assert (entry["id"], entry["nodes"], entry["members_left"]) == (job, 2, MEMBERS)
    # One GPU per rank, a different one for each rank of a node.
    masks = [line.split() for line in (slurm.folder / "masks.txt").read_text().splitlines()]
    assert sorted((node, rank) for node, rank, _ in masks[:4]) == [("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")]
    assert sorted((node, gpu) for node, _, gpu in masks[:4]) == [("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")]


def test_out_of_time_it_requeues_itself_until_done(slurm: SlurmSetup, tmp_path: Path) -> None:
    """The time limit that cuts a run short while it trains is found by trial, since starts vary in length."""
    seconds = slurm.seconds / 2
    for attempt in range(6):
        out = tmp_path / f"out-{attempt}"
        job = slurm.submit(out, *ONE_NODE, "--walltime", f"{seconds + 18:.0f}s")  # 18 s for the start and for saving
        state, text = slurm.end(job, out)
        if state == "FAILED" and "finished no epoch of any; ask for more time" in text:
            seconds += 3  # too short: such a job is rightly not requeued
            continue
        slurm.wait_for_end(job, out)
        if runs(out) > 1:
            return
        seconds -= 2  # too long: all members were trained in one run
    pytest.fail("no run was cut short while members trained")


def test_a_signal_ends_a_run_and_the_next_continues(slurm: SlurmSetup, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = slurm.submit(out, *ONE_NODE)
    slurm.wait(lambda: finished(out) > 0, "a first member", out)
    slurm.cluster.call("scancel", "--signal=USR2", job)
    slurm.wait_for_end(job, out)
    assert runs(out) == 2


def test_cancelled_then_submitted_again(slurm: SlurmSetup, tmp_path: Path, fault_seed: int) -> None:
    out, members = tmp_path / "out", random.Random(fault_seed).randrange(1, 7)
    first = slurm.submit(out, *ONE_NODE)
    slurm.wait(lambda: finished(out) >= members, "finished members", out)
    slurm.cluster.call("scancel", first)
    slurm.wait(lambda: slurm.cluster.state(first) in ("CANCELLED", ""), "the cancellation", out)
    assert finished(out) < MEMBERS
    second = slurm.submit(out, *ONE_NODE)
    slurm.wait_for_end(second, out)
    left = [json.loads(line)["members_left"] for line in (out / "jobs" / "submitted.jsonl").read_text().splitlines()]
    assert left[0] == MEMBERS
    assert 0 < left[1] < MEMBERS


@pytest.mark.parametrize("how", [pytest.param("cancelled", marks=pytest.mark.long), "signalled"])
def test_a_slow_set_up_does_not_end_the_chain(slurm: SlurmSetup, tmp_path: Path, fault_seed: int, how: str) -> None:
    """A job is ended at a random moment; the next one's set-up takes most of its time, so that it cannot train."""
    rng = random.Random(f"{fault_seed} {how}")
    out, late, site = tmp_path / "out", tmp_path / "late", tmp_path / "site.yaml"
    seconds = int(slurm.seconds) + 25
    # The last 10 s of a job are for saving; with less than 5 s left before them, nothing is started.
    set_up = f"if [ -e {late} ]; then rm {late}; sleep {seconds - 14}; fi"
    site.write_text(slurm.site.read_text().replace("environment:\n", f"environment:\n  - {set_up}\n"))
    slurm = replace(slurm, site=site)
    job = slurm.submit(out, *ONE_NODE, "--walltime", f"{seconds}s")
    members, moment = rng.randrange(1, 7), rng.uniform(0.0, 1.0)
    slurm.wait(lambda: finished(out) >= members, "finished members", out)
    time.sleep(moment)
    late.touch()
    print(f"{how} {moment:.1f} s after {members} members")
    if how == "signalled":
        slurm.cluster.call("scancel", "--signal=USR2", job)
    else:
        slurm.cluster.call("scancel", job)
        slurm.wait(lambda: slurm.cluster.state(job) in ("CANCELLED", ""), "the cancellation", out)
        job = slurm.submit(out, *ONE_NODE, "--walltime", f"{seconds}s")
    text = slurm.wait_for_end(job, out)
    assert text.count("the job's set-up left too little time to train; it is run again") == 1, text
    assert runs(out) >= (3 if how == "signalled" else 2), text
    assert json.loads((out / "jobs" / "chain.json").read_text())["late"] == 0


def test_a_node_that_fails_during_a_run(slurm: SlurmSetup, tmp_path: Path) -> None:
    """Slurm ends the job and requeues it; once the node is up again, the job continues."""
    out = tmp_path / "out"
    job = slurm.submit(out)
    slurm.wait(lambda: finished(out) > 0, "a first member", out)
    slurm.cluster.call("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    slurm.wait(lambda: slurm.cluster.state(job) in ("PENDING", "COMPLETING", "NODE_FAIL"), "the end of the run", out)
    # Its daemon is still running, so the controller takes the node back (ReturnToService=2).
    slurm.wait_for_end(job, out)
    assert runs(out) == 2


def rank_in_training(out: Path) -> int | None:
    """Return a rank other than 0 that was assigned a member a moment ago, so that no message to it is being sent.

    MPICH over a network ends all ranks if one dies while a message to it is being sent.
    """
    latest = {}
    for event in map(json.loads, (out / "logs" / "events.jsonl").read_text().splitlines()):
        if event["event"] in ("assign", "done"):
            latest[event["rank"]] = event
    now = datetime.now(UTC)
    for rank, event in latest.items():
        age = (now - datetime.fromisoformat(event["time"])).total_seconds()
        if rank and event["event"] == "assign" and 0.2 < age < 0.4:
            return int(rank)
    return None


@pytest.mark.parametrize(
    ("controller", "signalled", "n_runs"),
    [
        pytest.param(False, False, 1, id="others take over its members"),
        pytest.param(False, True, 2, id="while a message to it is sent", marks=pytest.mark.long),
        pytest.param(True, False, 2, id="the others end"),
    ],
)
def test_a_killed_rank(slurm: SlurmSetup, tmp_path: Path, controller: bool, signalled: bool, n_runs: int) -> None:
    """Slurm lets the other ranks continue."""
    out = tmp_path / "out"
    job = slurm.submit(out)
    slurm.wait(lambda: finished(out) > 0, "a first member", out)
    rank = 0 if controller else rank_in_training(out)
    while rank is None:
        time.sleep(0.05)
        assert finished(out) < MEMBERS
        rank = rank_in_training(out)
    os.kill(process_of(out, rank), signal.SIGKILL)
    if signalled:
        slurm.cluster.call("scancel", "--signal=USR2", job)
    text = slurm.wait_for_end(job, out)
    assert runs(out) == n_runs, text
    assert "Traceback" not in text, text
