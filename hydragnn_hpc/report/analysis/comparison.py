"""Several campaigns side by side: the errors of each on the same test samples, and their differences."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report.analysis.statistics import Pair, compare, with_holm
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.ground_truth import GroundTruth, read_test_set
from hydragnn_hpc.report.results.load import Results, load

_SAME = 1e-9  # true values differ by no more than this share of their range where data sets hold the same sample


@dataclass(frozen=True)
class VariantErrors:
    """A variant's errors of one target, over the samples compared.

    Attributes
    ----------
    run, variant : str
    field, unit : str
        The target, and its unit.
    rmse : list of float
        Of each finished member.
    rmse_of_mean : float or None
        Of the members' mean prediction; None for a single member.
    """

    run: str
    variant: str
    field: str
    unit: str
    rmse: list[float]
    rmse_of_mean: float | None


@dataclass(frozen=True)
class Comparison:
    """Campaigns compared.

    Attributes
    ----------
    samples : int
        Test samples that errors are of.
    sizes : dict
        Samples of each run's test set.
    errors : list of VariantErrors
    pairs : list of Pair
        Variants of different runs, named ``run: variant``, with Holm's correction over all; ``task`` is the field.
    """

    samples: int
    sizes: dict[str, int]
    errors: list[VariantErrors]
    pairs: list[Pair]


def compare_runs(folders: Sequence[str], common: bool = False) -> Comparison:
    """Compare campaigns on the same test samples.

    Parameters
    ----------
    folders : sequence of str
        Two campaign folders or more.
    common : bool, optional
        Whether test sets may differ: errors are then of the samples that all of them hold.

    Raises
    ------
    UserError
        If a folder cannot be read, has no finished member, or the test sets differ.
    """
    runs = {folder: load(folder) for folder in folders}
    if len(runs) < 2:
        raise UserError("compare: give two different campaign folders or more")
    truths = {folder: _test_set(folder, results) for folder, results in runs.items()}
    keys = {folder: _identities(truth) for folder, truth in truths.items()}
    shared = set.intersection(*(set(k) for k in keys.values()))
    if not shared or (not common and any(len(shared) < len(k) for k in keys.values())):
        sizes = ", ".join(f"{folder} has {len(k):,}" for folder, k in keys.items())
        remedy = "; --common-samples compares on those" if shared else ""
        raise UserError(f"the test sets differ: {sizes} samples, {len(shared):,} of which are in all{remedy}")
    order = sorted(shared)
    places = {folder: {key: k for k, key in enumerate(found)} for folder, found in keys.items()}
    chosen = {folder: np.array([own[key] for key in order]) for folder, own in places.items()}
    _check_truths(truths, chosen)
    errors = [e for folder, results in runs.items() for e in _errors(folder, results, truths[folder], chosen[folder])]
    return Comparison(len(order), {folder: len(k) for folder, k in keys.items()}, errors, _pairs(errors))


def _test_set(folder: str, results: Results) -> GroundTruth:
    truth = read_test_set(results)
    if truth is None or not any(m.result for m in results.members):
        raise UserError(f"{folder}: no member has finished; there is nothing to compare")
    return truth


def _identities(truth: GroundTruth) -> list[tuple[str, bytes, int]]:
    """Return what identifies every sample: its name, its elements, and how many before it have both alike."""
    seen: Counter[tuple[str, bytes]] = Counter()
    found = []
    for name, (first, stop) in zip(truth.names.tolist(), itertools.pairwise(truth.atom_offsets.tolist()), strict=True):
        key = (name, truth.atomic_numbers[first:stop].tobytes())
        found.append((*key, seen[key]))
        seen[key] += 1
    return found


def _rows(truth: GroundTruth, field: str, samples: np.ndarray) -> np.ndarray:
    """Return a target's rows of some samples, in their order."""
    if len(truth.targets[field]) == len(truth.names) and len(truth.atomic_numbers) != len(truth.names):
        return samples
    offsets = truth.atom_offsets
    return np.concatenate([np.arange(offsets[s], offsets[s + 1]) for s in samples.tolist()])


def _check_truths(truths: dict[str, GroundTruth], chosen: dict[str, np.ndarray]) -> None:
    """Refuse data sets in which the same sample has other true values."""
    (first, truth), *others = truths.items()
    for folder, other in others:
        for field in truth.targets.keys() & other.targets.keys():
            a = truth.targets[field][_rows(truth, field, chosen[first])]
            b = other.targets[field][_rows(other, field, chosen[folder])]
            if a.shape != b.shape:
                raise UserError(f"'{field}' has other components or another level in {folder} than in {first}")
            scale = float(np.nanmax(np.abs(a), initial=0.0))
            if not np.allclose(a, b, rtol=0, atol=_SAME * scale, equal_nan=True):
                raise UserError(
                    f"'{field}' has other true values in {folder} than in {first}, for the same test samples"
                )


def _errors(folder: str, results: Results, truth: GroundTruth, chosen: np.ndarray) -> list[VariantErrors]:
    found = []
    for variant in rows.compared(results):
        for task in variant.tasks:
            field = results.campaign.tasks[task].field
            at = _rows(truth, field, chosen)
            true = truth.targets[field][at]
            known = np.isfinite(true)
            total, errors = np.zeros_like(true), []
            for member in results.finished(variant.name):
                predicted = (results.predictions(member) or {}).get(task)
                if predicted is None or not known.any():
                    continue
                values = predicted.reshape(len(predicted), -1)[at]
                total += values
                errors.append(float(np.sqrt(np.mean((values - true)[known] ** 2))))
            of_mean = float(np.sqrt(np.mean((total / len(errors) - true)[known] ** 2))) if len(errors) > 1 else None
            if errors:
                found.append(VariantErrors(folder, variant.name, field, rows.unit_of(results, task), errors, of_mean))
    return found


def _pairs(errors: list[VariantErrors]) -> list[Pair]:
    """Compare variants of the same name in different runs; where a target has none, all of one run with the other's."""
    found: list[Pair] = []
    for field in dict.fromkeys(e.field for e in errors):
        own = [(a, b) for a, b in itertools.combinations(errors, 2) if a.field == b.field == field and a.run != b.run]
        for a, b in [(a, b) for a, b in own if a.variant == b.variant] or own:
            names = (f"{a.run}: {a.variant}", f"{b.run}: {b.variant}")
            found.append(compare(field, (names[0], a.rmse), (names[1], b.rmse)))
    return with_holm(found)
