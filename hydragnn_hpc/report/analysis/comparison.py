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
from hydragnn_hpc.report.results.predictions import predicted_of, rmse

BY_NUMBER, BY_NAME = "number in the source", "name and elements"
_TOLERANCE = 1e-9  # of the largest true value: data sets may round the same sample differently


@dataclass(frozen=True)
class VariantErrors:
    """A variant's errors of one target, over the samples compared.

    Attributes
    ----------
    campaign, variant : str
        The campaign's folder, and the variant's name.
    field, unit : str
        The target, and its unit.
    rmse : list of float
        A value per finished member, in ``unit``.
    rmse_of_mean : float or None
        RMSE of the members' mean prediction; None for a single member.
    """

    campaign: str
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
        Number of test samples compared.
    rule : str
        What identifies a sample in all campaigns: `BY_NUMBER` or `BY_NAME`.
    sizes : dict
        Number of samples in each campaign's test set, by folder.
    errors : list of VariantErrors
    pairs : list of Pair
        Pairs of variants of different campaigns, named ``campaign: variant``, with Holm's correction over all pairs;
        ``task`` is the field.
    """

    samples: int
    rule: str
    sizes: dict[str, int]
    errors: list[VariantErrors]
    pairs: list[Pair]


def compare_campaigns(folders: Sequence[str], common: bool = False) -> Comparison:
    """Compare campaigns on the same test samples.

    Parameters
    ----------
    folders : sequence of str
        Two or more campaign folders.
    common : bool, optional
        Whether test sets may differ: errors are then taken over the samples that all of them hold.

    Raises
    ------
    UserError
        If a folder cannot be read or has no finished member, or the test sets or their true values differ.
    """
    campaigns = {folder: load(folder) for folder in folders}
    if len(campaigns) < 2:
        raise UserError("compare: give two or more different campaign folders")
    truths = {folder: _test_set(folder, results) for folder, results in campaigns.items()}
    keys, rule = _identities(truths)
    shared = set.intersection(*(set(k) for k in keys.values()))
    if not shared or (not common and any(len(shared) < len(k) for k in keys.values())):
        sizes = ", ".join(f"{folder} has {len(k):,}" for folder, k in keys.items())
        remedy = "; use --common-samples to compare on those" if shared else ""
        raise UserError(
            f"the test sets differ: {sizes} samples, {len(shared):,} of which are in all, by {rule}{remedy}"
        )
    order = sorted(shared)
    places = {folder: {key: k for k, key in enumerate(own)} for folder, own in keys.items()}
    chosen = {folder: np.array([place[key] for key in order]) for folder, place in places.items()}
    _check_truths(truths, chosen)
    errors = [
        e for folder, results in campaigns.items() for e in _errors(folder, results, truths[folder], chosen[folder])
    ]
    return Comparison(len(order), rule, {folder: len(k) for folder, k in keys.items()}, errors, _pairs(errors))


def _test_set(folder: str, results: Results) -> GroundTruth:
    if not any(results.finished_by_variant.values()):
        raise UserError(f"{folder}: no member has finished; there is nothing to compare")
    truth = read_test_set(results)
    if truth is None:
        raise UserError(
            f"{folder} has no {results.folder.test_set.name}: imported models cannot be compared; if it was removed,"
            " run the campaign's command again"
        )
    return truth


def _identities(truths: dict[str, GroundTruth]) -> tuple[dict[str, list[tuple[str, bytes, int]]], str]:
    """Return what identifies each sample of each campaign (its name, its elements, and a number), and the rule.

    By `BY_NUMBER`, it is the sample's number in the source: where all campaigns have such numbers, share some, and
    agree on the name and elements of those that they share, so that their source is the same. By `BY_NAME`, it counts
    the earlier samples of the campaign with the same name and elements.
    """
    plain = {folder: _names_and_elements(truth) for folder, truth in truths.items()}
    numbers = [truth.source_index.tolist() for truth in truths.values() if truth.source_index is not None]
    if len(numbers) == len(truths) and all(len(set(own)) == len(own) for own in numbers):
        numbered = {f: list(zip(plain[f], own, strict=True)) for f, own in zip(truths, numbers, strict=True)}
        known = {number: key for own in numbered.values() for key, number in own}
        has_shared = len(known) < sum(map(len, numbers))
        if has_shared and all(known[number] == key for own in numbered.values() for key, number in own):
            return {folder: [(*key, number) for key, number in own] for folder, own in numbered.items()}, BY_NUMBER
    return {folder: _counted(own) for folder, own in plain.items()}, BY_NAME


def _names_and_elements(truth: GroundTruth) -> list[tuple[str, bytes]]:
    ends = itertools.pairwise(truth.atom_offsets.tolist())
    return [(n, truth.atomic_numbers[a:b].tobytes()) for n, (a, b) in zip(truth.names.tolist(), ends, strict=True)]


def _counted(keys: list[tuple[str, bytes]]) -> list[tuple[str, bytes, int]]:
    seen: Counter[tuple[str, bytes]] = Counter()
    identities = []
    for key in keys:
        identities.append((*key, seen[key]))
        seen[key] += 1
    return identities


def _rows(truth: GroundTruth, field: str, samples: np.ndarray) -> np.ndarray:
    """Return the rows of a target that belong to the given samples, in the samples' order."""
    if len(truth.targets[field]) == len(truth.names) and len(truth.atomic_numbers) != len(truth.names):
        return samples
    offsets = truth.atom_offsets
    return np.concatenate([np.arange(offsets[s], offsets[s + 1]) for s in samples.tolist()])


def _check_truths(truths: dict[str, GroundTruth], chosen: dict[str, np.ndarray]) -> None:
    """Refuse data sets that disagree on the true values of the same samples."""
    (first, truth), *others = truths.items()
    for folder, other in others:
        for field in truth.targets.keys() & other.targets.keys():
            a = truth.targets[field][_rows(truth, field, chosen[first])]
            b = other.targets[field][_rows(other, field, chosen[folder])]
            if a.shape != b.shape:
                raise UserError(
                    f"'{field}' has {a.shape[1]} components in {len(a):,} rows in {first}, but {b.shape[1]} in"
                    f" {len(b):,} rows in {folder}: it is not the same target; compare campaigns on the same data"
                )
            scale = float(np.nanmax(np.abs(a), initial=0.0))
            if not np.allclose(a, b, rtol=0, atol=_TOLERANCE * scale, equal_nan=True):
                raise UserError(
                    f"the true values of '{field}' differ between {first} and {folder} for the same test samples;"
                    " compare campaigns on the same data"
                )


def _errors(folder: str, results: Results, truth: GroundTruth, chosen: np.ndarray) -> list[VariantErrors]:
    variants = []
    for variant in rows.compared(results):
        for task in variant.tasks:
            field = results.campaign.tasks[task].field
            at = _rows(truth, field, chosen)
            true = truth.targets[field][at]
            if not np.isfinite(true).any():
                continue
            total, errors = np.zeros_like(true), []
            for member in results.finished(variant.name):
                predictions = results.predictions(member)
                try:
                    values = predicted_of(predictions, task, truth.targets[field])[at]
                except UserError as error:
                    raise UserError(f"{folder}: {member.name}: {error}; remove its folder, and run again") from error
                total += values
                errors.append(rmse(values, true))
            of_mean = rmse(total / len(errors), true) if len(errors) > 1 else None
            if errors:
                unit = rows.unit_of(results, task)
                variants.append(VariantErrors(folder, variant.name, field, unit, errors, of_mean))
    return variants


def _pairs(errors: list[VariantErrors]) -> list[Pair]:
    """Compare variants of the same name in different campaigns; for a target without any, all that predict it."""
    pairs: list[Pair] = []
    for field in dict.fromkeys(e.field for e in errors):
        both = itertools.combinations([e for e in errors if e.field == field], 2)
        own = [(a, b) for a, b in both if a.campaign != b.campaign]
        for a, b in [(a, b) for a, b in own if a.variant == b.variant] or own:
            names = (f"{a.campaign}: {a.variant}", f"{b.campaign}: {b.variant}")
            pairs.append(compare(field, (names[0], a.rmse), (names[1], b.rmse)))
    return with_holm(pairs)
