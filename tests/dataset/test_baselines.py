"""Baselines against NumPy written out here: fitted to the training set, evaluated on the others, in physical units."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hydragnn_hpc.dataset.features import baselines
from hydragnn_hpc.records.dataset import Manifest, Target
from hydragnn_hpc.records.summary import PartSummary
from tests.dataset import synthetic

FE, CO, PT = 26, 27, 78


def data_set() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random alloys of two sizes, a fifth each for validation and testing, and the counts of their elements."""
    rng, samples = np.random.default_rng(0), 120
    n = rng.choice((4, 8), samples)
    offsets = np.concatenate([[0], np.cumsum(n)]).astype(np.int64)
    numbers = rng.choice([FE, CO, PT], offsets[-1]).astype(np.int32)
    split = np.array([0, 0, 0, 1, 2], np.uint8)[np.arange(samples) % 5]
    counts = np.array([[np.sum(numbers[a:b] == z) for z in (FE, CO, PT)] for a, b in itertools.pairwise(offsets)])
    return {"atom_offsets": offsets, "atomic_numbers": numbers, "split": split}, counts


def summary_of(arrays: dict[str, np.ndarray], level: str, values: np.ndarray) -> baselines.TargetSummary:
    """Summarise one target, scaled over all its values."""
    low, high = np.nanmin(values, axis=0).tolist(), np.nanmax(values, axis=0).tolist()
    target = Target(
        level=level, unit="eV", label="x", width=values.shape[1], minimum=low, maximum=high,
        missing=int(np.isnan(values).sum()),
    )  # fmt: skip
    facts = synthetic.facts(synthetic.arrays()).model_copy(update={"targets": {"x": target}})
    manifest = Manifest.model_construct(**{**dict(facts), "sizes": {"G": 3}, "sha256": "d" * 64})
    return baselines.summarise({**arrays, "target_x": values}, manifest).targets["x"]


def check(part: PartSummary, truth: np.ndarray, guesses: dict[str, np.ndarray], span: np.ndarray) -> None:
    """Compare a part's errors, scaled and in the unit, with those of ``guesses``."""
    for name, guess in guesses.items():
        error, found = truth - guess, getattr(part, name)
        assert found.rmse_unit == pytest.approx(np.sqrt(np.nanmean(error**2)), rel=1e-9)
        assert found.mae_unit == pytest.approx(np.nanmean(np.abs(error)), rel=1e-9)
        assert found.rmse == pytest.approx(np.sqrt(np.nanmean((error / span) ** 2)), rel=1e-9)
        assert found.mae == pytest.approx(np.nanmean(np.abs(error / span)), rel=1e-9)
        about = truth - np.nanmean(truth, axis=0)
        assert found.r2 == pytest.approx(1 - np.nansum(error**2) / np.nansum(about**2), abs=1e-9)
        assert part.r2(found.rmse_unit) == pytest.approx(found.r2, abs=1e-9)
    assert part.n == np.isfinite(truth).sum()


@pytest.mark.parametrize("form", ["per cell", "per atom"])
def test_a_graph_level_target_is_fitted_as_it_scales_with_the_size(form: str) -> None:
    arrays, counts = data_set()
    terms = counts if form == "per cell" else counts / counts.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(1)
    values = (terms @ [1.0, -2.0, 5.0] + 1e5 + 0.1 * rng.normal(size=len(terms)))[:, None]
    values[3] = values[4] = values[7] = np.nan
    found = summary_of(arrays, "graph", values)
    columns = np.column_stack([np.ones(len(terms)), terms])
    train = (arrays["split"] == 0) & np.isfinite(values[:, 0])
    fitted = (columns @ np.linalg.lstsq(columns[train], values[train, 0], rcond=None)[0])[:, None]
    assert found.form == form
    for part, name in ((1, "validation"), (2, "test")):
        rows = arrays["split"] == part
        guesses = {"mean": np.full((rows.sum(), 1), values[train].mean()), "composition": fitted[rows]}
        check(getattr(found, name), values[rows], guesses, np.ptp(values[np.isfinite(values)]))
    assert found.test.better == "composition" and found.test.composition.r2 > 0.99 > 0.1 > found.test.mean.r2


def test_a_node_level_target_has_a_mean_per_element_and_component() -> None:
    arrays, _ = data_set()
    numbers, of_atom = arrays["atomic_numbers"], np.repeat(arrays["split"], np.diff(arrays["atom_offsets"]))
    numbers[(of_atom == 0) & (numbers == CO)] = FE  # the training set lacks cobalt
    rng = np.random.default_rng(1)
    values = rng.normal(size=(len(numbers), 2)) + np.column_stack([numbers / 10.0, np.full(len(numbers), 100.0)])
    values[::7, 1] = np.nan
    found = summary_of(arrays, "node", values)
    train, mean = of_atom == 0, np.nanmean(values[of_atom == 0], axis=0)
    table = {z: np.nanmean(values[train & (numbers == z)], axis=0) for z in (FE, PT)} | {CO: mean}
    for part, name in ((1, "validation"), (2, "test")):
        rows = of_atom == part
        guesses = {"mean": mean, "composition": np.array([table[z] for z in numbers[rows].tolist()])}
        check(getattr(found, name), values[rows], guesses, np.nanmax(values, axis=0) - np.nanmin(values, axis=0))
    assert found.form == "species" and (found.test.mean.r2 or 0) < 0.1


def test_an_outlier_narrows_the_central_range() -> None:
    arrays, counts = data_set()
    values = np.random.default_rng(1).normal(size=(len(counts), 1))
    assert summary_of(arrays, "graph", values).central_range > 0.5
    values[0] = 1e6
    assert summary_of(arrays, "graph", values).central_range < 1e-5


def test_a_part_without_values_has_no_errors() -> None:
    arrays, counts = data_set()
    values = np.random.default_rng(1).normal(size=(len(counts), 1))
    values[arrays["split"] == 1] = np.nan
    part = summary_of(arrays, "graph", values).validation
    assert part.n == 0 and part.mean.rmse is None and part.composition.r2 is None and part.r2(1.0) is None
    assert part.is_beaten_by(1e9), "nothing is known against it"
