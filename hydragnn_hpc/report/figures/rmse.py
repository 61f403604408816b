"""Test error of every member, by variant: Table 1 as a figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.analysis.statistics import errors_of
from hydragnn_hpc.report.figures.style import GREY, Drawing, label_of, line_styles, panels
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.load import Results

_REACH = 1.6  # a baseline above this multiple of the axis's top is written in the title, not drawn


def draw(content: Content) -> Iterator[Drawing]:
    """Draw every member's test RMSE by variant, a panel per task, with the paper's values where it has any."""
    results = content.results
    values = {t: errors_of(results, t) for t in results.campaign.tasks}
    values = {t: by_variant for t, by_variant in values.items() if by_variant}
    if not values:
        return
    figure, axes = panels(len(values), height=2.8)
    published = {(c.variant, c.task): (c.paper_mean, c.paper_std) for c in content.paper}
    of_means = _of_means(content)
    styles = line_styles([v.name for v in rows.compared(results)])
    outside = False
    for ax, (task, by_variant) in zip(axes, values.items(), strict=True):
        _panel(ax, styles, by_variant, {v: published[v, task] for v in by_variant if (v, task) in published})
        for k, variant in enumerate(by_variant):
            if (variant, task) in of_means:
                ax.plot(k, 1e3 * of_means[variant, task], "*", color="black", ms=6, mew=0, zorder=6)
        above = _baseline(ax, results, task)
        outside = outside or bool(above)
        ax.set_title(f"{task}: {label_of(results.campaign, task)}{above}")
    axes[0].set_ylabel("test RMSE (scaled, 10⁻³)")
    counts = sorted({len(v) for by_variant in values.values() for v in by_variant.values()})
    drawn = [
        f"Test RMSE of scaled values: a dot per member ({_range(counts)} of {results.campaign.replicas} per variant)"
    ]
    drawn += ["bars: mean ± standard deviation over members"] if counts[-1] > 1 else []
    drawn += ["stars: the ensemble's mean prediction"] if of_means else []
    shown = {(variant, task) for task, by_variant in values.items() for variant in by_variant}
    drawn += ["open diamonds: the paper's mean ± std"] if shown & published.keys() else []
    if results.baselines and results.summary:
        drawn.append(
            "dashed: the better baseline" + (", or in the title where it lies above the axis" if outside else "")
        )
    yield Drawing("rmse", "Test error by variant", f"{'; '.join(drawn)}.", figure)


def _of_means(content: Content) -> dict[tuple[str, str], float]:
    """Return the scaled RMSE of the ensembles' means, for targets with one component, which a single factor scales."""
    results, of_means = content.results, {}
    for row in rows.variant_rows(results):
        ensemble = content.predictions.ensembles.get((row.variant, row.task))
        if row.rmse_of_mean is not None and ensemble is not None and ensemble.truth.shape[1] == 1:
            factor = (row.rmse_mean or 0.0) / row.rmse_unit_mean if row.rmse_unit_mean else 0.0
            of_means[row.variant, row.task] = factor * row.rmse_of_mean
    return of_means


def _baseline(ax: Any, results: Results, task: str) -> str:
    """Draw the better baseline's error as a line; return a line for the title if it is too far above."""
    part, validation = results.part(task), results.part(task, "validation")
    error = getattr(part, validation.better).rmse if part and validation and results.baselines else None
    top = ax.get_ylim()[1]
    if error is None or 1e3 * error > _REACH * top:
        return "" if error is None else f"\nno network: {text.plain(1e3 * error, 3)}"
    ax.axhline(1e3 * error, color=GREY, ls="--", lw=1)
    ax.set_ylim(0, max(top, 1.08e3 * error))
    return ""


def _panel(ax: Any, styles: dict[str, Any], by_variant: dict[str, list[float]], published: dict[str, Any]) -> None:
    for k, (variant, errors) in enumerate(by_variant.items()):
        values = np.array(errors) * 1e3
        mean, std = rows.mean_std(values.tolist())
        shift = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(k + shift, values, ".", color=styles[variant]["color"], alpha=0.5, ms=4, mew=0)
        ax.errorbar(k - 0.24, mean, std, fmt="o", ms=4, color=styles[variant]["color"], capsize=2.5, lw=1.2)
        if variant in published:
            paper_mean, paper_std = np.array(published[variant]) * 1e3
            ax.errorbar(k + 0.27, paper_mean, paper_std, fmt="D", ms=4, mfc="white", color=GREY, capsize=2, lw=1)
    ax.set_xticks(range(len(by_variant)), list(by_variant), rotation=0 if max(map(len, by_variant)) < 5 else 30)
    ax.set_xlim(-0.6, len(by_variant) - 0.4)
    ax.margins(y=0.08)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("variant")


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
