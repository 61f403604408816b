"""Status: its counts and rates, which members it shows as running, and what a terminal shows."""

from __future__ import annotations

import io
import json
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from hydragnn_hpc import processes
from hydragnn_hpc.atomic import write_json
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.member import Failures
from hydragnn_hpc.report.tables import status
from tests.member_records import a_failure, a_result
from tests.report import making

STATES = {"HM": "failed", "C/03": "diverged", "M": "waiting", "CM/01": "running", "CM/03": "interrupted"}


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A campaign at work."""
    return making.make(tmp_path / "live", replicas=4, samples=10, epochs=4, states=STATES)


def test_states_failures_and_the_running(live: Path) -> None:
    found, _ = status.read_status(live)
    expected = {"waiting": 4, "running": 1, "interrupted": 1, "finished": 17, "diverged": 1, "failed": 4}
    assert found.states == expected and found.members == 28 and found.active and not found.settled
    assert found.running["CM/01"].epoch == 17 and found.seconds_left == 5400.0
    assert [f.member for f in found.failures] == ["HM/00", "HM/01", "HM/02", "HM/03", "C/03"]
    assert found.failures[0].last_output == "slurmstepd: Detected 1 oom_kill event"
    assert found.failures[0].cause == "killed by signal 9 (SIGKILL)" and found.failures[0].attempts == 2
    assert "diverged" in found.failures[-1].cause


def test_members_of_a_run_that_is_gone_are_not_running(live: Path) -> None:
    shape = making.Shape(replicas=4, states=STATES)
    making.write_progress(CampaignFolder(live), shape, age=600)  # killed: no fresh progress
    stale, _ = status.read_status(live)
    making.write_progress(CampaignFolder(live), shape)
    CampaignFolder(live).lock.unlink()  # ended: no lock
    ended, _ = status.read_status(live)
    for found in (stale, ended):
        assert not found.active and "running" not in found.states and found.states["interrupted"] == 2
        assert found.seconds_left is None and found.worker_seconds_left is not None


def test_a_run_on_this_host_is_active_while_its_process_lives(live: Path) -> None:
    """However old its progress is; of a run on another host, the age of its progress decides."""
    shape, folder = making.Shape(replicas=4, states=STATES), CampaignFolder(live)
    dead = subprocess.Popen(["true"])
    while ") Z " not in Path(f"/proc/{dead.pid}/stat").read_text():  # dead, and not waited for
        time.sleep(0.01)
    me = {**processes.identity().model_dump(), "since": "2026-01-01 12:00:00", "token": "0" * 16, "beats": 3}
    for holder, age, active in (
        (me, 86400, True),
        (me, -86400, True),
        ({**me, "pid": dead.pid}, 0, False),
        ({**me, "started": "1"}, 0, False),  # its number is this process's now
        ({**me, "boot": "an earlier one"}, 90, False),  # of another host, or before a restart: clocks decide
        ({**me, "boot": "an earlier one"}, -90, False),
        ({**me, "boot": "an earlier one"}, 0, True),
        ({**me, "namespace": "of a container"}, 90, False),
    ):
        making.write_progress(folder, shape, age=age)
        folder.lock.write_text(json.dumps(holder))
        assert status.read_status(live)[0].active == active, (holder, age)
    dead.wait()
    making.write_progress(folder, shape)
    folder.lock.write_text(json.dumps({**me, "pid": dead.pid}))
    assert not status.read_status(live)[0].active


def test_the_rate_counts_members_that_this_run_finished(live: Path) -> None:
    started = datetime.now(UTC) - timedelta(hours=2)
    progress = json.loads((live / "progress.json").read_text())
    write_json(live / "progress.json", {**progress, "started": started.isoformat()})
    for replica in range(3):
        path = live / f"members/HCM/{replica:02d}/result.json"
        result = json.loads(path.read_text())
        result["sessions"][-1]["ended"] = (started + timedelta(minutes=20)).isoformat()
        write_json(path, result)
    found, _ = status.read_status(live)
    assert found.members_per_hour == pytest.approx(1.5, rel=1e-3)


def test_the_status_shows_states_counts_causes_and_the_time_left(live: Path) -> None:
    stream = io.StringIO()
    Console(file=stream, width=160).print(status.render(*status.read_status(live)))
    shown = stream.getvalue()
    assert "\x1b" not in shown
    for words in (
        "17 finished",
        "4 failed",
        "CM/01",
        "3 of 4",
        "0 of 4",
        "SIGKILL",
        "oom_kill",
        "time left: 1 h 30 min",
    ):
        assert words in shown, words


def test_lines_that_are_not_shown_are_counted(live: Path) -> None:
    found, snapshot = status.read_status(live)
    for number, counted in ((status.SHOWN, False), (status.SHOWN + 3, True)):
        found.unreadable = [f"H/{k:02d}: cannot read" for k in range(number)]
        stream = io.StringIO()
        Console(file=stream, width=160).print(status.render(found, snapshot))
        assert stream.getvalue().count("unreadable: ") == status.SHOWN
        assert ("and 3 more: status --json" in stream.getvalue()) == counted


def test_output_of_a_failed_program_cannot_paint_the_terminal(tmp_path: Path) -> None:
    evil = "[red]not markup[/red] \x1b]0;title\x07\x1b[2J"
    out = making.make(
        tmp_path / "x", variants=("H",), replicas=1, samples=10, states={"H": "failed"}, cause=evil, last_output=(evil,)
    )
    stream = io.StringIO()
    found, snapshot = status.read_status(out)
    snapshot.summary, snapshot.summary_problem = None, f"{evil} is missing"  # below Table 1
    snapshot.members[0].result = a_result()
    Console(file=stream, width=200, force_terminal=True).print(status.render(found, snapshot))
    assert "[red]not markup[/red]" in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue() and "\x1b[2J" not in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_follows_until_nothing_is_left(live: Path, terminal: bool) -> None:
    looks = []

    def finish_one(_: float) -> None:
        """Let the unsettled members of one variant fail for good, and those of the other before the next refresh."""
        looks.append(1)
        left = [("M", r) for r in range(4)] if len(looks) == 1 else [("CM", 1), ("CM", 3)]
        for variant, replica in left:
            folder = CampaignFolder(live).member(variant, replica)
            folder.make()
            write_record(folder.failure, Failures((a_failure(final=True),)))
        if len(looks) > 1:
            CampaignFolder(live).lock.unlink(missing_ok=True)
        assert len(looks) < 5, "watch does not end"

    stream = io.StringIO()
    last = status.watch(live, Console(file=stream, width=160, force_terminal=terminal), 0.0, finish_one)
    assert last.settled and last.states == {"finished": 17, "diverged": 1, "failed": 10}
    assert stream.getvalue().count("28 members") >= (1 if terminal else 3)


def test_the_time_left_of_one_worker_follows_from_finished_members(tmp_path: Path) -> None:
    out = making.make(
        tmp_path / "x", variants=("H", "C"), replicas=4, samples=10, states={"H/02": "waiting", "C": "waiting"}
    )
    seconds = [json.loads(p.read_text())["seconds"] for p in sorted(out.glob("members/H/*/result.json"))]
    found, _ = status.read_status(out)
    # One H, and four C, of which none has finished: all take the mean of H.
    assert found.worker_seconds_left == pytest.approx(5 * sum(seconds) / 3)


def test_ten_thousand_members_within_seconds(tmp_path: Path) -> None:
    out = making.make(tmp_path / "big", variants=("H", "C"), replicas=1, samples=10, arrays=False)
    content = (out / "campaign.yaml").read_text().replace("replicas: 1", "replicas: 5000")
    (out / "campaign.yaml").write_text(content)
    text = (out / "members/H/00/result.json").read_text()
    for replica in range(1, 5000):
        folder = out / "members" / "H" / f"{replica:02d}"
        folder.mkdir()
        (folder / "result.json").write_text(text)
    started = time.process_time()
    found, snapshot = status.read_status(out)
    assert found.states == {"waiting": 4999, "finished": 5001}
    assert time.process_time() - started < 4.0  # 1 s on a quiet machine
    started = time.process_time()
    status.read_status(out, snapshot)
    assert time.process_time() - started < 2.0
