"""Unreadable entries in a campaign's folder: status and report name them, and continue with the rest."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report import archive
from hydragnn_hpc.report.analysis.content import gather
from hydragnn_hpc.report.archive import write_archive
from hydragnn_hpc.report.document.provenance import runs
from hydragnn_hpc.report.results.event_log import read_log
from hydragnn_hpc.report.results.load import load
from hydragnn_hpc.report.results.worker_sessions import read_sessions
from hydragnn_hpc.report.tables.status import read_status, render
from tests.report import making

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
RECORDS = ("members/H/00/result.json", "members/H/01/failure.json", "progress.json", "run.lock", "logs/events.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An active campaign; copy it before damaging it."""
    states = {"H/01": "failed", "H/02": "running"}
    return making.make(tmp_path_factory.mktemp("u") / "out", variants=("H",), replicas=4, samples=10, states=states)


def inspect(out: Path) -> tuple[str, list[str]]:
    """Return what status shows, and the remarks of a report."""
    stream = io.StringIO()
    status, snapshot = read_status(out)
    json.dumps(status.plain(), allow_nan=False)
    Console(file=stream, width=400).print(render(status, snapshot))
    content = gather(out)
    runs(content.results)
    read_sessions(content.results)
    return stream.getvalue(), content.remarks


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replaced_by_a_folder(path: Path) -> None:
    remove(path)
    (path / "inner").mkdir(parents=True)


def replaced_by_a_file(path: Path) -> None:
    remove(path)
    path.write_text("file")


def replaced_by_a_loop(path: Path) -> None:
    remove(path)
    path.symlink_to(path.name)


def replaced_by_brackets(path: Path) -> None:
    remove(path)
    path.write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [replaced_by_a_folder, replaced_by_a_file, replaced_by_a_loop, replaced_by_brackets],
    ids=lambda damage: damage.__name__,
)
def test_any_entry_may_be_something_else(whole: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    names = sorted(str(p.relative_to(whole)) for p in whole.rglob("*") if "H/03" not in str(p))
    assert len(names) > 15
    for name in names:
        if name == "campaign.yaml" or name.startswith("report"):
            continue
        out = Path(shutil.copytree(whole, tmp_path / "out", symlinks=True))
        damage(out / name)
        shown, remarks = inspect(out)
        assert "H " in shown, name
        if name == "members/H/00/result.json" or (name == "members/H/00" and damage is not replaced_by_a_folder):
            assert "unreadable: H/00: cannot read" in shown
            assert any(line.startswith("H/00: cannot read") for line in remarks)
        if name == "members/H/01/failure.json":
            assert "unreadable: H/01: cannot read" in shown and "failed attempts are not known" in shown
        if name == "progress.json":
            assert "unreadable: cannot read" in shown and "no run is active" not in shown
        if name in ("progress.json", "logs/events.jsonl"):
            assert any(name in line and "cannot" in line for line in remarks), remarks
        shutil.rmtree(out)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=st.sampled_from(RECORDS), data=st.data())
def test_any_value_of_a_record_may_be_of_another_type(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, record: str, data: st.DataObject
) -> None:
    out = Path(shutil.copytree(whole, tmp_path_factory.mktemp("t") / "out"))
    lines = (out / record).read_text().splitlines() if record.endswith("l") else [(out / record).read_text()]
    number = data.draw(st.integers(0, len(lines) - 1))
    content = json.loads(lines[number])
    place: object = content
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    else:
        content = data.draw(JSON)
    lines[number] = json.dumps(content)
    (out / record).write_text("\n".join(lines))
    inspect(out)


def test_a_result_without_a_stack_is_unreadable(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    for path in out.glob("members/*/*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "stack": []}))
    assert inspect(out)[0].count("stack: List should have at least 1 item") == 2


def test_a_time_out_of_range_is_that_of_no_session(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    before = read_sessions(load(out))
    path = out / "members/H/00/result.json"
    result = json.loads(path.read_text())
    result["sessions"][0]["started"] = "0001-01-01T00:00:00"
    path.write_text(json.dumps(result))
    assert len(read_sessions(load(out))) == len(before) - 1


def test_the_event_log_cannot_control_a_terminal(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    CampaignFolder(out).events.write_text('{"event": "stop", "\\u001b[2J": 1}')
    assert read_log(CampaignFolder(out)).problem.isprintable()


def test_a_file_that_cannot_be_archived_is_named(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    CampaignFolder(out).progress.unlink()
    gone = out / "members/H/00/log.txt"
    monkeypatch.setattr(archive, "_files", lambda _: [gone])
    with pytest.raises(UserError, match=f"cannot read {gone}: No such file or directory"):
        write_archive(out, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_campaign_of_a_newer_version_is_one_line(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    path = CampaignFolder(out).campaign
    path.write_text(path.read_text().replace("  replicas:", "  novelty: 3\n  replicas:"))
    with pytest.raises(UserError, match="unknown key 'novelty'"):
        read_status(out)
