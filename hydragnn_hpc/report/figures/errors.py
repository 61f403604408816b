"""Figures of errors: Table 1 by member, parity, densities, calibration of the ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hydragnn_hpc.report.analysis.paper import Beside
from hydragnn_hpc.report.analysis.statistics import errors_of
from hydragnn_hpc.report.analysis.uncertainty import LEVELS, Uncertainty
from hydragnn_hpc.report.figures.style import (
    DENSITY,
    GREY,
    WIDTH,
    Drawing,
    few_ticks,
    file_name,
    label_of,
    looks,
    numbers,
    panels,
    with_unit,
)
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.load import Results
from hydragnn_hpc.report.results.predictions import Collected, Summary

DENSITY_REACH = 3.0  # in RMSE of the worst variant


def table1(results: Results, beside_it: list[Beside]) -> Iterator[Drawing]:
    """Draw every member's test RMSE by variant, a panel a task, with the paper's where it has one."""
    values = {t: errors_of(results, t) for t in results.campaign.tasks}
    values = {t: found for t, found in values.items() if found}
    if not values:
        return
    figure, axes = panels(len(values), height=2.8)
    reference = {(b.variant, b.task): (b.paper_mean, b.paper_std) for b in beside_it}
    look = looks([v.name for v in results.campaign.variants])
    for ax, (task, found) in zip(axes, values.items(), strict=True):
        _members(ax, look, found, {v: reference[v, task] for v in found if (v, task) in reference})
        ax.set_title(f"{task}: {label_of(results.campaign, task)}")
    axes[0].set_ylabel("test RMSE (scaled, 10⁻³)")
    beside = (
        "; open diamonds: the paper's mean ± std" if any((v, t) in reference for t in values for v in values[t]) else ""
    )
    counts = sorted({len(v) for found in values.values() for v in found.values()})
    caption = (
        f"Test RMSE of scaled values: a dot per member ({_range(counts)} of {results.campaign.replicas} a variant),"
        f" bars: mean ± standard deviation over members{beside}."
    )
    yield Drawing("rmse", "Test error by variant", caption, figure)


def _members(ax: Any, look: dict[str, Any], found: dict[str, list[float]], reference: dict[str, Any]) -> None:
    for k, (variant, errors) in enumerate(found.items()):
        values = np.array(errors) * 1e3
        mean, std = rows.mean_std(values.tolist())
        shift = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(k + shift, values, ".", color=look[variant]["color"], alpha=0.5, ms=4, mew=0)
        ax.errorbar(k - 0.24, mean, std, fmt="o", ms=4, color=look[variant]["color"], capsize=2.5, lw=1.2)
        if variant in reference:
            paper_mean, paper_std = np.array(reference[variant]) * 1e3
            ax.errorbar(k + 0.27, paper_mean, paper_std, fmt="D", ms=4, mfc="white", color=GREY, capsize=2, lw=1)
    ax.set_xticks(range(len(found)), list(found), rotation=0 if max(map(len, found)) < 5 else 30)
    ax.set_xlim(-0.6, len(found) - 0.4)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("variant")


def parity(results: Results, collected: Collected) -> Iterator[Drawing]:
    """Draw predicted against true values of the test set, a figure a variant, a panel a task, coloured by density."""
    from matplotlib.colors import LogNorm

    for variant in results.campaign.variants:
        found = [s for (v, _), s in collected.summaries.items() if v == variant.name]
        if not found:
            continue
        figure, axes = panels(len(found), height=3.6, width=WIDTH / 3 * len(found))
        for ax, summary in zip(axes, found, strict=True):
            edges = summary.scale.values
            extent = (edges[0], edges[-1], edges[0], edges[-1])
            counts = np.ma.masked_equal(summary.parity.T, 0)
            drawn = ax.imshow(
                counts, norm=LogNorm(1, None), cmap=DENSITY, origin="lower", extent=extent, interpolation="nearest"
            )
            ax.plot(edges[[0, -1]], edges[[0, -1]], color=GREY, lw=0.7)
            bar = figure.colorbar(drawn, ax=ax, location="bottom", label="values per cell (number)", format="%d")
            bar.minorticks_off()
            title = f"{summary.task}: {label_of(results.campaign, summary.task)}"
            ax.set_title(f"{title}\n{_scores(summary)}", fontsize=7.5, loc="left", linespacing=1.4)
            ax.set_xlabel(with_unit("true", summary.unit))
            ax.set_ylabel(with_unit("predicted", summary.unit))
        caption = (
            f"Predictions of the {found[0].n} finished members of {variant.name}"
            f" ({found[0].n} of {results.campaign.replicas}) for the test set, counted in cells;"
            " scores: mean ± standard deviation over members."
        )
        yield Drawing(file_name("parity", variant.name), f"Parity, {variant.name}", caption, figure)


def _scores(summary: Summary) -> str:
    lines = []
    for name, values, unit in (
        ("RMSE", summary.rmse, summary.unit),
        ("MAE", summary.mae, summary.unit),
        ("R²", summary.r2, ""),
    ):
        mean, std = rows.mean_std([v for v in values if np.isfinite(v)])
        if mean is not None:
            digits = f"{mean:.5f}" if name == "R²" else numbers(mean, std, unit)
            lines.append(f"{name} {digits}")
    return "\n".join(lines)


def densities(results: Results, collected: Collected) -> Iterator[Drawing]:
    """Draw the probability density of the test errors, a figure a task, a line a variant."""
    look = looks([v.name for v in results.campaign.variants])
    for task in results.campaign.tasks:
        found = [s for (_, t), s in collected.summaries.items() if t == task]
        if not found:
            continue
        figure, (ax,) = panels(1, height=3.0, width=5.0)
        for summary in found:
            middle = (summary.scale.errors[1:] + summary.scale.errors[:-1]) / 2
            lines = np.array(summary.densities)
            mean, kind = lines.mean(axis=0), look[summary.variant]
            ax.plot(
                middle, mean, color=kind["color"], ls=kind["linestyle"],
                label=f"{summary.variant} ({summary.n} of {results.campaign.replicas})",
            )  # fmt: skip
            if summary.n > 1:
                std = lines.std(axis=0, ddof=1)
                ax.fill_between(middle, np.maximum(mean - std, 0), mean + std, color=kind["color"], alpha=0.18, lw=0)
        reach = DENSITY_REACH * max(float(np.mean(s.rmse)) for s in found)
        ax.set_xlim(-reach, reach)
        ax.set_ylim(bottom=0)
        unit = found[0].unit
        ax.set_xlabel(with_unit(f"error of {label_of(results.campaign, task)}, predicted − true", unit))
        ax.set_ylabel(f"probability density (1/{unit})" if unit else "probability density (no unit)")
        ax.legend(title="variant (members)")
        caption = (
            f"Density of the test errors of {task}: mean line over the finished members of each variant,"
            " band: one standard deviation over members."
        )
        yield Drawing(file_name("errors", task), f"Errors of {task}", caption, figure)


def calibration(results: Results, found: list[Uncertainty]) -> Iterator[Drawing]:
    """Draw coverage against confidence, and error against spread, of the ensembles, a figure a task."""
    look = looks([v.name for v in results.campaign.variants])
    for task in results.campaign.tasks:
        own = [u for u in found if u.task == task]
        if not own:
            continue
        figure, (left, right) = panels(2, height=3.0)
        for u in own:
            kind = {k: look[u.variant][k] for k in ("color", "linestyle", "marker")}
            left.plot(LEVELS, u.coverage, ms=3, label=f"{u.variant} ({u.calibration_error:.2f})", **kind)
            positive = (u.groups > 0).all(axis=1)
            right.plot(*u.groups[positive].T, ms=3.5, label=u.variant, **kind)
        left.plot([0, 1], [0, 1], color=GREY, lw=0.7)
        left.set(
            xlabel="confidence level (no unit)", ylabel="share of truths inside (no unit)", xlim=(0, 1), ylim=(0, 1)
        )
        left.set_box_aspect(1)
        left.legend(title="variant (calibration error)")
        groups = np.concatenate([u.groups.ravel() for u in own])
        groups = groups[groups > 0]
        if len(groups):
            ends = np.array([groups.min() * 0.8, groups.max() * 1.25])
            right.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
            few_ticks(right)
            right.plot(ends, ends, color=GREY, lw=0.7)
        right.set_xlabel(with_unit("spread of the members, RMS", own[0].unit))
        right.set_ylabel(with_unit("error of their mean, RMS", own[0].unit))
        right.set_box_aspect(1)
        caption = (
            f"Ensembles as predictors of {task}. Left: share of true values within the central normal interval of each"
            " confidence level around the ensemble's mean (grey: perfect). Right: error against spread, root mean"
            " squares (RMS) in groups of equal size (grey: equal). The spread is over initial weights alone."
        )
        yield Drawing(file_name("calibration", task), f"Calibration of {task}", caption, figure)


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
