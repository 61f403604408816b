"""Supervisors on real MPI ranks, with workers that fail on demand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import campaigns
from tests.ranks import DRIVE, OVER_NETWORK

pytestmark = pytest.mark.mpi
MPIRUN = Path(sys.executable).with_name("mpirun")


def drive(
    small: Path, out: Path, ranks: int, *worker: str, campaign: str = "campaign.yaml"
) -> subprocess.CompletedProcess[str]:
    """Run a campaign of ``small`` with the stand-in; with ``ranks=0``, without a launcher."""
    stage = out.parent / "stage"
    stage.mkdir(exist_ok=True)
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks else []
    command = [*launcher, sys.executable, str(DRIVE), str(small / campaign), str(out), str(stage), *worker]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert not list(stage.iterdir()), "node-local copies were left"
    return done


@pytest.mark.parametrize(
    "ranks", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 4]
)
def test_all_members_are_trained_on_any_number_of_ranks(small: Path, tmp_path: Path, ranks: int) -> None:
    done = drive(small, tmp_path / "out", ranks, "good", "-", "0.05")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("members/*/*/result.json"))) == 6
    supervisors = re.findall(r"SUPERVISOR peak (\d+) MiB heavy (\[.*\])", done.stdout)
    assert len(supervisors) == max(ranks, 1)
    for peak, heavy in supervisors:
        assert int(peak) < 120 and heavy == "[]", done.stdout
    again = drive(small, tmp_path / "out", 0, "hopeless", "-", "0")
    assert again.returncode == 0, "finished members were not left alone"


def test_the_end_reaches_every_rank_over_a_network(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_form: bool
) -> None:
    """There is no shared memory, and all ranks send messages without a pause, even at the end."""
    for name, value in {**OVER_NETWORK, "DRIVE_BEAT_SECONDS": "0"}.items():
        monkeypatch.setenv(name, value)
    for attempt in range(3 if long_form else 1):
        done = drive(small, tmp_path / f"out{attempt}", 4, "good", "-", "0.01")
        assert done.returncode == 0, done.stderr
        assert "MPI error" not in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_crash_costs_its_member_alone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = drive(small, out, 2, "crash", "H", "0.05")
    assert done.returncode == 1, done.stderr
    assert {p.parts[-3] for p in out.glob("members/*/*/result.json")} == {"HCM", "M"}
    for replica in ("00", "01"):
        attempts = json.loads((out / "members" / "H" / replica / "failure.json").read_text())
        assert [a["cause"] for a in attempts] == ["killed by signal 11 (SIGSEGV)"] * 2
        assert [a["final"] for a in attempts] == [False, True]
        assert "about to crash" in attempts[-1]["last_output"]
    rows = [row.split(",") for row in (out / "report" / "table1.csv").read_text().splitlines()]
    assert {row[0]: row[2:4] for row in rows[1:] if "no network" not in row[0]} == {
        "HCM": ["2", "2"],
        "H": ["0", "2"],
        "M": ["2", "2"],
    }
    again = drive(small, out, 0, "good", "-", "0.05")
    assert again.returncode == 0, "members given up by an earlier run were not tried again"


def test_the_end_of_training_without_a_result_is_a_failure(small: Path, tmp_path: Path) -> None:
    done = drive(small, tmp_path / "out", 0, "forgets", "H", "0.05")
    assert done.returncode == 1 and "there is no result; given up" in done.stderr, done.stderr
    records = list((tmp_path / "out/members").glob("*/*/failure.json"))
    assert {path.parent.parent.name for path in records} == {"H"} and len(records) == 2


@pytest.mark.parametrize("what", ["speechless", "returns"])
def test_a_member_that_is_finished_on_disk_is_finished(small: Path, tmp_path: Path, what: str) -> None:
    """Its worker ends before it can report it: no attempt is lost, and the member is not trained again."""
    launch = {**campaigns.SMALL["launch"], "attempts": 1, "stack": 2}
    (small / "stacks.yaml").write_text(campaigns.text(launch=launch))
    out = tmp_path / "out"
    done = drive(small, out, 0, what, "H", "0.05", campaign="stacks.yaml")
    assert done.returncode == 0, done.stderr
    assert "6 of 6 members finished" in done.stderr and not list(out.glob("members/*/*/failure.json"))
    events = [json.loads(line) for line in (out / "logs" / "events.jsonl").read_text().splitlines()]
    assert sum(e["event"] == "assign" and e["variant"] == "H" for e in events) == 1
    assert sum(e["event"] == "finished" for e in events) == 6


def test_a_silent_worker_is_ended(small: Path, tmp_path: Path) -> None:
    launch = {**campaigns.SMALL["launch"], "silence_seconds": 2, "attempts": 1}
    (small / "silent.yaml").write_text(campaigns.text(launch=launch))
    done = drive(small, tmp_path / "out", 0, "silent", "M", "0.05", campaign="silent.yaml")
    assert done.returncode == 1
    attempts = json.loads((tmp_path / "out" / "members" / "M" / "00" / "failure.json").read_text())
    assert attempts[-1]["cause"] == "silent for 2 s"


CAUSES = {
    "garbage": r"sent a line that is not an event, b'\\xff\\x00\\x80garbage'",
    "number": "sent a line that is not an event, b'17'",
    "unknown": "sent a line that is not an event, .*gossip",
    "incomplete": "sent a line that is not an event, .*finished",
    "long": r"sent a line of more than 4,194,304 bytes, b'xxxx.*\.\.\.",
    "no-newline": "silent for 3 s",
    "flood": "sent more than 10,000 lines per second",
}
"""The cause of failure that is recorded for each of the stand-in's bad lines."""


def test_bad_lines_cost_their_worker_alone(small: Path, tmp_path: Path) -> None:
    launch = {**campaigns.SMALL["launch"], "silence_seconds": 3, "attempts": 1}
    variants = ["HCM", *({"name": name, "tasks": ["H"]} for name in CAUSES), "M"]
    (small / "bad.yaml").write_text(campaigns.text(launch=launch, variants=variants))
    out = tmp_path / "out"
    done = drive(small, out, 2, "bad", "-", "0.05", campaign="bad.yaml")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    found = sorted(p.parts[-3] for p in out.glob("members/*/*/result.json"))
    assert found == ["HCM", "HCM", "M", "M"]
    for name, cause in CAUSES.items():
        for replica in ("00", "01"):
            attempts = json.loads((out / "members" / name / replica / "failure.json").read_text())
            assert [re.match(cause, a["cause"]) is not None for a in attempts] == [True], attempts


def test_workers_that_cannot_start_are_reported_and_nothing_hangs(small: Path, tmp_path: Path) -> None:
    done = drive(small, tmp_path / "out", 2, "hopeless", "-", "0")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "no module named torch" in errors[0], done.stderr


def test_a_launcher_of_another_mpi_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    done = drive(small, tmp_path / "out", 0, "good", "-", "1")
    assert done.returncode == 2 and "does not match the MPI library" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_error_at_the_start_is_reported_once_and_ends_all_ranks(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small / "small.bp", tmp_path / "small.bp")
    (tmp_path / "small.bp" / "data.0").write_bytes(b"short")
    shutil.copy(small / "campaign.yaml", tmp_path / "campaign.yaml")
    for campaign, message in (("campaign.yaml", "data.0"), ("missing.yaml", "no such campaign file")):
        done = drive(tmp_path, tmp_path / "out", 2, "good", "-", "0", campaign=campaign)
        assert done.returncode == 2
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1 and message in errors[0], done.stderr
