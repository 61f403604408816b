"""The program's shape: imports point one way, heavy libraries stay in their layer, light commands start light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hydragnn_hpc"
FACE = PACKAGE / "__init__.py"
MODULES = sorted(PACKAGE.rglob("*.py"))
DESIGN = (PACKAGE / "DESIGN.md").read_text("utf-8")

# A layer may import what stands left of it. What a job script is made from (submit) needs the foundation alone.
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
    "triton",
)
DISTRIBUTION = {"yaml": "pyyaml", "PIL": "pillow"}
NOT_THE_OLDEST = {
    "torch": "builds of the bound, a pre-release that centres bring, come with 4 GB of CUDA",
    "triton": "the tests of its kernels run with envs/triton.lock",
    "ruff": "it checks the code, whatever the versions of the packages",
    "mypy": "it checks the code, whatever the versions of the packages",
}
OPTIONAL = {"tensorboardx", "triton"}  # extras of setup.py, asked for where they are used


def layer_of(module: str) -> str:
    """Return the layer of a module's dotted name: its folder, or the foundation."""
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
    return imported(path, ast.walk(ast.parse(path.read_text("utf-8"))))


def imported(path: Path, nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of what these nodes of a file import."""
    for node in nodes:
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
        # The package's own file is its public face, and exports from any layer.
        here = ORDER[-1] if path == FACE else layer_of(dotted(path))
        assert here in ORDER, f"{path}: the folder '{here}' has no place in the order {ORDER}"
        for line, name in imports(path):
            if name.split(".")[0] == "hydragnn_hpc":
                there = layer_of(name)
                if ORDER.index(there) > ORDER.index(here) or (here, there) in APART:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {name}")
    assert not wrong, "\n".join(wrong)


def uses() -> dict[str, set[str]]:
    """Return, by module, the modules that it imports, at once or within functions."""
    known = {dotted(path) for path in MODULES}
    found: dict[str, set[str]] = {name: set() for name in known}
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        # The package's own file exports from any layer, but imports a name when it is first used.
        nodes = tree.body if path == FACE else ast.walk(tree)
        for _, name in imported(path, nodes):
            module = name if name in known else name.rpartition(".")[0]
            if module in known:
                found[dotted(path)].add(module)
    return found


def cycle(graph: dict[str, set[str]], node: Callable[[str], str]) -> str:
    """Return a cycle of modules, or of what ``node`` puts them into; "" if there is none."""
    joined: dict[str, set[str]] = {}
    for name, used in graph.items():
        joined.setdefault(node(name), set()).update({node(other) for other in used} - {node(name)})
    try:
        TopologicalSorter(joined).prepare()
    except CycleError as error:
        return " is imported by ".join(error.args[1])
    return ""


def test_no_import_cycles() -> None:
    """Neither of modules, nor of rooms and the modules beside them; an import within a function counts as well."""
    graph = uses()
    assert graph["hydragnn_hpc.member.worker"] > {"hydragnn_hpc.streams", "hydragnn_hpc.member.choose"}
    assert not cycle(graph, str)
    assert not cycle(graph, lambda name: ".".join(name.split(".")[:3]))


def test_the_foundation_is_as_listed() -> None:
    """Each of its modules imports only those that the list in DESIGN.md names before it."""
    words = re.search(r"small foundation [^:]*:(.*?)\.\s+Only", DESIGN, re.S)
    assert words
    listed = re.findall(r"`(\w+)`", words[1])
    part = {name: name.split(".")[1] for name in uses() if "." in name and layer_of(name) == "foundation"}
    assert sorted(listed) == sorted(set(part.values()))
    wrong = [
        f"{name} imports {other}"
        for name, used in uses().items()
        for other in used
        if name in part and listed.index(part[name]) < (listed.index(part[other]) if other in part else 0)
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_import_as_drawn() -> None:
    rows = re.findall(r"^\| `(\w+)/(\w+)` \|.*\|([^|]*)\|$", DESIGN, re.M)
    drawn = {
        f"{layer}.{room}": {f"{layer}.{name}" for name in re.findall(r"`(\w+)`", may)} for layer, room, may in rows
    }
    rooms = {".".join(p.parent.relative_to(PACKAGE).parts) for p in PACKAGE.glob("*/*/__init__.py")}
    assert set(drawn) == rooms
    assert not cycle(drawn, str)
    wrong = []
    for path in MODULES:
        here = ".".join(path.relative_to(PACKAGE).parts[:2])
        for line, name in imports(path) if here in drawn else ():
            there = ".".join(name.split(".")[1:3])
            if there in drawn and there not in {here, *drawn[here]} and there.startswith(here.split(".")[0]):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {there}")
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


def test_no_two_classes_share_a_name() -> None:
    """But for the convolutions' ``Layer``, by which each is found in its module."""
    named: dict[str, list[Path]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                named.setdefault(node.name, []).append(path.relative_to(PACKAGE))
    assert len(named) > 300
    shared = {name: paths for name, paths in named.items() if len(paths) > 1}
    assert {path.parent for path in shared.pop("Layer")} == {Path("member/library/convolutions")}
    assert not shared


def test_heavy_libraries_stay_in_their_layer() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in MODULES
        for line, name in imports(path)
        if (owner := ONLY_IN.get(name.split(".")[0])) and layer_of(dotted(path)) != owner
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


def test_lower_bounds_are_the_oldest_lock() -> None:
    """The versions that `tests/run.sh --oldest` tests with; a wheel may add a build number to its version."""
    setup = (ROOT / "setup.py").read_text("utf-8")
    bounds = {name.lower().replace("_", "-"): version for name, version in re.findall(r'"([\w-]+)>=([\w.]+)"', setup)}
    lock = (ROOT / "envs" / "oldest.lock").read_text("utf-8")
    locked = {name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w-]+)==(\S+)", lock, re.M)}
    assert len(bounds) > 20
    for name, reason in NOT_THE_OLDEST.items():
        assert locked.get(name) != bounds.pop(name), f"{name} is in the lock; {reason} is no reason"
    for name, bound in bounds.items():
        least = [*bound.split("."), "0", "0"][: max(3, bound.count(".") + 1)]
        assert locked[name].split(".")[: len(least)] == least, f"setup.py: {name}>={bound}; the lock: {locked[name]}"


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
    """A new worker starts for every rank, and after every fault."""
    assert loaded_by("import hydragnn_hpc.dataset.build.unseen") <= {"ase"}
