"""True values, predictions and uncertainty: against numpy over all members at once, by hand, by known answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hydragnn_hpc.atomic import write_json
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import facts_of
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.store import shared
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PROPERTIES
from hydragnn_hpc.report.analysis import uncertainty
from hydragnn_hpc.report.results import ground_truth, predictions
from hydragnn_hpc.report.results.load import Results, load
from tests.dataset.synthetic import SOURCE
from tests.report import making


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("predictions") / "out"
    return load(making.make(out, variants=("HC", "H"), replicas=5, samples=50, epochs=5, states={"H/02": "diverged"}))


def everything(results: Results, variant: str, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Read all members' predictions at once, and the truth."""
    paths = sorted((results.folder.members / variant).glob("*/predictions.npz"))
    field = results.campaign.tasks[task].field
    return np.array([np.load(p)[task] for p in paths]), np.load(results.folder.test_set)[field]


def test_one_pass_gives_what_all_at_once_give(results: Results) -> None:
    test_set = ground_truth.read_test_set(results)
    collected = predictions.collect(results, test_set)
    assert not collected.problems and len(collected.ensembles) == 3
    for (variant, task), ensemble in collected.ensembles.items():
        predicted, truth = everything(results, variant, task)
        error = predicted - truth
        assert ensemble.n == len(predicted) == (5 if variant == "HC" else 4)
        np.testing.assert_allclose(ensemble.rmse, np.sqrt((error**2).mean((1, 2))), rtol=1e-12)
        np.testing.assert_allclose(ensemble.mae, np.abs(error).mean((1, 2)), rtol=1e-12)
        np.testing.assert_allclose(ensemble.mean, predicted.mean(0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ensemble.std, predicted.std(0, ddof=1), rtol=1e-8, atol=1e-12)
        r2 = [np.corrcoef(p.ravel(), truth.ravel())[0, 1] ** 2 for p in predicted]
        np.testing.assert_allclose(ensemble.r2, r2, atol=1e-3)
        density, _ = np.histogram(error[0], ensemble.edges.errors)
        width = np.diff(ensemble.edges.errors)
        np.testing.assert_allclose(ensemble.densities[0], density / error[0].size / width)
        parity, _, _ = np.histogram2d(
            np.tile(truth.ravel(), len(predicted)), predicted.ravel(), [ensemble.edges.values] * 2
        )
        assert abs(ensemble.parity - parity).sum() <= 2 and ensemble.parity.sum() == parity.sum()  # a value on an edge


def test_the_ensemble_by_numpy(results: Results) -> None:
    test_set = ground_truth.read_test_set(results)
    ensemble = predictions.collect(results, test_set).ensembles["HC", "C"]
    found = uncertainty.assess(ensemble, test_set)
    predicted, truth = everything(results, "HC", "C")
    error, spread = np.abs(predicted.mean(0) - truth).ravel(), predicted.std(0, ddof=1).ravel()
    assert found.rmse_ensemble == pytest.approx(np.sqrt((error**2).mean()))
    assert found.rmse_best_member == pytest.approx(np.sqrt(((predicted - truth) ** 2).mean((1, 2))).min())
    assert found.rmse_ensemble < found.rmse_mean_member
    assert found.spearman == pytest.approx(stats.spearmanr(spread, error).statistic)
    assert found.pearson == pytest.approx(np.corrcoef(spread, error)[0, 1])
    half = found.coverage[list(uncertainty.LEVELS).index(0.5)]
    assert half == pytest.approx(np.mean(error < 0.6744897501960817 * spread), abs=1e-3)
    assert found.spread == pytest.approx(np.sqrt((spread**2).mean()))
    formulas = test_set.formulas()
    worst = found.least_certain[0]
    own = np.repeat(formulas == worst.formula, making.SITES)
    each = np.sqrt((spread.reshape(-1, making.SITES) ** 2).mean(1))
    assert worst.samples == (formulas == worst.formula).sum() and worst.spread == pytest.approx(
        each[formulas == worst.formula].mean()
    )
    assert worst.rmse == pytest.approx(np.sqrt((error[own] ** 2).mean()))
    assert worst.spread == pytest.approx(max(each[formulas == f].mean() for f in set(formulas)))


def test_a_calibrated_ensemble_is_called_calibrated_and_an_overconfident_one_not() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2.0, 40_000)
    error = np.abs(rng.standard_normal(40_000) * spread)
    assert np.abs(uncertainty.coverage_of(error, spread) - uncertainty.LEVELS).mean() < 0.01
    small = uncertainty.coverage_of(error, spread / 3)
    expected = 2 * stats.norm.cdf(stats.norm.ppf((1 + uncertainty.LEVELS) / 2) / 3) - 1
    np.testing.assert_allclose(small, expected, atol=0.01)


def test_what_does_not_fit_is_left_out_and_named(tmp_path: Path) -> None:
    """A member whose predictions of one task do not fit is left out of all ensembles of its variant."""
    out = making.make(tmp_path / "x", variants=("HC",), replicas=7, samples=20, epochs=4)
    paths = [out / f"members/HC/{k:02d}/predictions.npz" for k in range(7)]
    whole = dict(np.load(paths[2]))
    paths[0].unlink()
    paths[1].write_bytes(b"PK no archive")
    np.savez(paths[2], **{**whole, "C": np.zeros((3, 1))})
    np.savez(paths[3], **{**whole, "C": np.full_like(whole["C"], np.nan)})
    np.savez(paths[4], **{**whole, "C": np.full(whole["C"].shape, "text")})
    result = json.loads((out / "members/HC/05/result.json").read_text())
    result["tasks"]["C"]["rmse_unit"] *= 1.5
    write_json(out / "members/HC/05/result.json", result)
    results = load(out)
    collected = predictions.collect(results, ground_truth.read_test_set(results))
    assert {task: e.n for (_, task), e in collected.ensembles.items()} == {"H": 2, "C": 2}
    does_not_fit = "'C' in predictions.npz does not fit the test set; left out"
    expected = ["missing", "cannot read", *[does_not_fit] * 3, "result.json says RMSE"]
    for member, (problem, words) in enumerate(zip(collected.problems, expected, strict=True)):
        assert problem.startswith(f"HC/{member:02d}: ") and words in problem


def test_members_without_the_noise_that_they_predict_form_no_ensemble(tmp_path: Path) -> None:
    tasks = {"H": {**making.FEPT["H"], "loss": "nll"}}
    results = load(making.make(tmp_path / "x", tasks=tasks, variants=("H",), replicas=2, samples=20, epochs=4))
    assert results.collected.ensembles == {}
    assert ["predictions.npz has no 'H:noise'" in problem for problem in results.collected.problems] == [True, True]


def test_a_task_without_true_values_has_no_ensemble_and_takes_no_other_with_it(tmp_path: Path) -> None:
    out = making.make(tmp_path / "x", variants=("HC",), replicas=2, samples=20, epochs=4)
    truth = dict(np.load(out / "test_set.npz"))
    truth["mixing_enthalpy"][:] = np.nan
    np.savez(out / "test_set.npz", **truth)
    collected = load(out).collected
    assert [task for _, task in collected.ensembles] == ["C"] and collected.ensembles["HC", "C"].n == 2
    assert collected.problems == ["the test set has no true value of task H: no figures of its predictions"]
    del truth["mixing_enthalpy"]
    np.savez(out / "test_set.npz", **truth)
    with pytest.raises(UserError, match=r"test_set.npz: it lacks mixing_enthalpy; remove it, and run again"):
        ground_truth.read_test_set(load(out))


def test_missing_truth_is_not_compared() -> None:
    truth = np.array([[0.0], [np.nan], [2.0]])
    edges = predictions.HistogramEdges(np.linspace(-1, 1, 12), np.linspace(-1, 3, predictions.PARITY_BINS + 1))
    ensemble = predictions.EnsembleStatistics("v", "t", "graph", "", truth, edges)
    ensemble.add(np.array([[0.3], [9.0], [1.6]]))
    assert ensemble.rmse[0] == pytest.approx(np.sqrt((0.09 + 0.16) / 2)) and ensemble.parity.sum() == 2


def five_structures() -> ground_truth.GroundTruth:
    numbers = np.array([26, 78, 26, 26, 78, 78, 78, 26, 26, 26], np.int32)
    offsets = np.array([0, 2, 4, 6, 7, 10])
    names = np.array(list("abcde"))
    return ground_truth.GroundTruth("five", names, numbers, offsets, {"m": np.arange(10.0)[:, None]})


@pytest.mark.parametrize("level", ["graph", "node"])
def test_a_composition_without_any_truth_has_no_error(level: str) -> None:
    known = five_structures()
    rows = 5 if level == "graph" else 10
    truth = np.zeros((rows, 2))
    truth[1 if level == "graph" else slice(2, 4)] = np.nan  # Fe2
    truth[0, 1] = np.nan  # one of the components of Fe1Pt1
    edges = predictions.HistogramEdges(np.linspace(-9, 9, 12), np.linspace(-9, 9, predictions.PARITY_BINS + 1))
    ensemble = predictions.EnsembleStatistics("v", "t", level, "", truth, edges)
    for shift in (1.0, 3.0):
        ensemble.add(np.full((rows, 2), shift))
    found = uncertainty.assess(ensemble, known)
    assert found is not None
    assert {c.formula: c.rmse for c in found.least_certain} == {
        "Fe2": None, "Fe1Pt1": 2.0, "Pt2": 2.0, "Pt1": 2.0, "Fe3": 2.0
    }  # fmt: skip


def test_composition_formulas_and_totals_by_hand() -> None:
    found = five_structures()
    assert found.formulas().tolist() == ["Fe1Pt1", "Fe2", "Pt2", "Pt1", "Fe3"]
    fraction, species = found.composition()
    assert species == "Fe" and fraction.tolist() == [0.5, 1, 0, 0, 1]
    assert found.total(found.targets["m"])[:, 0].tolist() == [1, 5, 9, 6, 24]


def test_one_missing_value_spoils_its_own_total_only() -> None:
    values = np.array([[1.0], [np.nan], [1e16], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0], [1.0]])
    total = five_structures().total(values)[:, 0]
    assert np.isnan(total[0]) and total[2:].tolist() == [2.0, 1.0, 3.0]


def test_energies_per_atom() -> None:
    # An error of 7.5e-3 of a range of 65.92 Ry per cell of 32 atoms: 7.5e-3 * 65.92 * 13.606 / 32.
    assert float(ground_truth.ev_per_atom(7.5e-3 * 65.92, 32)) == pytest.approx(0.21, abs=5e-4)


def small_dataset(path: Path) -> str:
    """Write a data set of three structures of two atoms; return its hash."""
    arrays = {
        "sample_name_offsets": np.array([0, 1, 2, 4]), "sample_names": np.frombuffer(b"abcd", np.uint8),
        "sample_geometry": np.zeros(3, np.int32), "split": np.array([0, 1, 2], np.uint8),
        "atom_offsets": np.array([0, 2, 4, 6]), "atomic_numbers": np.array([26, 26, 26, 78, 78, 78], np.int32),
        "geometry_atom_offsets": np.array([0, 2]), "pos": np.array([[0.0, 0, 0], [2, 0, 0]]),
        "cell": np.zeros((1, 3, 3)), "periodic": np.zeros((1, 3), np.uint8), "neighbour_offsets": np.array([0, 1, 2]),
        "neighbours": np.array([1, 0], np.int32), "edge_vectors": np.array([[2.0, 0, 0], [-2, 0, 0]]),
        "target_mixing_enthalpy": np.array([[0.0], [3.0], [0.0]]),
    }  # fmt: skip
    return store.write(path, arrays, facts_of(arrays, list(PROPERTIES.values()), Options(), SOURCE)).sha256


def test_the_data_set_is_shown_where_it_is_the_one_that_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def chunks(reader: Any, path: Path, name: str, *more: Any) -> Iterator[np.ndarray]:
        read.append(name)
        yield from chunks_of(reader, path, name, *more)

    chunks_of = shared._chunks_of
    monkeypatch.setattr(shared, "_chunks_of", chunks)
    out = making.make(tmp_path / "x", variants=("H",), replicas=1, samples=10, dataset=str(tmp_path / "d.bp"))
    assert ground_truth.read_data_set(load(out)) == (None, f"the data set {tmp_path / 'd.bp'} does not exist")
    results = load(out)
    results.frozen = replace(results.frozen, campaign=results.campaign.model_copy(update={"dataset": "d" * 300}))
    assert "File name too long" in ground_truth.read_data_set(results)[1], "as a folder without permission"
    sha256 = small_dataset(tmp_path / "d.bp")
    found, why = ground_truth.read_data_set(load(out))
    assert found is None and "no longer the one" in why
    text = (out / "campaign.yaml").read_text()
    (out / "campaign.yaml").write_text(text.replace("da7a" * 16, sha256))
    found, why = ground_truth.read_data_set(load(out))
    assert not why and found.source == "all 3 samples of the data set" and "edge_vectors" not in read
    assert found.names.tolist() == ["a", "b", "cd"] and found.targets["mixing_enthalpy"][:, 0].tolist() == [0, 3, 0]
    next((tmp_path / "d.bp").glob("data.*")).write_bytes(b"garbage")
    found, why = ground_truth.read_data_set(load(out))
    assert found is None and "data.0" in why
