"""Reports rendered once for all tests: drawing takes seconds."""

from __future__ import annotations

import pytest

from tests.report import making
from tests.report.rendering import EVIL, Rendered, render


@pytest.fixture(scope="session")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The paper's variants with three replicas, of which some failed, diverged, wait, run or were interrupted."""
    states = {"HM": "failed", "C/01": "diverged", "M": "waiting", "CM/01": "running", "CM/02": "interrupted"}
    out = tmp_path_factory.mktemp("report") / "unfinished"
    return render(out, replicas=3, samples=60, epochs=12, states=states, cause=EVIL, last_output=(EVIL, EVIL))


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Tasks that this program does not know: a graph target, and a node target of three components; stacked."""
    tasks = {"gap": {"level": "graph", "field": "band_gap"}, "F": {"level": "node", "field": "forces"}}
    variants = ({"name": "gap_and+F", "tasks": ["gap", "F"]}, "gap", "F")
    out = tmp_path_factory.mktemp("report") / "foreign"
    return render(out, tasks=tasks, variants=variants, replicas=4, stack=4, samples=40, epochs=10, width=3)


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """One task, one replica."""
    out = tmp_path_factory.mktemp("report") / "single"
    return render(out, tasks={"H": making.FEPT["H"]}, variants=("H",), replicas=1, samples=20, epochs=6)


@pytest.fixture(scope="session")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """No member has finished, and there is no test set yet."""
    out = tmp_path_factory.mktemp("report") / "nothing"
    return render(out, variants=("HC", "H"), replicas=2, arrays=False, states={"HC": "waiting", "H": "waiting"})
