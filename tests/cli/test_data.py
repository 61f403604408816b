"""``hydragnn-hpc data`` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return subprocess.run(
        [sys.executable, "-m", "hydragnn_hpc", "data", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw/ and small.bp."""
    folder = tmp_path_factory.mktemp("data")
    assert command("generate", str(folder / "raw"), "--cap", "8").returncode == 0
    done = command("prepare", str(folder / "raw"), str(folder / "small.bp"))
    assert done.returncode == 0, done.stderr
    assert "206" in done.stdout and "mixing_enthalpy" in done.stdout
    return folder


def test_info_tells_what_is_there(made: Path) -> None:
    shown = command("info", str(made / "small.bp"), "--verify")
    assert shown.returncode == 0 and "verified" in shown.stdout
    content = json.loads(command("info", str(made / "small.bp"), "--json").stdout)
    assert content["sizes"]["S"] == sum(content["split"]) == 250


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "{raw}"], "exists and is not empty"),
        (["generate", "{new}", "--cap", "0"], "--cap"),
        (["prepare", "{new}", "{new}.bp"], "no such file or folder"),
        (["prepare", "{raw}", "{bp}"], "--force"),
        (["prepare", "{raw}", "{new}.bp", "--cutoff", "7"], "with its unit"),
        (["prepare", "{raw}", "{new}.bp", "--boundary", "opne"], "did you mean 'open'"),
        (["prepare", "{raw}", "{new}.bp", "--fractions", "0.5,0.5"], "three numbers"),
        (["prepare", "{raw}", "{new}.bp", "--cell", "1 2 3"], "unit"),
        (["prepare", "{raw}", "{new}.bp", "--cell", "1 2 bohr"], "9 numbers"),
        (["prepare", "{raw}", "{new}.bp", "--end-member", "Xx=1"], "no element"),
        (["prepare", "{raw}", "/proc/nowhere/x.bp"], "cannot write"),
        (["info", "{raw}"], "manifest.json"),
        (["info", "{new}.bp"], "no such data set"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(made: Path, arguments: list[str], told: str) -> None:
    places = {"raw": str(made / "raw"), "bp": str(made / "small.bp"), "new": str(made / "new")}
    done = command(*(a.format(**places) for a in arguments))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and told in errors[0], done.stderr
    assert not (made / "new").exists() and not (made / "new.bp").exists()
