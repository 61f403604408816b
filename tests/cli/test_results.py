"""``status`` and ``report`` as a user calls them: exit codes, what is printed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import campaigns
from tests.campaigns import called
from tests.report import making


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program, in this process."""
    return called(Path.cwd(), *arguments)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    states = {"H/01": "failed", "HM/00": "running"}
    out = tmp_path_factory.mktemp("results") / "out"
    return making.make(out, variants=("HM", "H"), replicas=3, samples=30, epochs=6, states=states)


def test_status_prints_plain_text_where_there_is_no_terminal(campaign: Path) -> None:
    shown = campaigns.command(Path.cwd(), "status", str(campaign))  # in a process of its own
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout and "6 members: 1 running, 4 finished, 1 failed" in shown.stdout
    assert "2 of 3" in shown.stdout and "SIGKILL" in shown.stdout


def test_status_as_json(campaign: Path) -> None:
    shown = command("status", str(campaign), "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["states"] == {"running": 1, "finished": 4, "failed": 1}
    assert [r["n"] for r in found["table1"] if r["n_total"]] == [2, 2, 2] and found["settled"] is False


@pytest.mark.parametrize("name", ["status", "report"])
def test_help_has_an_example(name: str) -> None:
    shown = command(name, "--help")
    assert shown.returncode == 0 and f"Example: hydragnn-hpc {name}" in shown.stdout


@pytest.mark.parametrize("name", ["status", "report"])
def test_a_folder_without_a_campaign_is_reported_in_one_line(name: str, tmp_path: Path) -> None:
    shown = command(name, str(tmp_path))
    assert shown.returncode == 2 and not shown.stdout
    assert shown.stderr.count("\n") == 1 and "holds no campaign" in shown.stderr


def test_watch_and_json_exclude_each_other(campaign: Path) -> None:
    shown = command("status", str(campaign), "--watch", "--json")
    assert shown.returncode == 2 and "exclude each other" in shown.stderr


def test_report_writes_everything_and_says_where(campaign: Path) -> None:
    shown = command("report", str(campaign))
    assert shown.returncode == 0, shown.stderr
    assert "2 of 3" in shown.stdout and str(campaign / "report" / "index.html") in shown.stdout.replace("\n", "")
    assert "(a)" in shown.stdout and "undecided" in shown.stdout and "remark:" in shown.stdout
    assert (campaign / "report" / "table1.csv").read_text().startswith("variant,task,n,n_total")
    summary = json.loads((campaign / "report" / "summary.json").read_text())
    assert summary["states"]["running"] == 1


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_report_without_its_curves_is_announced(campaign: Path, form: tuple[str, ...]) -> None:
    """A file is in the place of TensorBoard's folder."""
    pytest.importorskip("tensorboardX")
    in_place = campaign / "report" / "tensorboard"
    in_place.parent.mkdir(exist_ok=True)
    in_place.write_text("kept")
    with campaigns.without_figures():
        shown = command("report", str(campaign), "--tensorboard", *form)
    said = [line for line in shown.stderr.splitlines() if "figures" not in line]
    assert shown.returncode == 0 and len(said) == 1, shown.stderr
    assert str(in_place) in said[0] and "move or remove it" in said[0] and in_place.read_text() == "kept"
    assert json.loads(shown.stdout) if form else "start with" in shown.stdout and "--logdir" not in shown.stdout
    in_place.unlink()
    with campaigns.without_figures():
        shown = command("report", str(campaign), "--tensorboard", *form)
    assert shown.returncode == 0 and ("tensorboard --logdir" in shown.stdout) == (not form) and in_place.is_dir()
    shutil.rmtree(in_place)
