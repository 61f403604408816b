"""Test error of every member, by variant: Table 1 as a figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.analysis.statistics import errors_of
from hydragnn_hpc.report.figures.style import GREY, Drawing, label_of, looks, panels
from hydragnn_hpc.report.results import rows


def draw(content: Content) -> Iterator[Drawing]:
    """Draw every member's test RMSE by variant, a panel per task, with the paper's values where it has any."""
    results = content.results
    values = {t: errors_of(results, t) for t in results.campaign.tasks}
    values = {t: found for t, found in values.items() if found}
    if not values:
        return
    figure, axes = panels(len(values), height=2.8)
    published = {(c.variant, c.task): (c.paper_mean, c.paper_std) for c in content.paper}
    look = looks([v.name for v in results.campaign.variants])
    for ax, (task, found) in zip(axes, values.items(), strict=True):
        _panel(ax, look, found, {v: published[v, task] for v in found if (v, task) in published})
        ax.set_title(f"{task}: {label_of(results.campaign, task)}")
    axes[0].set_ylabel("test RMSE (scaled, 10⁻³)")
    compared = any((v, t) in published for t in values for v in values[t])
    diamonds = "; open diamonds: the paper's mean ± std" if compared else ""
    counts = sorted({len(v) for found in values.values() for v in found.values()})
    caption = (
        f"Test RMSE of scaled values: a dot per member ({_range(counts)} of {results.campaign.replicas} per variant),"
        f" bars: mean ± standard deviation over members{diamonds}."
    )
    yield Drawing("rmse", "Test error by variant", caption, figure)


def _panel(ax: Any, look: dict[str, Any], found: dict[str, list[float]], published: dict[str, Any]) -> None:
    for k, (variant, errors) in enumerate(found.items()):
        values = np.array(errors) * 1e3
        mean, std = rows.mean_std(values.tolist())
        shift = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(k + shift, values, ".", color=look[variant]["color"], alpha=0.5, ms=4, mew=0)
        ax.errorbar(k - 0.24, mean, std, fmt="o", ms=4, color=look[variant]["color"], capsize=2.5, lw=1.2)
        if variant in published:
            paper_mean, paper_std = np.array(published[variant]) * 1e3
            ax.errorbar(k + 0.27, paper_mean, paper_std, fmt="D", ms=4, mfc="white", color=GREY, capsize=2, lw=1)
    ax.set_xticks(range(len(found)), list(found), rotation=0 if max(map(len, found)) < 5 else 30)
    ax.set_xlim(-0.6, len(found) - 0.4)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("variant")


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
