"""Everything that a report says, gathered once: the page, the supplement and the summary show the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import State
from hydragnn_hpc.report.analysis import claims, costs, paper, statistics, uncertainty
from hydragnn_hpc.report.analysis.claims import Claim
from hydragnn_hpc.report.analysis.costs import Cost, Head
from hydragnn_hpc.report.analysis.paper import Beside
from hydragnn_hpc.report.analysis.statistics import Pair
from hydragnn_hpc.report.analysis.uncertainty import Uncertainty
from hydragnn_hpc.report.results import predictions, samples
from hydragnn_hpc.report.results.load import Results, load
from hydragnn_hpc.report.results.predictions import Collected
from hydragnn_hpc.report.results.samples import Samples


@dataclass
class Content:
    """What a report says.

    Attributes
    ----------
    histories : dict
        Member name to its ``history.csv``.
    everything : Samples or None
        What figures over all samples show: the data set, else the test set, else nothing.
    remarks : list of str
        What could not be used or shown, and why.
    """

    results: Results
    pairs: list[Pair]
    claims: list[Claim]
    costs: list[Cost]
    heads: list[Head]
    beside: list[Beside]
    test_set: Samples | None
    everything: Samples | None
    collected: Collected
    uncertainties: list[Uncertainty]
    histories: dict[str, pd.DataFrame]
    remarks: list[str] = field(default_factory=list)


def gather(out: Path | str) -> Content:
    """Read a campaign's folder and weigh what it says.

    Raises
    ------
    UserError
        If the folder holds no campaign, or a result cannot be read.
    """
    results = load(out)
    remarks: list[str] = []
    pairs = statistics.compare_all(results)
    test_set = _test_set(results, remarks)
    everything, why = samples.read_all(results)
    if everything is None:
        everything = test_set
        remarks.append(f"Figures over all samples show {test_set.source if test_set else 'nothing'}: {why}.")
    collected = predictions.collect(results, test_set)
    found = [uncertainty.assess(s, test_set) for s in collected.summaries.values()] if test_set else []
    content = Content(
        results=results,
        pairs=pairs,
        claims=claims.weigh(results, pairs),
        costs=costs.costs(results),
        heads=costs.heads(results),
        beside=paper.beside(results, test_set),
        test_set=test_set,
        everything=everything,
        collected=collected,
        uncertainties=[u for u in found if u is not None],
        histories=_histories(results, remarks),
        remarks=remarks,
    )
    content.remarks += [*_inconsistent(results), *collected.problems]
    return content


def drawings(content: Content) -> Iterator[Callable[[], Iterator[Any]]]:
    """Yield what draws each kind of figure, in the order of the report."""
    from hydragnn_hpc.report.figures import data, errors, training

    results = content.results
    yield partial(errors.table1, results, content.beside)
    yield partial(data.composition, results, content.everything)
    yield partial(errors.parity, results, content.collected)
    yield partial(errors.densities, results, content.collected)
    yield partial(data.totals, results, content.everything)
    yield partial(training.times, results)
    yield partial(training.curves, results, content.histories)
    yield partial(training.schedule, results)
    yield partial(errors.calibration, results, content.uncertainties)


def _test_set(results: Results, remarks: list[str]) -> Samples | None:
    try:
        found = samples.read_test_set(results)
    except UserError as error:
        remarks.append(str(error))
        return None
    if found is None:
        remarks.append("test_set.npz is not there: no figure of predictions.")
    return found


def _histories(results: Results, remarks: list[str]) -> dict[str, pd.DataFrame]:
    found = {}
    for member in results.members:
        if member.state is State.WAITING:
            continue
        try:
            history = results.history(member)
        except UserError as error:
            remarks.append(str(error))
            continue
        if history is not None:
            found[member.name] = history
    return found


def _inconsistent(results: Results) -> list[str]:
    """Say which results come from another campaign or data set than the folder's."""
    found = []
    for key, frozen in (("config_hash", results.frozen.hash), ("dataset_sha256", results.frozen.dataset_sha256)):
        other = [m.name for m in results.members if m.result and getattr(m.result, key) != frozen]
        if other:
            found.append(f"{key} of {len(other)} results, {other[0]} the first, is not the campaign's")
    return found
