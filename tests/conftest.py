"""Options and fixtures of the whole test run."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator
from importlib import metadata
from pathlib import Path

import hypothesis
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: repeats under more settings too; ``--fault-seed``: the same faults again; ``--other-python``."""
    parser.addoption("--long", action="store_true", help="also the tests that repeat a promise under more settings")
    parser.addoption("--other-python", help="Python of an environment with other versions of the packages")
    parser.addoption("--fault-seed", type=int, default=None, help="seed of the fault suite; printed at every run")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed; hide a Slurm that runs on this host."""
    os.environ["SLURM_CONF"] = os.devnull  # without this file, Slurm's commands would wait a minute
    if metadata.version("torch").endswith("+cpu"):
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: its kernels then run on the CPU
    if os.environ.get("CI"):  # where a failure must be due to the change, properties are tried on the same examples
        hypothesis.settings.register_profile("same-examples", derandomize=True, deadline=None)
        hypothesis.settings.load_profile("same-examples")
    if config.getoption("--fault-seed") is None:
        # A new seed for every run, except in continuous integration.
        config.option.fault_seed = 20221 if os.environ.get("CI") else random.SystemRandom().randrange(10**6)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out repeats under more settings, and tests of another environment, unless they are requested."""
    for option, marker in (("--long", "long"), ("--other-python", "versions")):
        if not config.getoption(option):
            config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker(marker)])
            items[:] = [i for i in items if not i.get_closest_marker(marker)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI set, nothing may be missing but a GPU: a test that is skipped has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI is set: {report.longrepr[2]}"
    return report


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed, so that a failure can be repeated."""
    return f"fault suite: --fault-seed {config.getoption('--fault-seed')}"


@pytest.fixture(scope="session")
def fault_seed(pytestconfig: pytest.Config) -> int:
    """The seed of everything random in the fault suite."""
    return int(pytestconfig.getoption("--fault-seed"))


@pytest.fixture(scope="session")
def long_form(pytestconfig: pytest.Config) -> bool:
    """Whether repeats under more settings run too."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def surrogate_raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """``surrogate_raw(cap)``: surrogate LSMS text, at most ``cap`` samples per composition; read it only."""
    from hydragnn_hpc.dataset.generate import surrogate

    made: dict[int, Path] = {}

    def raw(cap: int) -> Path:
        if cap not in made:
            folder = tmp_path_factory.mktemp("surrogate") / f"cap{cap}"
            surrogate.generate(folder, cap, seed=0)
            made[cap] = folder
        return made[cap]

    return raw


@pytest.fixture(scope="session")
def small_bp(surrogate_raw: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared surrogate data set of 250 samples, all on one geometry; read it only."""
    from hydragnn_hpc.dataset.build import prepare
    from hydragnn_hpc.dataset.read.options import Options

    path = tmp_path_factory.mktemp("prepared") / "small.bp"
    prepare.prepare(surrogate_raw(8), path, Options())
    return path
