"""Real campaigns: the same bits however they are spread, stacked or interrupted; refusals; deadlines."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hydragnn_hpc.durations import SAVE_SECONDS
from tests import campaigns
from tests.outcomes import outcome

pytestmark = pytest.mark.mpi
BIN = Path(sys.executable).parent


def run(campaign: Path, out: Path, *options: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a campaign under mpirun; with ``ranks=0``, without a launcher."""
    launcher = [str(BIN / "mpirun"), "-n", str(ranks)] if ranks else []
    command = [*launcher, str(BIN / "hydragnn-hpc"), "run", str(campaign), str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def as_settings(changes: Iterable[str]) -> list[str]:
    """Return the options of ``run`` that make these changes of settings, each ``key=value``."""
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module")
def reference(finished: Path) -> dict[str, Any]:
    """The outcome of the campaign on one rank, without a launcher."""
    found = outcome(finished)
    assert len({entry[0] for name, entry in found.items() if name != "table1"}) == 6, "members share their weights"
    return found


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        pytest.param(1, [], id="1 rank", marks=pytest.mark.long),
        pytest.param(2, [], id="2 ranks", marks=pytest.mark.long),
        pytest.param(4, [], id="4 ranks"),
        pytest.param(1, ["--set", "launch.slots_per_device=2"], id="2 slots"),
    ],
)
def test_the_same_bits_however_it_is_spread(
    small: Path, tmp_path: Path, reference: dict[str, Any], ranks: int, options: list[str]
) -> None:
    done = run(small / "campaign.yaml", tmp_path / "out", *options, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "out") == reference


def test_the_same_bits_alone_and_in_a_stack(small: Path, tmp_path: Path) -> None:
    """Members of the fused and of the torch engine."""
    plain = ("HCM", "H", "M")
    variants = [*plain, *({"name": f"{v}-torch", "tasks": [*v], "training": {"engine": "torch"}} for v in plain)]
    for stack in (1, 2):
        changes = [f"launch.stack={stack}", f"variants={json.dumps(variants)}", "replicas=3"]
        options = as_settings([*changes, "training.early_stopping.patience=2"])
        done = run(small / "campaign.yaml", tmp_path / f"out{stack}", *options, ranks=0)
        assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "out1") == outcome(tmp_path / "out2")
    results = [json.loads(path.read_text()) for path in tmp_path.glob("out1/members/*/*/result.json")]
    assert len(results) == 18 and {r["engine"] for r in results} == {"fused", "torch"}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_deadline_saves_everything_and_the_same_command_continues(small: Path, tmp_path: Path, ranks: int) -> None:
    """Both members train at the same time: in a stack, or each on a rank of its own."""
    changes = ["variants=[HCM]", "training.epochs=400", "training.early_stopping=null", f"launch.stack={3 - ranks}"]
    long = as_settings(changes)
    started = time.monotonic()
    undisturbed = run(small / "campaign.yaml", tmp_path / "whole", *long, ranks=ranks)
    assert undisturbed.returncode == 0, undisturbed.stderr
    # Measured, so that the first run is cut short during training, however busy the machine.
    limit = f"{SAVE_SECONDS + 0.55 * (time.monotonic() - started):.0f}s"
    out = tmp_path / "out"
    done = run(small / "campaign.yaml", out, *long, "--time-limit", limit, ranks=ranks)
    assert done.returncode == 75 and "run the same command again" in done.stderr, done.stderr
    assert len(list(out.glob("members/*/*/checkpoint.pt"))) == 2
    assert not list(out.glob("members/*/*/result.json"))
    done = run(small / "campaign.yaml", out, *long, "--time-limit", "1h", ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert outcome(out) == outcome(tmp_path / "whole")


def test_refusals(small: Path, tmp_path: Path, finished: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = outcome(out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    cases = {
        "training.epochs: 4 -> 3": (out, ["--set", "training.epochs=3"]),
        "variants: H is missing": (out, ["--set", "variants=[HCM, M]"]),
        "holds no campaign": (tmp_path / "mine", []),
        "campaign.yaml was not written by a run": (small, []),
        "is a file; give a campaign's folder": (small / "campaign.yaml", []),
        "did you mean 'epochs'": (tmp_path / "new", ["--set", "training.epoch=5"]),
        "batch_size=100000 is larger": (tmp_path / "new", ["--set", "training.batch_size=100000"]),
        "unknown task 'X'": (tmp_path / "new", ["--set", "variants=[X]"]),
        "--time-limit 'soon'": (tmp_path / "new", ["--time-limit", "soon"]),
    }
    for message, (where, options) in cases.items():
        done = campaigns.called(small, "run", "campaign.yaml", str(where), *options)
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert done.returncode == 2 and len(errors) == 1 and message in errors[0], (message, done.stderr)
    assert not (tmp_path / "new").exists()
    assert outcome(out) == before
    assert campaigns.called(small, "run", "campaign.yaml", str(out), "--set", "launch.attempts=5").returncode == 0


def test_an_internal_error_is_printed_as_python_prints_it(small: Path, tmp_path: Path, finished: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    code = """
from hydragnn_hpc.cli.main import main
from hydragnn_hpc.ensemble.supervisor import Rank
Rank._loop = lambda rank: 1 / 0
main()
"""
    command = [sys.executable, "-c", code, "run", str(small / "campaign.yaml"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "ZeroDivisionError: division by zero" in lines, done.stderr
    assert lines[-1] == "hydragnn-hpc: error: rank 0: internal error, see above"


def test_many_descriptors(small: Path, tmp_path: Path) -> None:
    """Rank 0 of a large run has more than 1,024 of them, which ``select.select`` cannot hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    command = [str(BIN / "hydragnn-hpc"), "run", str(small / "campaign.yaml"), str(tmp_path / "out")]
    command += as_settings(["variants=[H]", "replicas=1"])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, pass_fds=descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert done.returncode == 0, done.stderr


def test_a_dry_run_writes_nothing(small: Path, tmp_path: Path) -> None:
    done = run(small / "campaign.yaml", tmp_path / "out", "--dry-run", ranks=2)
    assert done.returncode == 0
    assert "6 waiting" in done.stdout and "2 ranks x 1 worker (" in done.stdout
    assert not (tmp_path / "out").exists()
