"""Distances from the training set: the same from Python and the command, large for what was not trained on."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from hydragnn_hpc import Ensemble, UserError
from hydragnn_hpc.dataset import store
from hydragnn_hpc.fields import sample_names
from hydragnn_hpc.ledger import read_frozen
from hydragnn_hpc.member.features import Trunk
from hydragnn_hpc.member.predict import Graphs, StackedModels
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.paths import CampaignFolder
from tests.campaigns import called, done
from tests.prediction.campaigns import PLAIN
from tests.prediction.structures import rotated, rows, some


def of_head(features: np.ndarray, weights: dict[str, torch.Tensor], task: str) -> np.ndarray:
    """What the head of a graph-level task makes of features."""
    values, number = torch.from_numpy(features), 0
    while f"heads.{task}.{number}.weight" in weights:
        values = values if number == 0 else values.relu()
        values = values @ weights[f"heads.{task}.{number}.weight"].T + weights[f"heads.{task}.{number}.bias"]
        number += 1
    return values.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "plain by torch", "ternary", "library"])
def test_features_are_what_the_heads_receive(name: str, plain: Path, ternary: Path) -> None:
    """A graph-level head that is applied to them gives the model's own prediction, with every engine."""
    folder, out = (ternary, ternary / "out") if name == "ternary" else (plain.parent, plain)
    if name == "library":
        settings = {**PLAIN, "name": "sage", "replicas": 1, "model": {**PLAIN["model"], "convolution": "SAGE"}}
        (folder / "sage.yaml").write_text(yaml.safe_dump(settings))
        done(folder, "run", "sage.yaml", "out-sage")
        out = folder / "out-sage"
    ensemble = Ensemble(out)
    campaign = read_frozen(CampaignFolder(out)).campaign
    if name == "plain by torch":
        training = campaign.training.model_copy(update={"engine": "torch"})
        campaign = campaign.model_copy(update={"training": training})
    model = read_model(CampaignFolder(out).member(ensemble.variant, 0))
    (batch,) = ensemble._preparation.batches(ensemble._frames(some(folder)))
    features = Trunk(campaign, ensemble.variant, model, "cpu").features(Graphs.of(batch))
    own = StackedModels(campaign, ensemble.variant, [model], "cpu").scaled(Graphs.of(batch))["H"][0]
    assert np.ptp(features, axis=0).max() > 1e-3
    np.testing.assert_allclose(of_head(features, model.weights, "H"), own, rtol=1e-4, atol=1e-5)
    assert (out / "members" / ensemble.variant / "00" / "features.npz").exists()


@pytest.mark.slow
def test_distances_of_the_training_set_are_those_that_the_worker_has_kept(plain: Path) -> None:
    folder = plain.parent
    _, arrays = store.read(folder / "fept.bp")
    names = sample_names(arrays)
    chosen = [names[k] for k in np.flatnonzero(arrays["split"] == 0)]
    done(folder, "predict", "out-plain", "raw", "--out", "raw.csv")
    found = {r["sample"]: r for r in csv.DictReader((folder / "raw.csv").open())}
    distances = np.array([float(found[name]["distance"]) for name in chosen])
    kept = np.load(plain / "members" / "HCM" / "00" / "features.npz")["distances"]
    assert kept == pytest.approx(np.quantile(distances, np.linspace(0, 1, len(kept))), rel=1e-4)
    quantiles = np.sort([float(found[name]["distance_quantile"]) for name in chosen])
    assert quantiles == pytest.approx(np.linspace(0, 1, len(chosen)), abs=2e-3)


@pytest.mark.slow
def test_python_and_the_command_agree_in_any_order_and_batch(plain: Path) -> None:
    folder = plain.parent
    table = rows(folder, "out-plain", "HCM")
    structures, ensemble = some(folder), Ensemble(plain)
    found, backwards = ensemble.distances(structures), ensemble.distances(structures[::-1])
    own = [row for row in table if row["task"] == "H"]
    assert np.array_equal([float(row["distance"]) for row in own], found.distance)
    assert np.array_equal([float(row["distance_quantile"]) for row in own], found.quantile)
    assert np.array_equal(backwards.distance[::-1], found.distance)
    assert np.array_equal(ensemble.distances(structures[2]).distance, found.distance[2:3])
    assert ensemble.distances([rotated(a) for a in structures]).distance == pytest.approx(found.distance, rel=1e-3)
    done(folder, "predict", "out-plain", "few.extxyz", "--out", "guess.extxyz")
    assert ase.io.read(folder / "guess.extxyz", "2").info["distance"] == found.distance[2]


@pytest.mark.slow
def test_what_is_unlike_the_training_is_far_and_counted(plain: Path) -> None:
    folder = plain.parent
    usual = some(folder)[0]
    squeezed, lonely = usual.copy(), Atoms("Fe2", [(0, 0, 0), (0, 0, 2.5)])
    squeezed.positions *= 0.6
    found = Ensemble(plain).distances([usual, squeezed, lonely])
    assert found.quantile[0] < 1 and found.quantile[1:].tolist() == [1.0, 1.0]
    assert found.distance[1:].min() > 2 * found.distance[0]
    ase.io.write(folder / "unlike.extxyz", [usual, squeezed, lonely])
    result = called(folder, "predict", "out-plain", "unlike.extxyz", "--out", "few.csv")
    assert result.returncode == 0
    assert (
        "HCM: 2 of 3 structures are farther from the training set's mean than all that were sampled from it (distance"
        in result.stderr
    )
    assert "HCM: 1 of 3 structures have fewer or more atoms than those of the training set (32); " in result.stderr


@pytest.mark.slow
def test_where_features_are_missing_a_line_says_so(plain: Path) -> None:
    folder = plain.parent
    some(folder)
    out = folder / "out-without"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(plain, out)
    (out / "members" / "HCM" / "00" / "features.npz").unlink()
    result = called(folder, "predict", "out-without", "few.extxyz", "--out", "few.csv")
    assert result.returncode == 0 and "no distances from the training set: HCM/00 has no features.npz" in result.stderr
    assert all(row["distance"] == "" for row in csv.DictReader((folder / "few.csv").open()))
    with pytest.raises(UserError, match="imported, or memory was lacking"):
        Ensemble(out).distances(some(folder))
    result = called(folder, "select", "out-without", "few.extxyz")
    assert result.returncode == 2 and "no distances to choose by: HCM/00 has no features.npz" in result.stderr
    assert "; use --random" in result.stderr and len(result.stderr.splitlines()) == 1
    chosen = list(csv.DictReader(io.StringIO(done(folder, "select", "out-without", "few.extxyz", "--random"))))
    assert chosen and all((row["distance"], row["distance_quantile"]) == ("", "") for row in chosen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("atoms", np.array(32), "'atoms' is int64 of shape [], not finite numbers of shape [2]; remove the member's"),
        ("atoms", np.array(["few", "many"]), "'atoms' is <U4 of shape [2], not finite"),
        ("mean", np.zeros(3), "'mean' is float64 of shape [3], not finite numbers of shape [8]"),
        ("distances", np.full(1001, np.nan), "'distances' is float64 of shape [1001], not finite"),
        ("whitening", None, "features.npz lacks 'whitening'; remove the member's folder and run again"),
    ],
)
def test_malformed_features_are_reported_in_one_line(
    plain: Path, tmp_path: Path, name: str, value: np.ndarray | None, message: str
) -> None:
    some(plain.parent)
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    path = out / "members" / "HCM" / "00" / "features.npz"
    arrays = {**np.load(path), name: value}
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    result = called(plain.parent, "predict", str(out), "few.extxyz", "--out", "few.csv")
    lines = [line for line in result.stderr.splitlines() if "no distances from the training set" in line]
    assert result.returncode == 0 and len(lines) == 1 and message in lines[0], result.stderr
