"""The training of members with inputs, references and a cosine schedule: interruptions, errors, and what is saved."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.dataset.build import prepare, unseen
from hydragnn_hpc.dataset.features.inputs import GeometryOperators
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import geometry_of
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.staged import copies, requirements
from hydragnn_hpc.dataset.staged.staging import Staging
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Frozen
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.engine.training_data import from_staged, values_of, with_reference
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.member.training.stack import WorkerContext
from hydragnn_hpc.member.training.train import StackTraining
from hydragnn_hpc.ownership import NotOwnerError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.claim import Claim
from hydragnn_hpc.records.events import Train
from hydragnn_hpc.records.recipe import ReferencedTask, Requirements
from tests.member_records import CPU

CONTENT = {
    "name": "small",
    "dataset": "small.bp",
    "inputs": ["species", "composition", {"name": "shells", "number": 4}, "ewald"],
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy", "reference": "composition"},
        "C": {"level": "node", "field": "charge_transfer", "reference": "linear", "loss": "nll"},
        "M": {"level": "node", "field": "magnetic_moment", "loss": {"name": "huber", "delta": 0.2}},
    },
    "variants": ["HCM", "H"],
    "replicas": 2,
    "model": {"layers": 2, "channels": 8, "graph_head": [8], "node_head": [8]},
    "training": {"epochs": 4, "batch_size": 16, "schedule": "cosine", "early_stopping": None},
    "launch": {"device": "cpu"},
}
CAMPAIGN = parse_campaign(CONTENT, "")


@pytest.fixture(scope="module")
def staged(surrogate_raw: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> copies.StagedData:
    """A periodic data set, staged for the campaign."""
    folder = tmp_path_factory.mktemp("staged")
    cell = tuple(surrogate.sites()[1].ravel().tolist())
    options = Options(periodic=True, cell=cell)
    prepare.prepare(surrogate_raw(8), folder / "small.bp", options)
    (folder / "copy").mkdir()
    copies.copy(folder / "small.bp", folder / "copy", requirements.of_all(CAMPAIGN))
    return copies.open_staged(folder / "copy")


ASSIGNMENTS = itertools.count(1)


def training(staged: copies.StagedData, out: Path, variant: str = "HCM", **changed: object) -> StackTraining:
    """A stack of both replicas, from their checkpoints where there are any."""
    samples = from_staged(staged, CAMPAIGN)
    asked = parse_campaign({**CONTENT, "training": {**CONTENT["training"], **changed}}, "")
    chosen, _ = choose(asked, asked.variant(variant), samples, torch.device("cpu"))
    # The campaign is the same whatever engine trains it.
    own = parse_campaign({**CONTENT, "training": {**asked.training.model_dump(), "engine": "auto"}}, "")
    frozen = Frozen(own, config_hash(own, staged.manifest.sha256), staged.manifest.sha256)
    context = WorkerContext(CampaignFolder(out), frozen, staged.manifest, "host", 0, 0, CPU, {})
    claim = Claim(run=1, assignment=next(ASSIGNMENTS))
    return StackTraining(context, samples, chosen, Train(variant=variant, replicas=(0, 1), attempt=1, claim=claim))


def results(out: Path) -> dict[str, tuple[str, dict]]:
    """Weights and errors of every member."""
    found = {}
    for path in sorted(out.glob("members/*/*/result.json")):
        content = json.loads(path.read_text())
        found[str(path.parent.relative_to(out))] = (content["weights_sha256"], content["tasks"])
    return found


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_an_interrupted_training_ends_the_same(staged: copies.StagedData, tmp_path: Path, optimizer: str) -> None:
    changed = {"optimizer": {"name": optimizer, "learning_rate": 1e-3}}
    whole_run = training(staged, tmp_path / "whole", **changed)
    while whole_run.members:
        whole_run.epoch(lambda: None)
    for _ in range(4):
        part = training(staged, tmp_path / "parts", **changed)
        part.epoch(lambda: None)
        part.save()
    found = results(tmp_path / "whole")
    assert len(found) == 2 and found == results(tmp_path / "parts")
    rows = (tmp_path / "parts" / "members/HCM/00/history.csv").read_text().splitlines()[1:]
    expected = [1e-3 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)]
    assert [float(row.split(",")[3]) for row in rows] == pytest.approx(expected)


def test_a_stack_that_was_handed_on_writes_nothing_more(staged: copies.StagedData, tmp_path: Path) -> None:
    """Neither while the later attempt trains its members, nor once they are finished, even if it trains to the end."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "members").rglob("*.*")}

    first = training(staged, tmp_path)
    first.epoch(lambda: None)
    first.save()
    second = training(staged, tmp_path)
    before = files()
    with pytest.raises(NotOwnerError, match="belongs to assignment"):
        first.save()
    assert files() == before
    while second.members:
        second.epoch(lambda: None)
    before = files()
    written = ["history.csv", "log.txt", "model.pt", "predictions.npz", "result.json", "validation.npz"]
    assert sorted({path.name for path in before}) == written
    for write in (first.save, lambda: first.members[0].log("late")):
        with pytest.raises(NotOwnerError, match="no longer belongs to anyone"):
            write()
    with pytest.raises(NotOwnerError):
        for _ in range(4):
            first.epoch(lambda: None)
    assert files() == before


def test_another_engine_after_an_interruption_is_recorded(staged: copies.StagedData, tmp_path: Path) -> None:
    for engine in ("fused", "torch", "torch"):
        part = training(staged, tmp_path, engine=engine)
        part.epoch(lambda: None)
        part.save()
    assert not part.engine_changes
    part = training(staged, tmp_path, engine="fused")
    (change, _) = part.engine_changes
    assert change.before.startswith("engine torch with ") and change.after.startswith("engine fused with ")
    while part.members:
        part.epoch(lambda: None)
    result = json.loads((tmp_path / "members/HCM/00/result.json").read_text())
    assert [s["engine"] for s in result["sessions"]] == ["fused", "torch", "torch", "fused"]
    assert all(s["lanes"] in (4, 8, 16) for s in result["sessions"])
    log = (tmp_path / "members/HCM/00/log.txt").read_text()
    assert log.count("continues with") == 2 and f"was trained by {change.before}, continues with {change.after}" in log


def test_errors_and_predictions_are_of_the_whole_property(staged: copies.StagedData, tmp_path: Path) -> None:
    stack = training(staged, tmp_path)
    while stack.members:
        stack.epoch(lambda: None)
    copies.write_truth(staged, 2, tmp_path / "test_set.npz")
    truth = np.load(tmp_path / "test_set.npz")
    predicted = np.load(tmp_path / "members/HCM/00/predictions.npz")
    tasks = results(tmp_path)["members/HCM/00"][1]
    for name, task in CAMPAIGN.tasks.items():
        target = staged.manifest.targets[task.field]
        error = float(np.sqrt(np.mean((predicted[name] - truth[task.field]) ** 2)))
        assert tasks[name]["rmse_unit"] == pytest.approx(error, rel=1e-5)
        assert tasks[name]["rmse"] == pytest.approx(error / (target.maximum[0] - target.minimum[0]), rel=1e-5)
        assert 0 < tasks[name]["rmse_validation"] < 1
    # Four epochs leave little but the mean per composition, and that alone is better than 0.05.
    assert tasks["H"]["rmse"] < 0.05


def test_reference_and_residual_are_the_target(staged: copies.StagedData) -> None:
    samples = from_staged(staged, CAMPAIGN)
    assert set(samples.references) == {"H", "C"} and samples.inputs.shape[1] == 7
    chosen = samples.split.test[::3]
    for name, task in CAMPAIGN.tasks.items():
        back = with_reference(samples, name, chosen, values_of(samples, name, chosen))
        rows = chosen
        if task.level == "node":
            rows = copies.atoms_of(staged.arrays["atom_offsets"], chosen)
        np.testing.assert_allclose(back, staged.arrays[f"scaled_{task.field}"][rows], atol=2e-7)


def test_a_model_holds_what_new_structures_need(staged: copies.StagedData, tmp_path: Path) -> None:
    stack = training(staged, tmp_path, "H")
    while stack.members:
        stack.epoch(lambda: None)
    ready, arrays = read_model(CampaignFolder(tmp_path).member("H", 0)).facts.ready, staged.arrays
    assert ready.inputs is not None
    numbers = arrays["atomic_numbers"].reshape(-1, 32)[:5]
    again = GeometryOperators(ready.inputs, geometry_of(arrays, 0)).inputs(numbers)
    np.testing.assert_allclose(again.reshape(-1, 7), arrays["node_inputs"][:160], atol=1e-5)
    structures = unseen.UnseenStructures(
        [], [], [], arrays["sample_geometry"], arrays["atom_offsets"], arrays["atomic_numbers"], arrays["node_inputs"]
    )
    for task in ("H", "C"):
        found = structures.reference(ready.references[task])
        np.testing.assert_allclose(found, arrays[f"reference_{task}"], atol=1e-6)


def test_a_copy_made_for_another_campaign_is_refused(staged: copies.StagedData) -> None:
    other = parse_campaign({**CONTENT, "inputs": ["species", "ewald"]}, "")
    with pytest.raises(UserError, match="other inputs or references"):
        from_staged(staged, other)
    plain = copies.StagedData(staged.manifest, staged.arrays)
    with pytest.raises(UserError, match="other inputs or references"):
        from_staged(plain, CAMPAIGN)


def test_a_reference_with_too_few_samples_is_reported(surrogate_raw: Callable[[int], Path], tmp_path: Path) -> None:
    """By the child process that copies the data set, in one line."""
    prepare.prepare(surrogate_raw(1), tmp_path / "one.bp", Options(split_by="random"))
    task = ReferencedTask(name="H", field="mixing_enthalpy", level="graph", reference="composition")
    many = Requirements(tasks=(task,))
    parent = tmp_path / "local"
    parent.mkdir()
    staging = Staging(tmp_path / "one.bp", parent, required=(many,))
    with pytest.raises(UserError, match=r"^tasks\.H\.reference=composition: \d+ samples .* or none$"), staging:
        pass
    assert not list(parent.iterdir())
