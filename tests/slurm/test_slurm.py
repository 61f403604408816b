"""The rendered job script under a real Slurm: to the end, through time limits, cancellation and a failing node."""

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
from tests.slurm.conftest import Place

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]
ONE = ("--nodes", "1")
"""For tests in which the ranks of a second node would tell nothing more."""


def finished(out: Path) -> int:
    """Return how many members have a result."""
    return len(list(out.glob("members/*/*/result.json")))


def runs(out: Path) -> int:
    """Return how many runs the chain has made."""
    return int(json.loads((out / "jobs" / "chain.json").read_text())["runs"])


def test_two_nodes_of_two_ranks_give_what_mpirun_gives(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = place.submit(out)
    place.wait_for_end(job, out)
    assert runs(out) == 1
    entry = json.loads((out / "jobs" / "submitted.jsonl").read_text())
    assert (entry["id"], entry["nodes"], entry["members_left"]) == (job, 2, 12)
    # One GPU per rank, a different one for each rank of a node.
    masks = [line.split() for line in (place.folder / "masks.txt").read_text().splitlines()]
    assert sorted((node, rank) for node, rank, _ in masks[:4]) == [("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")]
    assert sorted((node, gpu) for node, _, gpu in masks[:4]) == [("n1", "0"), ("n1", "1"), ("n2", "0"), ("n2", "1")]


def test_out_of_time_it_requeues_itself_until_done(place: Place, tmp_path: Path) -> None:
    """The time that cuts a run short in mid-training is found by trying: how long a start takes, no one can say."""
    seconds = place.seconds / 2
    for attempt in range(6):
        out = tmp_path / f"out-{attempt}"
        job = place.submit(out, *ONE, "--walltime", f"{seconds + 18:.0f}s")  # with what is kept back for saving
        state, text = place.end(job, out)
        if state == "FAILED" and "finished no epoch of any; ask for more time" in text:
            seconds += 3  # the promise of that line: it is not requeued forever
            continue
        place.wait_for_end(job, out)
        if runs(out) > 1:
            return
        seconds -= 2
    pytest.fail("no run was cut short while members trained")


def test_a_signal_ends_a_run_and_the_next_continues(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = place.submit(out, *ONE)
    place.wait(lambda: finished(out) > 0, "a first member", out)
    place.cluster.call("scancel", "--signal=USR2", job)
    place.wait_for_end(job, out)
    assert runs(out) == 2


def test_cancelled_then_submitted_again(place: Place, tmp_path: Path, fault_seed: int) -> None:
    out, members = tmp_path / "out", random.Random(fault_seed).randrange(1, 7)
    first = place.submit(out, *ONE)
    place.wait(lambda: finished(out) >= members, "finished members", out)
    place.cluster.call("scancel", first)
    place.wait(lambda: place.cluster.state(first) in ("CANCELLED", ""), "the cancellation", out)
    assert finished(out) < 12
    second = place.submit(out, *ONE)
    place.wait_for_end(second, out)
    left = [json.loads(line)["members_left"] for line in (out / "jobs" / "submitted.jsonl").read_text().splitlines()]
    assert left[0] == 12
    assert 0 < left[1] < 12


@pytest.mark.parametrize("how", [pytest.param("cancelled", marks=pytest.mark.long), "signalled"])
def test_a_job_that_begins_late_keeps_the_chain(place: Place, tmp_path: Path, fault_seed: int, how: str) -> None:
    """A job is ended at some moment; the next one's set-up takes most of its time, so that it can train nothing."""
    rng = random.Random(f"{fault_seed} {how}")
    out, late, site = tmp_path / "out", tmp_path / "late", tmp_path / "site.yaml"
    seconds = int(place.seconds) + 25
    # Of the time, 10 s are kept back for saving, and with 5 s left nothing is started.
    set_up = f"if [ -e {late} ]; then rm {late}; sleep {seconds - 14}; fi"
    site.write_text(place.site.read_text().replace("environment:\n", f"environment:\n  - {set_up}\n"))
    place = replace(place, site=site)
    job = place.submit(out, *ONE, "--walltime", f"{seconds}s")
    members, moment = rng.randrange(1, 7), rng.uniform(0.0, 1.0)
    place.wait(lambda: finished(out) >= members, "finished members", out)
    time.sleep(moment)
    late.touch()
    print(f"{how} {moment:.1f} s after {members} members")
    if how == "signalled":
        place.cluster.call("scancel", "--signal=USR2", job)
    else:
        place.cluster.call("scancel", job)
        place.wait(lambda: place.cluster.state(job) in ("CANCELLED", ""), "the cancellation", out)
        job = place.submit(out, *ONE, "--walltime", f"{seconds}s")
    text = place.wait_for_end(job, out)
    assert text.count("the job's set-up left too little time to train; it is run again") == 1, text
    assert runs(out) >= (3 if how == "signalled" else 2), text
    assert json.loads((out / "jobs" / "chain.json").read_text())["late"] == 0


def test_a_node_that_fails_in_mid_run(place: Place, tmp_path: Path) -> None:
    """Slurm ends the job and puts it back into the queue; with the node up again, it continues."""
    out = tmp_path / "out"
    job = place.submit(out)
    place.wait(lambda: finished(out) > 0, "a first member", out)
    place.cluster.call("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    place.wait(lambda: place.cluster.state(job) in ("PENDING", "COMPLETING", "NODE_FAIL"), "the end of the run", out)
    # Its daemon never went away, so the controller takes it back by itself (ReturnToService=2).
    place.wait_for_end(job, out)
    assert runs(out) == 2


def rank_amid_a_member(out: Path) -> int | None:
    """Return a rank other than 0 to which no message is under way: it was assigned a member a moment ago.

    MPICH over a network ends all ranks if a message to one is being sent when that one dies.
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
    ("controller", "signalled", "in_all"),
    [
        pytest.param(False, False, 1, id="others take over its members"),
        pytest.param(False, True, 2, id="ahead of messages to it", marks=pytest.mark.long),
        pytest.param(True, False, 2, id="the others end"),
    ],
)
def test_a_rank_that_is_killed(place: Place, tmp_path: Path, controller: bool, signalled: bool, in_all: int) -> None:
    """Slurm lets the other ranks go on."""
    out = tmp_path / "out"
    job = place.submit(out)
    place.wait(lambda: finished(out) > 0, "a first member", out)
    rank = 0 if controller else rank_amid_a_member(out)
    while rank is None:
        time.sleep(0.05)
        assert finished(out) < 12
        rank = rank_amid_a_member(out)
    os.kill(process_of(out, rank), signal.SIGKILL)
    if signalled:
        place.cluster.call("scancel", "--signal=USR2", job)
    text = place.wait_for_end(job, out)
    assert runs(out) == in_all, text
    assert "Traceback" not in text, text
