"""Whether it helps to learn a task together with others: its multi-task variants against its single-task one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydragnn_hpc.report.analysis import costs
from hydragnn_hpc.report.analysis.statistics import Pair, verdict
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot


@dataclass(frozen=True)
class Together:
    """A task's error in a multi-task variant against its error alone.

    ``n`` are the numbers of finished members, together and alone; ``change`` is that of the mean test RMSE, as a
    fraction of the error alone; ``verdict`` is that of :func:`statistics.verdict`.
    """

    task: str
    together: str
    alone: str
    n: tuple[int, int]
    change: float
    verdict: str


def compare(snapshot: Snapshot, pairs: Sequence[Pair]) -> list[Together]:
    """Return the comparisons of all multi-task variants with the single-task variants of their tasks."""
    comparisons = []
    for pair in pairs:
        single = costs.single_of(snapshot, pair.task)
        if single is None or single.name not in (pair.first, pair.second):
            continue
        sign, other, n = (1, pair.first, pair.n) if pair.second == single.name else (-1, pair.second, pair.n[::-1])
        alone = rows.mean_std(rows.metrics(snapshot.finished(single.name), pair.task, "rmse"))[0]
        both = (snapshot.campaign.variant(other), single)
        # Variants that also differ in their settings do not show what learning together does.
        alike = len({v.model_copy(update={"name": "", "tasks": ()}).model_dump_json() for v in both}) == 1
        if alone and alike and len(both[0].tasks) > 1:
            change = sign * pair.difference
            comparisons.append(Together(pair.task, other, single.name, n, change / alone, verdict(pair, change)))
    return comparisons
