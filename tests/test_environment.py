"""Commands where the environment lacks what is usually there: a home, a locale, room for temporary files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CAMPAIGN = """\
name: bare
dataset: small.bp
tasks: {H: {level: graph, field: mixing_enthalpy}}
variants: [H]
model: {layers: 1, channels: 4}
training: {epochs: 1, batch_size: 32}
"""
COMMANDS = (
    "data prepare raw {name}.bp", "data info {name}.bp", "data info small.bp --verify", "run c.yaml {name}",
    "status {name}", "status {name} --json", "report {name}", "predict {name} raw",
)  # fmt: skip
BARE = {"PATH": os.environ["PATH"]}
PLAIN_C = {**BARE, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ENVIRONMENTS = {
    "bare": BARE,
    "plain-c": {**PLAIN_C, "HOME": "/"},
    "latin": {**BARE, "HOME": "/nowhere", "TMPDIR": "/nowhere", "PYTHONIOENCODING": "latin-1"},
    "nothing": {**PLAIN_C, "TMPDIR": "/nowhere"},
}


@pytest.fixture(scope="module")
def folder(small_bp: Path, surrogate_raw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw data, a data set and a campaign."""
    made = tmp_path_factory.mktemp("environment")
    (made / "raw").symlink_to(surrogate_raw(8))
    (made / "small.bp").symlink_to(small_bp)
    (made / "c.yaml").write_text(CAMPAIGN)
    return made


@pytest.mark.parametrize(
    "name", ["nothing", *(pytest.param(name, marks=pytest.mark.long) for name in ("bare", "plain-c", "latin"))]
)
def test_every_command_works_in(folder: Path, name: str) -> None:
    for line in COMMANDS:
        words = [sys.executable, "-m", "hydragnn_hpc", *line.format(name=name).split()]
        done = subprocess.run(words, cwd=folder, env=ENVIRONMENTS[name], capture_output=True)
        assert done.returncode == 0, (line, done.stderr)
        assert b"Traceback" not in done.stderr
        if "--json" in line:
            assert json.loads(done.stdout)["states"] == {"finished": 1}


@pytest.fixture(scope="module")
def finished(folder: Path) -> str:
    """The name of a finished campaign in the folder."""
    run = [sys.executable, "-m", "hydragnn_hpc", "run", "c.yaml", "finished"]
    subprocess.run(run, cwd=folder, env=BARE, capture_output=True, check=True)
    return "finished"


def test_settings_of_matplotlib_that_need_what_is_not_here(folder: Path, finished: str) -> None:
    (folder / "matplotlibrc").write_text("text.usetex: True\n")
    theirs = {"MPLBACKEND": "module://not_installed", "MATPLOTLIBRC": str(folder), "PATH": "/usr/bin"}
    for line in (f"report {finished}", "data info small.bp --figure a.png"):
        words = [sys.executable, "-m", "hydragnn_hpc", *line.split()]
        done = subprocess.run(words, cwd=folder, env={**BARE, **theirs}, capture_output=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", ["data prepare raw stranger.bp", "predict finished raw --out stranger.csv"])
def test_a_user_without_a_home_or_an_entry_among_the_users(line: str, folder: Path, finished: str) -> None:
    code = f"""
import pwd, sys
def getpwuid(uid): raise KeyError(uid)
pwd.getpwuid = getpwuid
from hydragnn_hpc.cli.main import main
sys.argv = ["hydragnn-hpc", *{line.split()!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=BARE, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_predictions_into_a_closed_standard_output(folder: Path, finished: str) -> None:
    line = f"exec {sys.executable} -m hydragnn_hpc predict {finished} raw >&-"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=BARE, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_a_folder_that_has_been_removed_is_named_as_the_cause(folder: Path) -> None:
    line = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m hydragnn_hpc run ../c.yaml {folder}/gone-run"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env={**BARE, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 2
    assert done.stderr == b"hydragnn-hpc: error: the current folder has been removed; change to another: cd DIR\n"


def test_adios2_is_not_blamed_for_what_the_environment_lacks(tmp_path: Path) -> None:
    code = "import sys; from hydragnn_hpc.dataset.store.probe import main; main()"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=BARE, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["version"], done.stderr
