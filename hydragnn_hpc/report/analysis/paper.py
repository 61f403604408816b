"""Comparison with the paper's Table 1, where a campaign trains the paper's tasks.

Source: Lupo Pasini, Zhang, Reeve and Choi, Mach. Learn.: Sci. Technol. 3 025007 (2022), Table 1: test RMSE of scaled
values, mean and standard deviation over 12 members.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.sections import Variant

LETTERS = {"mixing_enthalpy": "H", "charge_transfer": "C", "magnetic_moment": "M"}
"""The paper's name of each target."""
TABLE1: dict[str, dict[str, tuple[float, float]]] = {
    "HCM": {"H": (7.54e-3, 8.70e-4), "C": (6.77e-3, 3.59e-4), "M": (1.04e-2, 4.94e-4)},
    "HC": {"H": (7.33e-3, 4.77e-4), "C": (7.36e-3, 3.23e-4)},
    "HM": {"H": (6.64e-3, 5.08e-4), "M": (1.02e-2, 5.23e-4)},
    "CM": {"C": (5.94e-3, 3.02e-4), "M": (9.30e-3, 4.12e-4)},
    "H": {"H": (1.02e-2, 1.16e-3)},
    "C": {"C": (5.94e-3, 4.39e-4)},
    "M": {"M": (8.77e-3, 3.18e-4)},
}
"""Mean and standard deviation by variant and task."""
ELEMENTS = {26, 78}
SITES = 32
"""The proton numbers of its elements, and the atoms of its cell."""
RANGES = {
    "mixing_enthalpy": (0.0, 65.918),
    "charge_transfer": (-5.310, 0.847),
    "magnetic_moment": (-0.0516, 3.8078),
}
"""The smallest and largest value of each target, in Ry per cell, e and μB."""
TOLERANCE = 2e-3
"""As a fraction of a range: more than the rounding of the above, less than the deviations of surrogate data."""
MEMBERS = 12
"""Members of each variant."""
CITATION = "Lupo Pasini et al., Mach. Learn.: Sci. Technol. 3 025007 (2022)"


@dataclass(frozen=True)
class PaperComparison:
    """One entry of Table 1 here and in the paper (scaled RMSE); ``ratio`` is this campaign's over the paper's."""

    variant: str
    task: str
    n: int
    n_total: int
    mean: float | None
    std: float | None
    paper_mean: float
    paper_std: float
    ratio: float | None


def has_paper_data(snapshot: Snapshot, data: GroundTruth | None) -> bool:
    """Whether a campaign's data are the paper's: its elements, the size of its cell, and the ranges of shared targets.

    ``data`` is the whole data set where it can be read; it is used where the folder does not summarise it.
    """
    fields = [task.field for task in snapshot.campaign.tasks.values() if task.field in RANGES]
    summary = snapshot.summary
    if summary is not None:
        elements, sizes = set(summary.elements), {summary.atoms.minimum, summary.atoms.maximum}
        targets = {f: summary.targets[f] for f in fields if f in summary.targets}
        ranges = {f: (t.minimum[0], t.maximum[0]) for f, t in targets.items() if len(t.minimum) == 1}
    elif data is not None:
        elements, sizes = set(data.species().tolist()), set(np.unique(data.n_atoms).tolist())
        values = {f: data.targets[f] for f in fields if f in data.targets}
        ranges = {f: (float(np.nanmin(v)), float(np.nanmax(v))) for f, v in values.items() if np.isfinite(v).any()}
    else:
        return False
    same = [
        np.allclose(ends, RANGES[f], rtol=0, atol=TOLERANCE * float(np.ptp(RANGES[f]))) for f, ends in ranges.items()
    ]
    return elements == ELEMENTS and sizes == {SITES} and len(ranges) == len(fields) > 0 and all(same)


def compare(snapshot: Snapshot) -> list[PaperComparison]:
    """Compare every variant and task that the paper also has, identified by the fields predicted."""
    comparisons = []
    for row in rows.variant_rows(snapshot):
        variant = snapshot.campaign.variant(row.variant)
        name, letter = paper_name(snapshot.campaign, variant), _letter(snapshot.campaign, row.task)
        if name is None or letter is None:
            continue
        mean, std = TABLE1[name][letter]
        ratio = row.rmse_mean / mean if row.rmse_mean is not None else None
        counts = (row.n, row.n_total)
        comparisons.append(
            PaperComparison(row.variant, row.task, *counts, row.rmse_mean, row.rmse_std, mean, std, ratio)
        )
    return comparisons


def paper_name(campaign: Campaign, variant: Variant) -> str | None:
    """Return the paper's name for a variant with these tasks; None if it has no such variant."""
    letters = {_letter(campaign, t) for t in variant.tasks}
    name = "".join(x for x in "HCM" if x in letters)
    return name if name in TABLE1 and len(letters) == len(name) == len(variant.tasks) else None


def _letter(campaign: Campaign, task: str) -> str | None:
    return LETTERS.get(campaign.tasks[task].field)
