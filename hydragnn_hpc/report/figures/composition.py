"""Targets against composition: graph-level targets themselves, and the totals of node-level targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures.style import GREY, PALETTE, Drawing, file_name, label_of, panels, with_unit
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.ground_truth import GroundTruth, ev_per_atom
from hydragnn_hpc.report.results.load import Results

MANY = 3000
"""With more points than this, points are drawn smaller and fainter."""
_ZERO = 1e-3  # totals below this multiple of the largest value are rounding errors
_MOST_POSITIONS = 200  # at more fractions than this, no line of means is drawn


def draw(content: Content) -> Iterator[Drawing]:
    """Draw every graph-level target against composition."""
    results, samples = content.results, content.all_samples
    composition = samples.composition() if samples is not None else None
    if samples is None or composition is None:
        return
    fraction, species = composition
    for task, settings in results.campaign.tasks.items():
        values = samples.targets.get(settings.field)
        if settings.level != "graph" or values is None:
            continue
        unit, label = rows.unit_of(results, task), label_of(results.campaign, task)
        figure, (ax,) = panels(1, height=3.2, width=5.0)
        width, mean_label = values.shape[1], _mean_label(samples, species)
        for k in range(width):
            name, marker = f"component {k}" if width > 1 else "structures", "." if k < len(PALETTE) else "x"
            _cloud(ax, fraction, values[:, k], PALETTE[k % len(PALETTE)], name, marker)
        line = width == 1 and _mean_line(ax, fraction, values[:, 0], mean_label)
        ax.set_xlabel(f"fraction of {species} atoms")
        ax.set_ylabel(_axis_label(results, task))
        _second_axis(ax, unit, samples)
        if width > 1:
            ax.legend(markerscale=3, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        elif line:
            ax.legend(markerscale=3)
        note = "; a colour for each component" if width > 1 else f"; line: {mean_label}" if line else ""
        caption = f"{label.capitalize()} against composition: {_shown_samples(samples, values)}{note}."
        yield Drawing(file_name("composition", task), f"{label.capitalize()} and composition", caption, figure)


def draw_totals(content: Content) -> Iterator[Drawing]:
    """Draw the total of every node-level target against composition, and graph-level targets against that total.

    Of a target of several components, only the first is shown.
    """
    results, samples = content.results, content.all_samples
    if samples is None:
        return
    tasks = results.campaign.tasks
    for task, settings in tasks.items():
        if settings.level != "node" or settings.field not in samples.targets:
            continue
        values = samples.targets[settings.field]
        total = samples.total(values)[:, 0]
        if not np.isfinite(total).any() or np.nanmax(np.abs(total)) < _ZERO * float(np.nanmax(np.abs(values))):
            continue  # charges of a neutral cell: the total is zero up to rounding
        label, unit = _first(label_of(results.campaign, task), values), rows.unit_of(results, task)
        figure = _totals_figure(results, samples, total, with_unit(f"total {label}", f"{unit} per cell".strip()))
        if figure is not None:
            against = ["against composition"] if samples.composition() is not None else []
            graph = any(s.level == "graph" and s.field in samples.targets for s in tasks.values())
            against += ["graph-level targets against it"] if graph else []
            what = f"Total {label} of a structure, {' and '.join(against)}"
            yield Drawing(file_name("total", task), f"Total {label}", f"{what}: {samples.source}.", figure)


def _totals_figure(results: Results, samples: GroundTruth, total: np.ndarray, total_label: str) -> Any:
    """Return the panels of a node-level target's total; None if there is nothing to plot it against."""
    composition = samples.composition()
    graph = [t for t, s in results.campaign.tasks.items() if s.level == "graph" and s.field in samples.targets]
    columns = (composition is not None) + len(graph)
    if not columns:
        return None
    figure, axes = panels(columns, height=2.9, width=3.5 * columns if columns < 3 else 7.0)
    free_axes = iter(axes)
    if composition is not None:
        ax, (fraction, species) = next(free_axes), composition
        _cloud(ax, fraction, total, PALETTE[0])
        line = _mean_line(ax, fraction, total, _mean_label(samples, species))
        ax.set(xlabel=f"fraction of {species} atoms", ylabel=total_label)
        ax.set_title(_correlation(fraction, total))
        if line:
            ax.legend(markerscale=3)
    for other in graph:
        ax, values = next(free_axes), samples.targets[results.campaign.tasks[other].field]
        _cloud(ax, total, values[:, 0], PALETTE[1])
        ax.set(xlabel=total_label, ylabel=_first(_axis_label(results, other), values))
        ax.set_title(_correlation(total, values[:, 0]))
    return figure


def _axis_label(results: Results, task: str) -> str:
    """Return a graph-level task's label; energies in Ry are per cell."""
    unit = rows.unit_of(results, task)
    return with_unit(label_of(results.campaign, task), f"{unit} per cell" if unit == "Ry" else unit)


def _first(label: str, values: np.ndarray) -> str:
    """Return the label of a target's first component."""
    return label if values.shape[1] == 1 else f"{label}, component 0"


def _shown_samples(samples: GroundTruth, values: np.ndarray) -> str:
    """Describe which samples are shown."""
    known = int(np.isfinite(values).any(axis=1).sum())
    return samples.source if known == len(values) else f"those with a value ({known:,}) among {samples.source}"


def _mean_label(samples: GroundTruth, species: str) -> str:
    return "mean per composition" if len(samples.species()) == 2 else f"mean at a fraction of {species}"


def _cloud(ax: Any, x: np.ndarray, y: np.ndarray, color: str, label: str = "structures", marker: str = ".") -> None:
    many = len(x) > MANY
    ax.plot(
        x, y, marker, ms=2.2 if many else 3.5, mew=0.5 if marker == "x" else 0, color=color,
        alpha=0.25 if many else 0.5, rasterized=True, label=label,
    )  # fmt: skip


def _mean_line(ax: Any, x: np.ndarray, y: np.ndarray, label: str) -> bool:
    """Draw the mean at each position if at least half have three samples; return whether it was drawn."""
    finite = np.isfinite(y)
    positions, group = np.unique(x[finite], return_inverse=True)
    drawn = 1 < len(positions) <= _MOST_POSITIONS and float(np.median(np.bincount(group))) > 2
    if drawn:
        mean = np.bincount(group, y[finite]) / np.bincount(group)
        ax.plot(positions, mean, color="black", lw=1, label=label)
    return drawn


def _second_axis(ax: Any, unit: str, samples: GroundTruth) -> None:
    sizes = np.unique(samples.n_atoms)
    if unit == "Ry" and len(sizes) == 1 and sizes[0] > 0:
        factor = float(ev_per_atom(1.0, float(sizes[0])))
        second = ax.secondary_yaxis("right", functions=(lambda y: y * factor, lambda y: y / factor))
        second.set_ylabel("eV per atom", color=GREY)
        second.tick_params(colors=GREY)
        ax.spines["right"].set_visible(False)


def _correlation(x: np.ndarray, y: np.ndarray) -> str:
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.sum() < 3 or np.ptp(x[finite]) == 0 or np.ptp(y[finite]) == 0:
        return ""
    return f"correlation {np.corrcoef(x[finite], y[finite])[0, 1]:.3f}"
