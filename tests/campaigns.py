"""The small data set and the small campaign that tests share; each test changes what it needs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hydragnn_hpc.cli.main import main
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.report.figures.registry import FIGURES

SMALL: dict[str, Any] = {
    "name": "small",
    "dataset": "small.bp",
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy"},
        "C": {"level": "node", "field": "charge_transfer"},
        "M": {"level": "node", "field": "magnetic_moment"},
    },
    "variants": ["HCM", "H", "M"],
    "replicas": 2,
    "model": {"layers": 2, "channels": 8, "graph_head": [8], "node_head": [8]},
    "training": {"epochs": 4, "batch_size": 16},
    "launch": {"device": "cpu", "checkpoint_seconds": 0},
}


def text(**changes: Any) -> str:
    """Return the small campaign as YAML, with whole sections replaced by ``changes``."""
    return yaml.safe_dump({**SMALL, **changes})


def data_set(folder: Path, cap: int = 8, seed: int = 2) -> Path:
    """Make ``raw`` and ``small.bp`` in ``folder``; return the data set."""
    surrogate.generate(folder / "raw", cap=cap, seed=seed)
    prepare(folder / "raw", folder / "small.bp", Options())
    return folder / "small.bp"


def make(folder: Path, **changes: Any) -> Path:
    """Make the data set and ``campaign.yaml`` in ``folder``; return the campaign's file."""
    data_set(folder)
    (folder / "campaign.yaml").write_text(text(**changes))
    return folder / "campaign.yaml"


def command(folder: Path, *arguments: str, umask: int = -1) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, with this process's umask or another."""
    return subprocess.run(
        [sys.executable, "-m", "hydragnn_hpc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=200,
        umask=umask,
    )


def called(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has loaded torch, where the process itself is not tested.

    A warning, which a user would see on standard error, is an exception here.
    """
    streams = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # ``run`` replaces their handlers
            stack.callback(signal.signal, number, signal.getsignal(number))
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(contextlib.redirect_stdout(streams[0]))
        stack.enter_context(contextlib.redirect_stderr(streams[1]))
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "argv", ["hydragnn-hpc", *arguments])
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", ignored)  # as Python does
        with pytest.raises(SystemExit) as end:
            main()
    return subprocess.CompletedProcess(arguments, int(end.value.code or 0), *(s.getvalue() for s in streams))


@contextlib.contextmanager
def without_figures(but: str = "") -> Iterator[None]:
    """Leave figures, which take seconds to draw, out of this process's reports, except those of the section ``but``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydragnn_hpc.report.write.FIGURES", tuple(f for f in FIGURES if f.section == but))
        yield


def done(folder: Path, *arguments: str) -> str:
    """Run a command that must succeed; return what it printed. ``run``, which starts workers, has its own process."""
    trains = arguments[0] == "run" and "--dry-run" not in arguments
    found = (command if trains else called)(folder, *arguments)
    assert found.returncode == 0, f"{arguments}\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    return found.stdout
