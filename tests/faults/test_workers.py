"""What can happen to a worker: it costs one attempt of what it trained, and is recorded with its cause."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults import harness

pytestmark = pytest.mark.mpi


def failures(out: Path) -> list[dict[str, Any]]:
    """Return every failed attempt of every member."""
    return [a for path in sorted(out.glob("members/*/*/failure.json")) for a in json.loads(path.read_text())]


def test_a_worker_that_is_killed_hangs_or_has_no_memory_costs_one_attempt(arena) -> None:
    """One of each in one run, on three ranks."""
    out = arena.folder / "out"
    launch = arena.launch(out, "--set", "launch.silence_seconds=6", ranks=3)
    starved = launch.beginning_worker()  # later it may need no more memory than it has
    limit = 1 << 20  # far below what it has already: its next allocation fails
    resource.prlimit(starved.pid, resource.RLIMIT_AS, (limit, limit))
    killed, hanging = launch.training_workers(2)
    os.kill(hanging.pid, signal.SIGSTOP)
    os.kill(killed.pid, signal.SIGKILL)
    assert launch.end() == 0, launch.tail()
    arena.check_outcome(out)
    causes = sorted(f["cause"] for f in failures(out))
    assert len(causes) == 3 and {"killed by signal 9 (SIGKILL)", "silent for 6 s"} < set(causes), causes
    harness.check_clean(arena, out)


def test_a_member_killed_at_every_attempt_is_given_up_and_the_others_finish(arena) -> None:
    """Each worker that trains M is killed at once; the other variants finish, and a later run trains M too."""
    out = arena.folder / "out"
    launch = arena.launch(out, "--set", "launch.attempts=2")

    killed: set[tuple[tuple[int, ...], int]] = set()  # place, and number of the assignment

    def kill_whoever_begins_m() -> bool:
        for worker in launch.of_role("worker"):
            place = launch.place_of(worker)
            names, number = launch.assigned(place)
            if names and names[0][0] == "M" and (place, number) not in killed:
                killed.add((place, number))
                os.kill(worker.pid, signal.SIGKILL)
        return False

    launch.wait_until(kill_whoever_begins_m)
    assert launch.end() == 1, launch.tail()
    shown = harness.status(out)["states"]
    assert shown["finished"] == 4 and shown["failed"] == 2, shown
    assert "SIGKILL" in launch.tail(400)
    arena.recover(out)


def test_a_member_that_diverges_is_a_result_of_its_own(arena) -> None:
    """A loss weight that overflows makes one variant diverge; the other is not affected."""
    content = yaml.safe_load(arena.campaign.read_text())
    content["variants"] = ["M", {"name": "wild", "tasks": ["C"], "weights": {"C": 3.0e38}}]
    arena.campaign = arena.campaign.with_name("wild.yaml")
    arena.campaign.write_text(yaml.safe_dump(content))
    out = arena.folder / "out"
    assert arena.run(out, ranks=1) == 1, arena.last().tail()
    states = harness.status(out)["states"]
    assert states == {"finished": 2, "diverged": 2}, states
    rows = [row.split(",") for row in (out / "report" / "table1.csv").read_text().splitlines()]
    wild = next(row for row in rows if row[0] == "wild")
    assert wild[2:4] == ["0", "2"] and not any(wild[4:6]), rows
    assert not failures(out), "a diverged member was retried"
    events = (out / "logs" / "events.jsonl").read_text()
    assert arena.run(out, ranks=1) == 1
    again = (out / "logs" / "events.jsonl").read_text().removeprefix(events)
    assert again and '"assign"' in events and '"assign"' not in again, "diverged members were trained again"
