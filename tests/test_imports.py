"""The program's shape: imports point one way, heavy libraries stay in their stage, light commands start light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hydragnn_hpc"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A stage may import what stands left of it. What a job script is made from (submit) needs the foundation alone.
ORDER = ["foundation", "dataset", "member", "prediction", "exchange", "ensemble", "report", "submit", "cli"]
APART = {("ensemble", "member"), ("ensemble", "prediction"), ("report", "prediction"), ("report", "ensemble"),
         ("submit", "dataset"), ("submit", "member"), ("submit", "prediction"), ("submit", "ensemble"),
         ("submit", "report"), ("ensemble", "exchange"), ("report", "exchange"), ("submit", "exchange")}  # fmt: skip
FOUNDATION = {"records"}  # folders of the foundation
ONLY_IN = {
    "adios2": "dataset",
    "mpi4py": "ensemble",
    "torch": "member",
    "torch_geometric": "member",
    "triton": "member",
}
HEAVY = (
    "torch",
    "torch_geometric",
    "pandas",
    "adios2",
    "matplotlib",
    "mpi4py",
    "scipy",
    "ase",
    "vesin",
    "numba",
    "triton",
)
DISTRIBUTION = {"yaml": "pyyaml", "PIL": "pillow"}
OPTIONAL = {"tensorboardx", "triton"}  # extras of setup.py, asked for where they are used


def stage_of(module: str) -> str:
    """Return the stage of a module's dotted name: its folder, or the foundation."""
    parts = module.split(".")
    if parts[1:2] == ["__main__"]:
        return "cli"
    folder = len(parts) > 1 and parts[1] not in FOUNDATION and (PACKAGE / parts[1]).is_dir()
    return parts[1] if folder else "foundation"


def dotted(path: Path) -> str:
    """Return a file's dotted module name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything that a file imports, wherever in it, by statement or by name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; name the module in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def test_imports_point_backwards() -> None:
    wrong = []
    for path in MODULES:
        # The package's own file is its public face, and exports from any stage.
        here = ORDER[-1] if path == PACKAGE / "__init__.py" else stage_of(dotted(path))
        assert here in ORDER, f"{path}: the folder '{here}' has no place in the order {ORDER}"
        for line, name in imports(path):
            if name.split(".")[0] == "hydragnn_hpc":
                there = stage_of(name)
                if ORDER.index(there) > ORDER.index(here) or (here, there) in APART:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_records_import_nothing_but_errors() -> None:
    """They are used on both sides of every process and file."""
    allowed = ("hydragnn_hpc.records.", "hydragnn_hpc.errors.")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in (PACKAGE / "records").glob("*.py")
        for line, name in imports(path)
        if name.startswith("hydragnn_hpc") and not name.startswith(allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_in_their_stage() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in MODULES
        for line, name in imports(path)
        if (owner := ONLY_IN.get(name.split(".")[0])) and stage_of(dotted(path)) != owner
    ]
    assert not wrong, "\n".join(wrong)


def third_party() -> set[str]:
    """Return the distributions that the package imports, normalised."""
    names = {name.split(".")[0] for path in MODULES for _, name in imports(path)}
    names -= set(sys.stdlib_module_names) | {"hydragnn_hpc"}
    return {DISTRIBUTION.get(n, n).lower().replace("_", "-") for n in names}


def test_every_dependency_is_declared_and_used() -> None:
    block = re.search(r"^REQUIRED = \[\n(.*?)^\]", (ROOT / "setup.py").read_text("utf-8"), re.M | re.S)
    assert block
    declared = {re.split(r"[><=]", r)[0].lower().replace("_", "-") for r in re.findall(r'"([^"]+)"', block[1])}
    assert third_party() - OPTIONAL == declared


def loaded_by(code: str) -> set[str]:
    """Run ``code`` in a fresh Python; return which of the heavy libraries it has loaded."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
    script += f"print('LOADED', *(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["submit", "--help"], ["run", "--help"]])
def test_light_commands_start_light(arguments: list[str]) -> None:
    code = f"sys.argv = ['hydragnn-hpc', *{arguments!r}]; from hydragnn_hpc.cli.main import main; main()"
    assert loaded_by(code) == set()


def test_a_supervisor_holds_no_training_library() -> None:
    """It lives beside a worker on every GPU, and must never open a GPU context."""
    assert loaded_by("import hydragnn_hpc.ensemble.run") <= {"mpi4py", "pandas"}


def test_what_a_worker_uses_of_the_data_starts_light() -> None:
    """A worker starts anew for every rank, and after every fault."""
    assert loaded_by("import hydragnn_hpc.dataset.build.unseen") <= {"ase"}
