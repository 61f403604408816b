"""Every command of every document is run, in order, in a folder that looks like the checkout; where that is not
possible (another machine, hours of training), its program, options and files are checked instead.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hydragnn_hpc.cli.main import app
from hydragnn_hpc.dataset.remarks import registry
from hydragnn_hpc.errors import ExitCode
from hydragnn_hpc.submit.site import Site, site_names
from tests.campaigns import called, without_figures
from tests.documented import check

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LIMITS = {"README.md": 150}
"""Maximum number of lines of a document; 250 for all others."""
# In the order in which their commands are run: later ones use what earlier ones have made.
NAMES = (
    "README.md", "hydragnn_hpc/dataset/README.md", "jobs/campaigns/README.md", "jobs/README.md",
    "hydragnn_hpc/exchange/README.md", "hydragnn_hpc/FORMATS.md", "hydragnn_hpc/DESIGN.md", "CONTRIBUTING.md",
    "tests/README.md",
    "tests/benchmarks/RESULTS-accuracy.md", "tests/benchmarks/RESULTS-any-data.md",
    "tests/benchmarks/RESULTS-uncertainty.md", "tests/benchmarks/RESULTS-speed.md", "tests/benchmarks/RESULTS-gpu.md",
    "CHANGELOG.md",
)  # fmt: skip
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in NAMES}
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
ONLY_CHECKED = re.compile(r"(?:[A-Z_]+=\S* )*(?:rm -rf|bash|pytest|ruff|mypy|python -m)\b")
"""Commands that are not run here; tests/run.sh runs ruff and mypy."""

# Results come from the open data and from hours of training: here the surrogate stands in, and nothing is trained.
RESULTS = tuple(f"tests/benchmarks/RESULTS-{name}.md" for name in ("accuracy", "any-data", "uncertainty"))
OPEN_DATA = ("FILES", "data/quickstart-lsms")


def steps(name: str) -> Iterator[tuple[str, str]]:
    """Yield ("bash", command) and ("yaml" or "jinja", content), in their order, commands without their comments."""
    for language, block in re.findall(r"^```(bash|yaml|jinja)\n(.*?)^```", TEXTS[name], re.M | re.S):
        if language != "bash":
            yield language, block
            continue
        lines = (line.split("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines())
        yield from ((language, line) for line in lines if line and not line.startswith("#"))


def commands() -> list[str]:
    """Return every command of every document."""
    return [step for name in NAMES for language, step in steps(name) if language == "bash"]


def inline() -> list[str]:
    """Return the commands in prose and tables of every document; the name of a module alone is not a command."""
    prose = (re.sub(r"^```.*?^```", "", text, flags=re.M | re.S) for text in TEXTS.values())
    codes = [" ".join(code.split()) for text in prose for code in re.findall(r"(?<!`)`([^`]+)`", text)]
    return [c for c in codes if re.match(r"(bash|pytest|ruff|mypy|hydragnn-hpc|python -m \S+) ", c)]


def as_run_here(command: str, document: str) -> str:
    """Return a command in a quick form: with fewer samples and epochs; results are not trained again."""
    command = command.replace(".venv/bin/", "").replace("--cap 8 --sizes", "--cap 2 --sizes")
    command = command.replace("--cap 100", "--cap 8")
    command = command.replace("training.epochs=5", "training.epochs=1")
    if document in RESULTS:
        command = command.replace(*OPEN_DATA).replace("[250, 1000, 4000, all]", "[64, 100, all]") + (
            " --dry-run" if "hydragnn-hpc run" in command else ""
        )
    return command


def quick(campaign: str) -> str:
    """Return the campaign of the quick start with the variants that the documents name, and few epochs."""
    for words, few in (("[HCM, HC, HM, CM, H, C, M]", "[HCM, HC, H]"), ("epochs: 20", "epochs: 3")):
        assert words in campaign
        campaign = campaign.replace(words, few)
    return campaign


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder: in this process, which has the libraries, unless it starts others or needs a shell."""
    program, first, *more = shlex.split(command)
    starts_others = first == "doctor" or (first == "run" and "--dry-run" not in more)
    if program == "hydragnn-hpc" and not starts_others and not re.search(r"[$&;<>|]", command):
        with without_figures() if first == "archive" else contextlib.nullcontext():  # 'report' has drawn them
            return called(folder, first, *more)
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip


def file_named_in(content: str) -> str | None:
    """Return the file name in the comment that a block begins with."""
    named = re.match(r"(?:# |\{# )(\S+\.(?:yaml|jinja))", content)
    return named[1] if named else None


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(900)
def test_every_command_runs(tmp_path: Path) -> None:
    for name in ("envs", "hydragnn_hpc", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    # Campaign files name their data relative to themselves, so they must not be followed out of the folder.
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    quickstart = tmp_path / "jobs" / "campaigns" / "quickstart.yaml"
    quickstart.write_text(quick(quickstart.read_text("utf-8")), "utf-8")
    (tmp_path / "environment.tar").touch()  # a placeholder for the archive that envs/pack.sh makes of an environment
    for name in NAMES:
        for language, step in steps(name):
            if language != "bash":
                if file := file_named_in(step):
                    (tmp_path / file).write_text(step, "utf-8")
                continue
            if ONLY_CHECKED.match(step):
                continue
            command = as_run_here(step, name)
            done = run(command, tmp_path)
            assert done.returncode == 0, f"{name}: {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for file in ("table1.csv", "timing.csv", "members.csv", "index.html"):
        assert (tmp_path / "runs" / "quickstart" / "report" / file).exists(), file


def test_commands_that_are_not_run_are_valid() -> None:
    checked = [command for command in commands() if ONLY_CHECKED.match(command)] + inline()
    assert len(checked) > 60
    for command in checked:
        check(command)


@pytest.mark.parametrize(
    "command",
    [
        "bash tests/run.sh --qui", "bash tests/run.sh tests/nowhere", "bash jobs/local.sh --quick",
        "bash envs/local.sh nonsense", "bash envs/pack.sh FOLDER", "bash envs/NOWHERE/local.sh",
        "python -m tests.benchmarks.engines nonsense", "python -m tests.benchmarks.engines --rou 2",
        "python -m tests.benchmarks.accuracy", "python -m tests.benchmarks.engines --cases nonsense",
        "python -m tests.member.triton_engine.resources --jso", "python -m tests.benchmarks.cases",
        "ruff chek", "ruff check --fi", "ruff check nowhere", "mypy --stric", "mypy nowhere",
        "pytest tests/nowhere", "pytest tests/report -k nonsense", "pytest -m slo", "pytest --fault-see 1",
        "pytest tests/test_imports.py::test_nothing", "hydragnn-hpc repor", "hydragnn-hpc data inf",
        "hydragnn-hpc init DATASET.bp [--outpu FILE]",
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(command: str) -> None:
    with pytest.raises(AssertionError):
        check(command)


def test_documents_are_listed_here_and_short() -> None:
    found = {str(p.relative_to(ROOT)) for p in ROOT.rglob("*.md") if not any(s.startswith(".") for s in p.parts)}
    found -= {f for f in found if f.split("/")[0] in ("data", "runs")}
    assert found == set(NAMES)
    for name, text in TEXTS.items():
        limit = LIMITS.get(name, 250)
        assert len(text.splitlines()) <= limit, f"{name}: more than {limit} lines"


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    wrong = []
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
                wrong.append(f"{name}: {target}")
    assert not wrong, "\n".join(wrong)


def test_files_and_modules_that_are_named_exist() -> None:
    """A name in capitals is a placeholder; a name without a folder may be that of any file."""
    own = {file_named_in(step) for document in NAMES for language, step in steps(document) if language != "bash"}
    anywhere = {
        path.name for folder in ("hydragnn_hpc", "jobs", "envs", "tests") for path in (ROOT / folder).rglob("*")
    }
    wrong = []
    for name, text in TEXTS.items():
        places = ((ROOT / name).parent, ROOT, ROOT / "hydragnn_hpc", ROOT / "jobs")
        for file in re.findall(r"`((?:[\w-]+/)*[\w.-]+\.(?:py|sh|yaml|jinja|h|c))`", text):
            there = file in own or any((place / file).exists() for place in places)
            if not there and not re.search("[A-Z]{4}|^my", file) and ("/" in file or file not in anywhere):
                wrong.append(f"{name}: {file}")
        for module in re.findall(r"`(?:python -m )?((?:hydragnn_hpc|tests)(?:\.\w+)+)", text):
            path = ROOT.joinpath(*module.split("."))
            if not path.is_dir() and not path.with_suffix(".py").exists():
                wrong.append(f"{name}: {module}")
    assert not wrong, "\n".join(wrong)


def test_the_files_and_tests_that_the_suite_names_exist() -> None:
    script = (ROOT / "tests" / "run.sh").read_text("utf-8")
    named = re.findall(r"tests/[\w/*.]*\w", script)
    assert len(named) > 15 and not [path for path in named if not list(ROOT.glob(path))]
    tests = re.findall(r"(tests/\S+\.py)::(\w+)", script)
    assert len(tests) > 10 and not [t for file, t in tests if f"def {t}(" not in (ROOT / file).read_text("utf-8")]


def test_the_quick_start_is_the_worked_example() -> None:
    script = (ROOT / "jobs" / "local.sh").read_text("utf-8")
    script = script.replace('"$data"', "data/quickstart.bp").replace('"$out"', "runs/quickstart")
    own = re.compile(r"(hydragnn-hpc (data (generate|prepare)|report)|mpirun)\b.* \S+/quickstart")
    worked = [step for _, step in steps("README.md") if own.match(step)]
    assert len(worked) == 4
    for command in worked:
        assert command in script, f"jobs/local.sh lacks: {command}"


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert (ROOT / ".ci" / "run").read_text("utf-8").splitlines()[-1] == "bash tests/run.sh"
    assert "bash tests/run.sh" in commands()


def named_in_tables() -> dict[str, str]:
    """Return the commands in tables, by their words, as `| \\`hydragnn-hpc data info FILE.bp [--verify]\\` |`."""
    rows = [row for text in TEXTS.values() for row in re.findall(r"^\| `hydragnn-hpc ([^`]*)`", text, re.M)]
    return {re.match(r"(?:(?:data|site|import) )?\w+", row)[0]: row for row in rows}  # type: ignore[index]


def test_the_tables_of_commands_are_complete() -> None:
    root = get_command(app)
    known = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        known |= {f"{name} {inner}" for inner in getattr(command, "commands", {})} or {name}
    assert set(named_in_tables()) == known


def test_every_help_has_an_example_and_no_emoji() -> None:
    """Rich replaces words between colons, as in NAME=LEVEL:KEY:UNIT."""
    for words in named_in_tables():
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words.split(), "--help"]).stdout
        assert "Example:" in shown, f"{words}: its help has no example"
        emoji = re.findall("[\u2600-\u27bf\U0001f000-\U0001faff]", shown)
        assert not emoji, f"{words}: its help has {emoji}"


def test_every_exit_code_is_explained() -> None:
    table = TEXTS["README.md"][TEXTS["README.md"].index("| exit code | means |") :].split("\n\n")[0]
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", table, re.M)] == sorted(code.value for code in ExitCode)


def test_every_remark_is_explained() -> None:
    text = TEXTS["hydragnn_hpc/dataset/README.md"]
    rows = text[text.index("| remark | says that |") :].split("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}
    assert named == {kind.name for kind in registry.DATA} | {name for name, _ in registry.CAMPAIGN}


def test_every_machine_is_named() -> None:
    text = TEXTS["jobs/README.md"]
    table = text[text.index("| machine | `--site`") :].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", table)) == set(site_names())


def test_every_key_of_a_profile_is_explained() -> None:
    text = TEXTS["jobs/README.md"]
    rows = text[text.index("| key | meaning |") :].split("\n\n")[0].splitlines()[2:]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])} == set(Site.model_fields)


def test_every_dependency_is_explained() -> None:
    block = re.search(r"^REQUIRED = \[\n(.*?)^\]", (ROOT / "setup.py").read_text("utf-8"), re.M | re.S)
    assert block
    text = TEXTS["hydragnn_hpc/DESIGN.md"]
    table = text[text.index("| library | for |") :].split("\n\n")[0]
    for name in re.findall(r'"([A-Za-z0-9_]+)', block[1]):
        assert re.search(rf"\b{name}\b", table), name
