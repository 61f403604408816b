"""The README's every command is run, in its order, in a folder that looks like the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hydragnn_hpc.config import load_campaign
from hydragnn_hpc.submit.site import site_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BIN = Path(sys.executable).parent

# The two that this test must not run from within themselves. tests/run.sh is what runs this; jobs/local.sh is its
# steps, which the worked example gives one by one, and a test below holds the two to each other.
ELSEWHERE = {"bash jobs/local.sh", "bash tests/run.sh"}


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """Return every command of every shell block, without comments."""
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.slow
@pytest.mark.mpi
def test_every_command_runs(tmp_path: Path) -> None:
    for name in ("jobs", "envs", "hydragnn_hpc"):
        (tmp_path / name).symlink_to(ROOT / name)
    # Campaign files name their data relative to themselves, so they must not be followed out of the folder.
    (tmp_path / "jobs").unlink()
    (tmp_path / "jobs" / "campaigns").mkdir(parents=True)
    for file in (ROOT / "jobs" / "campaigns").glob("*.yaml"):
        (tmp_path / "jobs" / "campaigns" / file.name).write_text(file.read_text("utf-8"), "utf-8")
    for command in commands():
        if command in ELSEWHERE:
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for file in ("table1.csv", "timing.csv", "members.csv", "index.html"):
        assert (tmp_path / "runs" / "quickstart" / "report" / file).exists(), file


def test_the_quick_start_is_the_worked_example() -> None:
    script = (ROOT / "jobs" / "local.sh").read_text("utf-8")
    script = script.replace('"$data"', "data/quickstart.bp").replace('"$out"', "runs/quickstart")
    own = re.compile(r"(hydragnn-hpc (data (generate|prepare)|report)|mpirun)\b.* \S+/quickstart")
    steps = [c for c in commands() if own.match(c)]
    assert len(steps) == 4
    for command in steps:
        assert command in script, f"jobs/local.sh lacks: {command}"


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert (ROOT / ".ci" / "run").read_text("utf-8").splitlines()[-1] == "bash tests/run.sh"


def test_the_commands_table_is_complete() -> None:
    helped = [line for line in README.splitlines() if line.startswith("| `hydragnn-hpc ")]
    listed = {re.match(r"\| `hydragnn-hpc ((?:data )?\w+)", line)[1] for line in helped}  # type: ignore[index]
    from typer.main import get_command

    from hydragnn_hpc.cli.main import app

    root = get_command(app)
    known = set(root.commands) - {"data"} | {f"data {name}" for name in root.commands["data"].commands}  # type: ignore[attr-defined]
    assert listed == known


def test_options_that_are_named_exist() -> None:
    for command in re.findall(r"^\| `hydragnn-hpc ([^`]*)`", README, re.M):
        words = command.split()[: 2 if command.startswith("data ") else 1]
        shown = subprocess.run(
            [str(BIN / "hydragnn-hpc"), *words, "--help"],
            env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for option in re.findall(r"--[a-z-]+", command):
            assert option in shown, f"{command}: no {option}"
        assert "Example:" in shown, f"{command}: its help has no example"


def test_the_campaign_file_is_valid(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(example)
    assert len(load_campaign(tmp_path / "mine.yaml").variants) == len(yaml.safe_load(example)["variants"])


def test_every_machine_is_named() -> None:
    table = README[README.index("| machine | `--site`") :].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", table)) == set(site_names())


def test_every_dependency_is_explained() -> None:
    block = re.search(r"^REQUIRED = \[\n(.*?)^\]", (ROOT / "setup.py").read_text("utf-8"), re.M | re.S)
    assert block
    table = README[README.index("| library | for |") :].split("\n\n")[0]
    for name in re.findall(r'"([A-Za-z0-9_]+)', block[1]):
        assert re.search(rf"\b{name}\b", table), name


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:jobs|envs|tests|hydragnn_hpc)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name
