"""Real campaigns through the real worker, on the emulated device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from hydragnn_hpc import Ensemble
from hydragnn_hpc.ensemble.stack_sizes import fitting_stacks
from hydragnn_hpc.paths import CampaignFolder
from tests import campaigns
from tests.gpu.emulated import MEMORY, emulated
from tests.ranks import DRIVE

ENVIRONMENT = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}  # which must have no effect
EPOCHS, MEMBERS = 2, 4
SHAPES = 2
"""Shapes of batches: whole ones, and the last of an epoch."""
STEPS = 4
"""Steps of an epoch: three whole batches and a smaller one."""
CHANGES: dict[str, Any] = {
    "variants": ["HCM"],
    "replicas": MEMBERS,
    "training": {"epochs": EPOCHS, "batch_size": 60, "engine": "torch"},
    "launch": {"device": "cuda", "stack": MEMBERS, "checkpoint_seconds": 0, "attempts": 1},
}

WAITS = {
    "member/engine/optimize Adam.plan: copy of memory that is not pinned": EPOCHS,  # learning rates
    "member/training/train StackTraining._train: copy of memory that is not pinned": EPOCHS,  # weights of tasks
    "member/training/train StackTraining._train: copy to the host": EPOCHS,  # training losses
    "member/training/evaluate ValidationSet.losses: copy to the host": EPOCHS,  # validation losses
    # A checkpoint after each epoch: parameters and buffers, both also as at the best epoch, and Adam's two moments.
    "member/training/train StackTraining._save: copy to the host": EPOCHS * MEMBERS * 6,
    "member/engine/captured _same_step: _local_scalar_dense": SHAPES,  # the check of a graph
    # The stack shrinks, here to nothing at its end.
    "member/training/train StackTraining._keep: copy of memory that is not pinned": 1,
    "member/engine/optimize Optimizer.select: copy to the host": 1,
}
"""How often the host waits during training, and for what; it also waits in `AROUND`."""
AROUND = {
    "member/training/train StackTraining._begin", "member/training/train StackTraining._model",
    "member/training/evaluate ValidationSet.__init__", "member/training/evaluate _predict",
    "member/training/evaluate weights_hash", "member/engine/resident resident",
    "member/torch_engine/weights Weights.__init__", "member/torch_engine/batches Batches.__init__",
}  # fmt: skip
"""Functions at the start of a stack and at a member's end in which the host waits."""


@dataclass(frozen=True)
class Run:
    """A run that has ended: its output, results by member, and what its workers recorded, in order."""

    output: str
    results: dict[str, dict[str, Any]]
    workers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set."""
    made = tmp_path_factory.mktemp("campaign")
    campaigns.data_set(made)
    return made


def run(folder: Path, name: str, memory: int = MEMORY, fault: str = "none", **changes: Any) -> Run:
    """Run a campaign on one rank, which must succeed."""
    path, out, stage, seen = (folder / f"{name}{end}" for end in (".yaml", "", ".stage", ".seen"))
    content = {**CHANGES, **changes}
    path.write_text(campaigns.text(**content))
    stage.mkdir(exist_ok=True)
    worker = ["tests.gpu.worker", str(seen), str(memory), fault]
    command = [sys.executable, str(DRIVE), str(path), str(out), str(stage), *worker]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env={**os.environ, **ENVIRONMENT})
    logs = "".join(p.read_text()[-3000:] for p in out.glob("logs/worker*"))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}\n{logs}"
    files = sorted(out.glob("members/*/*/result.json"))
    results = {str(p.parent.relative_to(out / "members")): json.loads(p.read_text()) for p in files}
    assert len(results) == content["replicas"] * len(content["variants"])
    assert not list(out.glob("members/*/*/failure.json"))
    return Run(done.stdout + done.stderr, results, [json.loads(line) for line in seen.read_text().splitlines()])


def check_errors(on_device: Run, on_cpu: Run, engines: dict[str, str]) -> None:
    """Check that each variant was trained by its engine on the device, with nearly the errors of the CPU."""
    for name, result in on_device.results.items():
        engine = engines[result["variant"]]
        assert (result["engine"], result["device"]["type"], result["attempt"]) == (engine, "cuda", 1)
        for task, errors in on_cpu.results[name]["tasks"].items():
            assert result["tasks"][task]["rmse"] == pytest.approx(errors["rmse"], rel=2e-2)


def weights(run: Run) -> dict[str, str]:
    """The hashes of members' weights."""
    return {name: result["weights_sha256"] for name, result in run.results.items()}


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Run:
    """The campaign without a fault."""
    return run(folder, "undisturbed")


def test_a_campaign_trains_as_on_the_cpu(folder: Path, undisturbed: Run) -> None:
    on_cpu = run(folder, "cpu", launch={**CHANGES["launch"], "device": "cpu"})
    assert len(set(weights(undisturbed).values())) == MEMBERS
    check_errors(undisturbed, on_cpu, {"HCM": "torch"})
    for result in undisturbed.results.values():
        assert result["precision"] == "highest" and result["sessions"][-1]["device"] == "emulated"


def test_every_other_engine_of_a_device_trains_as_on_the_cpu(folder: Path) -> None:
    # Little to do, because Triton's interpreter is slow; with a rate at which two steps change every error.
    engines = {"PNA": "triton", "GIN": "library"}
    changes: dict[str, Any] = {
        "replicas": 2,
        "training": {"epochs": EPOCHS, "batch_size": 10, "samples": 10, "optimizer": {"learning_rate": 0.005}},
        "model": {**campaigns.SMALL["model"], "layers": 1},
        "variants": [{"name": kind, "tasks": ["H", "C", "M"], "model": {"convolution": kind}} for kind in engines],
    }
    on_cpu = run(folder, "others-cpu", **changes, launch={**CHANGES["launch"], "device": "cpu"})
    check_errors(run(folder, "others", **changes), on_cpu, engines)


def test_members_are_stacked_without_being_asked(folder: Path, undisturbed: Run) -> None:
    auto = run(folder, "auto", launch={**CHANGES["launch"], "stack": "auto"})
    assert [len(result["stack"]) for result in auto.results.values()] == [MEMBERS] * MEMBERS
    assert weights(auto) == weights(undisturbed)


def test_an_ensemble_predicts_as_on_the_cpu(folder: Path, undisturbed: Run) -> None:
    atoms = Atoms("Fe4Pt4", positions=2.7 * np.indices((2, 2, 2)).reshape(3, -1).T)
    expected = Ensemble(folder / "undisturbed", device="cpu").predict([atoms, atoms[2:]])
    with emulated():
        predicted = Ensemble(folder / "undisturbed", device="cuda").predict([atoms, atoms[2:]])
    for task in ("H", "C", "M"):
        np.testing.assert_allclose(predicted[task].members, expected[task].members, rtol=1e-4, atol=1e-5)


def test_the_host_waits_only_where_it_must(undisturbed: Run) -> None:
    (worker,) = undisturbed.workers
    waits = worker["waits"]
    assert {wait: number for wait, number in waits.items() if wait.split(":")[0] not in AROUND} == WAITS
    assert {wait.split(":")[0] for wait in waits if wait not in WAITS} == AROUND
    assert worker["captures"] == SHAPES
    assert worker["replays"] == SHAPES + EPOCHS * STEPS  # the check of each graph, and every step


def test_a_capture_that_fails_costs_a_start_and_no_attempt(folder: Path, undisturbed: Run) -> None:
    uncaptured = run(folder, "uncaptured", fault="capture")
    first, second = uncaptured.workers
    assert first["captures"] == 1 and not first["after_failure"] and second["captures"] == 0
    assert uncaptured.output.count("without being captured") == 1
    assert weights(uncaptured) == weights(undisturbed)
    assert {result["attempt"] for result in uncaptured.results.values()} == {1}


def test_an_automatic_stack_fits_into_the_memory(folder: Path, undisturbed: Run) -> None:
    launch = {**CHANGES["launch"], "stack": "auto"}
    limited = run(folder, "estimated", memory=undisturbed.workers[0]["peak"] * 2 // 3, launch=launch)
    (fits,) = fitting_stacks(CampaignFolder(folder / "estimated")).values()
    assert 1 <= fits < MEMBERS
    assert f"the device's memory is estimated to suffice for {fits} of {MEMBERS} members" in limited.output
    assert {len(result["stack"]) for result in limited.results.values()} <= {fits, MEMBERS % fits or fits}
    first, second = limited.workers
    assert not first["replays"] or first["peak"] < second["peak"]
    assert {result["attempt"] for result in limited.results.values()} == {1}


def test_a_lack_of_memory_halves_the_stack_and_costs_no_attempt(folder: Path, undisturbed: Run) -> None:
    halved = run(folder, "little", memory=undisturbed.workers[0]["peak"] * 2 // 3)
    assert [len(result["stack"]) for result in halved.results.values()] == [2, 2, 2, 2]
    assert halved.output.count("continues in stacks of 2") == 1 and len(halved.workers) == 2
    assert fitting_stacks(CampaignFolder(folder / "little")) == {("HCM", "emulated"): 2}  # which the next run reads
    assert {result["attempt"] for result in halved.results.values()} == {1}
