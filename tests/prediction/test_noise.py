"""A task's noise: the noise that was planted, apart from the members' spread; the same wherever it is shown."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk

from hydragnn_hpc import Ensemble, EnsembleCalculator
from hydragnn_hpc.prediction.ensemble import CALIBRATED, STD_PARTS, TaskPrediction
from hydragnn_hpc.prediction.selection import _both_spreads
from tests.campaigns import called, done

PLANTED = {26: 0.05, 78: 0.2}
"""Standard deviation of q about its mean, by proton number."""
NOISY = {
    "name": "noisy",
    "dataset": "noisy.bp",
    "tasks": {
        "Q": {"level": "node", "field": "q", "loss": "nll"},
        "R": {"level": "node", "field": "q", "loss": "nll", "reference": "species"},
        "E": {"level": "graph", "field": "e", "loss": "nll", "weight": 0.1},
        "K": {"level": "graph", "field": "e"},
    },
    "variants": ["QREK", {"name": "plain", "tasks": ["Q", "K"], "losses": {"Q": "mse"}}],
    "replicas": 3,
    "model": {"layers": 1, "channels": 16, "graph_head": [16], "node_head": [16]},
    "training": {
        "epochs": 60,
        "batch_size": 16,
        "schedule": "cosine",
        "early_stopping": None,
        "optimizer": {"learning_rate": 5.0e-3},
    },
    "launch": {"device": "cpu"},
}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``raw.extxyz``, structures of one geometry, and a campaign on them that has run: ``out``."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    structures = []
    for _ in range(400):
        atoms = bulk("Fe", "bcc", a=2.9, cubic=True).repeat((2, 2, 3))
        atoms.numbers = rng.choice([26, 78], len(atoms))
        atoms.pbc = False
        sigma = np.vectorize(PLANTED.get)(atoms.numbers)
        atoms.arrays["q"] = np.where(atoms.numbers == 26, 0.3, -0.2) + sigma * rng.standard_normal(len(atoms))
        atoms.info["e"] = float((atoms.numbers == 26).sum() + 0.5 * rng.standard_normal())
        structures.append(atoms)
    ase.io.write(folder / "raw.extxyz", structures)
    targets = ["--target", "q=node:q:e", "--target", "e=graph:e:eV"]
    done(folder, "data", "prepare", "raw.extxyz", "noisy.bp", "--cutoff", "6bohr", *targets)
    (folder / "campaign.yaml").write_text(yaml.safe_dump(NOISY))
    done(folder, "run", "campaign.yaml", "out")
    return folder


def some(folder: Path) -> list[Atoms]:
    """Some of the structures, without values."""
    return [Atoms(a.numbers, a.positions) for a in ase.io.read(folder / "raw.extxyz", "::20")]


@pytest.mark.slow
def test_the_learned_noise_is_the_planted_one(noisy: Path) -> None:
    predicted = Ensemble(noisy / "out", "QREK").predict(some(noisy))
    numbers = np.concatenate([atoms.numbers for atoms in some(noisy)])
    for task, (number, planted) in itertools.product("QR", PLANTED.items()):
        noise = np.median(predicted[task].std_noise[numbers == number])
        assert planted / 1.35 < noise < planted * 1.35, (task, number)
        mean = predicted[task].mean[numbers == number].mean()
        assert mean == pytest.approx(0.3 if number == 26 else -0.2, abs=0.05), (task, number)
    for task in "QRE":
        own = predicted[task]
        assert np.array_equal(own.std_spread, np.sqrt(((own.members - own.mean) ** 2).sum(axis=0) / 2))
        assert own.std == pytest.approx(np.hypot(own.std_spread, own.std_noise), rel=1e-12)
        assert np.array_equal(_both_spreads(own)[:1], [[np.sqrt((own.of(0).std_spread ** 2).mean())] * 2])
    plain = predicted["K"]
    assert plain.std_noise is None and plain.std_spread is None and np.isfinite(plain.std).all()


@pytest.mark.slow
def test_python_ase_and_the_command_agree_to_the_last_bit(noisy: Path) -> None:
    structures = some(noisy)
    ase.io.write(noisy / "few.extxyz", structures)
    done(noisy, "predict", "out", "few.extxyz", "--out", "few.csv")
    table = list(csv.DictReader((noisy / "few.csv").open()))
    assert list(table[0])[11:] == [*STD_PARTS, *CALIBRATED, "distance", "distance_quantile"]
    for variant, of_task in (("QREK", {**dict.fromkeys("QRE", STD_PARTS), "K": ()}), ("plain", {"Q": (), "K": ()})):
        predicted = Ensemble(noisy / "out", variant).predict(structures)
        atoms = structures[2]
        atoms.calc = EnsembleCalculator(noisy / "out", variant)
        for task, separate in of_task.items():
            mine = [row for row in table if (row["variant"], row["task"]) == (variant, task)]
            for name in ("mean", "std", *separate, *CALIBRATED):
                values = getattr(predicted[task], name)[:, 0]
                assert np.array_equal([float(row[name]) for row in mine], values)
                by_ase = atoms.calc.get_property(task if name == "mean" else f"{task}_{name}", atoms)
                assert np.array_equal(np.ravel(by_ase), getattr(predicted[task].of(2), name)[:, 0])
            if not separate:
                assert {row[name] for row in mine for name in STD_PARTS} == {""}
                assert f"{task}_std_noise" not in atoms.calc.results
    done(noisy, "predict", "out", "few.extxyz", "--variant", "QREK", "--out", "guess.extxyz")
    guess, own = ase.io.read(noisy / "guess.extxyz", "2"), Ensemble(noisy / "out", "QREK").predict(structures[2])
    assert guess.info["E_std_noise"] == own["E"].std_noise[0, 0] and "K_std_noise" not in guess.info
    assert np.array_equal(guess.arrays["Q_std_spread"], own["Q"].std_spread[:, 0])
    done(noisy, "predict", "out", "few.extxyz", "--variant", "plain", "--out", "plain.csv")
    assert not {*STD_PARTS} & set(next(csv.DictReader((noisy / "plain.csv").open())))


@pytest.mark.slow
def test_one_member_has_noise_and_no_spread(noisy: Path) -> None:
    own: TaskPrediction = Ensemble(noisy / "out", "QREK", select=1).predict(some(noisy))["Q"]
    assert np.isnan(own.std).all() and np.isnan(own.std_spread).all() and (own.std_noise > 0).all()
    done(noisy, "predict", "out", "raw.extxyz", "--variant", "QREK", "--select", "1", "--out", "one.csv")
    row = next(csv.DictReader((noisy / "one.csv").open()))
    assert row["std"] == row["std_spread"] == "" and float(row["std_noise"]) > 0


@pytest.mark.slow
def test_the_ensemble_predicts_what_its_members_kept(noisy: Path) -> None:
    """Members kept predictions for the validation set. Raw intervals cover it with the noise, and not without."""
    kept = [np.load(path) for path in sorted(noisy.glob("out/members/QREK/*/validation.npz"))]
    truth = np.load(noisy / "out" / "validation_set.npz")
    every = ase.io.read(noisy / "raw.extxyz", ":")
    predicted = Ensemble(noisy / "out", "QREK", level=0.8).predict([Atoms(a.numbers, a.positions) for a in every])
    assert set(kept[0].files) == {"sample", *"QREK", "Q:noise", "R:noise", "E:noise"}
    order = [int(name.rpartition("@")[2]) for name in truth["names"]]
    for task in "QRE":
        together = [predicted[task].of(int(k)) for k in order]
        noise = np.concatenate([one.std_noise for one in together])
        assert noise == pytest.approx(np.sqrt(np.mean([k[f"{task}:noise"] ** 2 for k in kept], axis=0)), rel=1e-3)
        mean, low, high = (np.concatenate([getattr(one, n) for one in together]) for n in ("mean", "low", "high"))
        true = truth["e" if task == "E" else "q"]
        assert mean == pytest.approx(np.mean([k[task] for k in kept], axis=0), rel=1e-3, abs=1e-4)
        assert 0.79 < np.mean((low <= true) & (true <= high)) < 0.85
        if task != "E":
            spread, std = (np.concatenate([getattr(one, n) for one in together]) for n in ("std_spread", "std"))
            raw, without = (np.mean(np.abs(mean - true) <= 1.2816 * s) for s in (std, spread))
            assert without < 0.6 < 0.7 < raw < 0.9


@pytest.mark.slow
def test_the_report_and_the_results_are_of_the_mean(noisy: Path) -> None:
    done(noisy, "report", "out")
    results = [json.loads(p.read_text()) for p in sorted(noisy.glob("out/members/QREK/*/result.json"))]
    test = np.load(noisy / "out" / "test_set.npz")
    for number, result in enumerate(results):
        predictions = np.load(noisy / "out" / "members" / "QREK" / f"{number:02d}" / "predictions.npz")
        error = predictions["Q"] - test["q"]
        assert result["tasks"]["Q"]["rmse_unit"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-6)
        assert result["validation_loss"] < 0 and 0.1 < result["tasks"]["Q"]["rmse_unit"] < 0.2
    page = (noisy / "out" / "report" / "report.md").read_text()
    assert "Where members predict the noise of the data (loss: nll), the spread includes it." in page
    rows = list(csv.DictReader((noisy / "out" / "report" / "calibration.csv").open()))
    at_80 = {(r["variant"], r["task"], r["species"]): float(r["raw"]) for r in rows if r["level"] == "0.8"}
    assert 0.7 < at_80["QREK", "Q", ""] < 0.9 and at_80["plain", "Q", ""] < 0.5


@pytest.mark.slow
def test_hydragnn_has_no_such_model(noisy: Path) -> None:
    found = called(noisy, "export", "out", "models", "--to", "hydragnn", "--variant", "QREK")
    assert found.returncode and not (noisy / "models").exists()
    assert "cannot be exported: tasks.Q.loss=nll: HydraGNN 3 predicts no variance" in found.stderr
