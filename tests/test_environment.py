"""Commands where the environment lacks what is usually there: a home, a locale, room for temporary files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hydragnn_hpc.cli.main import app
from tests.campaigns import called
from tests.submit.programs import stand_in
from tests.submit.test_answers import SCONTROL, SINFO

ROOT = Path(__file__).parents[1]
CAMPAIGN = """\
name: bare
dataset: small.bp
tasks: {H: {level: graph, field: mixing_enthalpy}}
variants: [H]
model: {layers: 1, channels: 4}
training: {epochs: 1, batch_size: 32}
"""
COMMANDS = {
    "data generate": "{name}-g.extxyz --system CuAu --cap 1 --sizes 1x1x1", "data prepare": "raw {name}.bp",
    "data split": "small.bp {name}-s.bp --seed 1", "data convert": "small.bp {name}.extxyz",
    "data info": "small.bp --verify", "init": "small.bp --out {name}.yaml", "run": "c.yaml {name}",
    "status": "{name} --json", "report": "{name} --tensorboard", "compare": "{name} finished --out {name}-c.md",
    "predict": "{name} raw",
    "select": "{name} raw --number 2 --random --out {name}-selected.csv", "archive": "{name} {name}-a.zip --license X",
    "export": "{name} {name}-models --to hydragnn", "import config": "lsms.json {name}-i.yaml",
    "import model": "{name}-models {name}-m --length-unit bohr", "submit": "c.yaml {name}-job --site local --dry-run",
    "site detect": "", "doctor": "",
}  # fmt: skip
SILENT = ("run", "select", "archive")
"""Commands that print nothing to standard output."""
MADE = (
    "-g.extxyz", ".bp", "-s.bp", ".extxyz", ".yaml", "/members/H/00/model.pt", "/report/index.html",
    "/report/tensorboard", "-c.md", "-selected.csv", "-a.zip", "-models/H-00/config.json", "-i.yaml",
    "-m/members/H/00/model.pt",
)  # fmt: skip
"""Endings of the names of what they make."""
DRIVER = """\
import json, os, sys
from hydragnn_hpc.cli.main import main
def connect(output):
    if output == "closed":
        sys.stdout = None
        os.close(1)
        return
    reading, writing = os.pipe()
    os.close(reading)
    if output == "full":
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    os.dup2(writing, 1)
    os.close(writing)
    sys.stdout = open(1, "w", closefd=False)
lines, output = json.loads(sys.argv[1])
for line in lines:
    if output:
        connect(output)
    sys.argv = ["hydragnn-hpc", *(os.fsdecode(word.encode()) for word in line.split())]
    if line.startswith(("report ", "archive ")):
        from hydragnn_hpc.report import write
        write.FIGURES = write.FIGURES[:1]  # each is written in the same way, and takes half a second
    try:
        main()
    except SystemExit as end:
        os.write(2, f"{end.code or 0} {line}\\n".encode())
"""
BARE = {"PATH": os.environ["PATH"]}
PLAIN_C = {**BARE, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
ENVIRONMENTS = {
    "bare": BARE,
    "plain-c": {**PLAIN_C, "HOME": "/proc"},
    "latin": {**BARE, "HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere", "PYTHONIOENCODING": "latin-1"},
    "nothing": {**PLAIN_C, "TMPDIR": "/proc/nowhere"},
}


@pytest.fixture(scope="module")
def folder(small_bp: Path, surrogate_raw, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw data, a data set and a campaign."""
    made = tmp_path_factory.mktemp("environment")
    (made / "raw").symlink_to(surrogate_raw(8))
    (made / "small.bp").symlink_to(small_bp)
    (made / "c.yaml").write_text(CAMPAIGN)
    (made / "lsms.json").symlink_to(ROOT / "tests/exchange/lsms.json")
    stand_in(made, "scontrol", f"cat <<'E'\n{SCONTROL}E")
    stand_in(made, "sinfo", f"cat <<'E'\n{SINFO}E")
    return made


@pytest.fixture(scope="module")
def finished(folder: Path) -> str:
    """The name of a finished campaign in the folder."""
    run = [sys.executable, "-m", "hydragnn_hpc", "run", "c.yaml", "finished"]
    subprocess.run(run, cwd=folder, env=BARE, capture_output=True, check=True)
    return "finished"


def test_every_command_of_the_program_is_tried() -> None:
    def names(group: Any, *words: str) -> Iterator[str]:
        for name, command in group.commands.items():
            yield from names(command, *words, name) if hasattr(command, "commands") else [" ".join((*words, name))]

    assert set(names(get_command(app))) == set(COMMANDS)


def drive(folder: Path, name: str, environment: dict[str, str], output: str = "") -> tuple[dict[str, int], str, bytes]:
    """Run every command with `in_one_process`, check what they make, and return the same, with codes by command."""
    lines = [f"{command} {words.format(name=name)}".strip() for command, words in COMMANDS.items()]
    codes, said, printed = in_one_process(folder, lines, environment, output)
    missing = [name + end for end in MADE if not (folder / (name + end)).exists()]
    assert not missing, said
    return {command: codes[line] for command, line in zip(COMMANDS, lines, strict=True)}, said, printed


def in_one_process(
    folder: Path, lines: list[str], environment: dict[str, str], output: str = ""
) -> tuple[dict[str, int], str, bytes]:
    """Run commands in one process that has an environment.

    Returns
    -------
    dict
        The lines' exit codes.
    str
        Standard error.
    bytes
        Standard output.
    """
    words = [sys.executable, "-c", DRIVER, json.dumps([lines, output])]
    environment = {**environment, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0 and "Traceback" not in said and "Exception ignored" not in said, said
    codes = {line: int(code) for code, line in re.findall(r"^(\d+) (.*)$", said, re.MULTILINE)}
    return codes, said, done.stdout


@pytest.mark.parametrize(
    "name", ["nothing", *(pytest.param(name, marks=pytest.mark.long) for name in ("bare", "plain-c", "latin"))]
)
def test_every_command_works_in_environment(folder: Path, finished: str, name: str) -> None:
    codes, said, printed = drive(folder, name, ENVIRONMENTS[name])
    assert set(codes.values()) == {0} and "valid string" not in said, said
    assert all(words in printed for words in (b'"states": {', b"\nscheduler: slurm\n"))


@pytest.mark.parametrize(
    ("output", "code"),
    [("full", 2), *(pytest.param(*case, marks=pytest.mark.long) for case in (("closed", 2), ("gone", 141)))],
)
def test_every_command_whose_output_cannot_be_written(folder: Path, finished: str, output: str, code: int) -> None:
    """What it prints is lost, with one line unless the reader has gone; the files that it makes are not."""
    codes, said, _ = drive(folder, output, BARE, output)
    assert codes == {command: 0 if command in SILENT else code for command in COMMANDS}, said
    lines = said.count("hydragnn-hpc: error: cannot write to standard output: ")
    assert lines == said.count("hydragnn-hpc: error: ") == (len(COMMANDS) - len(SILENT) if code == 2 else 0), said


def test_names_that_a_latin_locale_lacks(folder: Path, finished: str, tmp_path: Path) -> None:
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    made = subprocess.run(["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "en_US.ISO-8859-1"], check=False)
    if made.returncode:
        pytest.skip("no sources of locales")
    atoms = 'Properties=species:S:1:pos:R:3:m:R:1 pbc="F F F"\nFe 0 0 0 {0}\nPt 2.5 0 {0} 1\n'
    frames = (f'2\nname="Å-Ж≤{k}" E={k} {atoms.format(k / 20)}' for k in range(20))
    (folder / "Жук.extxyz").write_text("".join(frames), encoding="utf-8")
    prepare = "data prepare Жук.extxyz names.bp --target E=graph:E:eV --target M=node:m:μB"
    for locale, lines in (
        ({"LC_ALL": "C.UTF-8"}, [prepare]),
        (
            {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(tmp_path)},
            [
                "data info names.bp",
                f"predict {finished} Жук.extxyz",
                f"status {finished}",
                f"report {finished}",
                "doctor",
            ],
        ),
    ):
        codes, said, printed = in_one_process(folder, lines, {**BARE, **locale})
        assert codes == dict.fromkeys(lines, 0), said
    # What the character set has is in it, the rest is spelt out: the Greek letter in μB as well.
    for shown in ("mean ± std", "R²", "Å-?<=7", " uB "):
        assert shown.encode("latin-1") in printed, printed.decode("latin-1")


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


@pytest.mark.parametrize(
    "words",
    [
        ("run", "c.yaml", "{}", "--dry-run"),
        ("submit", "c.yaml", "{}", "--site", "local", "--dry-run"),
        ("status", "{}"),
        ("report", "{}"),
        ("archive", "{}"),
        ("init", "small.bp", "--out", "{}.yaml"),
        ("site", "detect", "--out", "{}.yaml"),
    ],
)
def test_a_path_that_cannot_exist_is_named_as_the_cause(folder: Path, words: tuple[str, ...]) -> None:
    """A name is too long. A folder that may not be searched would do as well, but root may search all."""
    done = called(folder, *(word.replace("{}", "a" * 256) for word in words))
    assert done.returncode == 2
    line, *more = done.stderr.splitlines()
    assert "aaaa" in line and "File name too long; check the path" in line and not more
    assert "copy the archive again" not in line


def test_modules_of_the_current_folder_are_not_imported(folder: Path, tmp_path: Path) -> None:
    """Child processes are started as modules, for which Python by default looks in the current folder first."""
    (tmp_path / "random.py").write_text("raise SystemExit('another module of that name')\n")
    program = Path(sys.executable).with_name("hydragnn-hpc")
    for words in (["data", "prepare", folder / "raw", "a.bp"], ["run", folder / "c.yaml", "out"]):
        done = subprocess.run([program, *words], cwd=tmp_path, env=BARE, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_a_folder_that_has_been_removed_is_named_as_the_cause(folder: Path) -> None:
    line = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m hydragnn_hpc run ../c.yaml {folder}/gone-run"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env={**BARE, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 2
    assert done.stderr == b"hydragnn-hpc: error: the current folder has been removed; change to another: cd DIR\n"


def test_adios2_is_not_blamed_for_what_the_environment_lacks(tmp_path: Path) -> None:
    code = "import sys; from hydragnn_hpc.dataset.store.probe import main; main()"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=BARE, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["version"], done.stderr
