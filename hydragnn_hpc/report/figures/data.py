"""Figures of the data: graph targets against composition, node targets' totals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hydragnn_hpc.report.figures.style import GREY, PALETTE, Drawing, file_name, label_of, panels, with_unit
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.load import Results
from hydragnn_hpc.report.results.samples import Samples, ev_per_atom

MANY = 3000
"""From so many points on they are drawn smaller and fainter."""


def composition(results: Results, samples: Samples | None) -> Iterator[Drawing]:
    """Draw every graph-level target against composition."""
    found = samples.composition() if samples is not None else None
    if samples is None or found is None:
        return
    fraction, species = found
    for task, settings in results.campaign.tasks.items():
        values = samples.targets.get(settings.field)
        if settings.level != "graph" or values is None:
            continue
        unit, label = rows.unit_of(results, task), label_of(results.campaign, task)
        figure, (ax,) = panels(1, height=3.2, width=5.0)
        width = values.shape[1]
        for k in range(width):
            _cloud(ax, fraction, values[:, k], PALETTE[k % len(PALETTE)], *([f"component {k}"] if width > 1 else []),
                   marker="." if k < len(PALETTE) else "x")  # fmt: skip
        if width == 1:
            _mean_line(ax, fraction, values[:, 0], _mean_of(samples, species))
        ax.set_xlabel(f"fraction of {species} atoms (no unit)")
        ax.set_ylabel(with_unit(label, f"{unit} per cell" if unit == "Ry" else unit))
        _second_axis(ax, unit, samples)
        beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if width > 1 else {}
        ax.legend(markerscale=3, **beside)
        line = "; a colour for each component" if width > 1 else f"; line: {_mean_of(samples, species)}"
        caption = f"{label.capitalize()} against composition: {_known(samples, values)}{line}."
        yield Drawing(file_name("composition", task), f"{label.capitalize()} and composition", caption, figure)


def totals(results: Results, samples: Samples | None) -> Iterator[Drawing]:
    """Draw the total of every node-level target against composition, and graph-level targets against that total."""
    found = samples.composition() if samples is not None else None
    if samples is None:
        return
    tasks = results.campaign.tasks
    graph = [t for t, s in tasks.items() if s.level == "graph" and s.field in samples.targets]
    for task, settings in tasks.items():
        if settings.level != "node" or settings.field not in samples.targets:
            continue
        total = samples.total(samples.targets[settings.field])[:, 0]
        unit, label = rows.unit_of(results, task), label_of(results.campaign, task)
        scale = float(np.nanmax(np.abs(samples.targets[settings.field]))) if len(total) else 0.0
        if not np.isfinite(total).any() or np.nanmax(np.abs(total)) < 1e-3 * scale:
            continue  # a neutral cell's charges: the total is zero but for rounding
        columns = (found is not None) + len(graph)
        if not columns:
            continue
        figure, axes = panels(columns, height=2.9, width=3.5 * columns if columns < 3 else 7.0)
        axis = iter(axes)
        if found is not None:
            ax = next(axis)
            _cloud(ax, found[0], total, PALETTE[0])
            _mean_line(ax, found[0], total, _mean_of(samples, found[1]))
            ax.set(
                xlabel=f"fraction of {found[1]} atoms (no unit)", ylabel=with_unit(f"total {label}", f"{unit} per cell")
            )
            ax.set_title(_correlation(found[0], total))
            ax.legend(markerscale=3)
        for other in graph:
            ax, values = next(axis), samples.targets[tasks[other].field][:, 0]
            _cloud(ax, total, values, PALETTE[1])
            per_cell = rows.unit_of(results, other)
            ax.set_xlabel(with_unit(f"total {label}", f"{unit} per cell"))
            ax.set_ylabel(
                with_unit(label_of(results.campaign, other), f"{per_cell} per cell" if per_cell == "Ry" else per_cell)
            )
            ax.set_title(_correlation(total, values))
        caption = f"Total {label} of a structure against composition, and what goes with it: {samples.source}."
        yield Drawing(file_name("total", task), f"Total {label}", caption, figure)


def _known(samples: Samples, values: np.ndarray) -> str:
    """Say which samples are shown, of how many."""
    known = int(np.isfinite(values).any(axis=1).sum())
    return samples.source if known == len(values) else f"the {known:,} with a value of {samples.source}"


def _mean_of(samples: Samples, species: str) -> str:
    return "mean of a composition" if len(samples.species()) == 2 else f"mean at a fraction of {species}"


def _cloud(ax: Any, x: np.ndarray, y: np.ndarray, color: str, label: str = "a structure", *, marker: str = ".") -> None:
    many = len(x) > MANY
    ax.plot(
        x, y, marker, ms=2.2 if many else 3.5, mew=0.5 if marker == "x" else 0, color=color,
        alpha=0.25 if many else 0.5, rasterized=True, label=label,
    )  # fmt: skip


def _mean_line(ax: Any, x: np.ndarray, y: np.ndarray, label: str) -> None:
    known = np.isfinite(y)
    places, group = np.unique(x[known], return_inverse=True)
    if 1 < len(places) <= 200:
        mean = np.bincount(group, y[known]) / np.bincount(group)
        ax.plot(places, mean, color="black", lw=1, label=label)


def _second_axis(ax: Any, unit: str, samples: Samples) -> None:
    sizes = np.unique(samples.n_atoms)
    if unit == "Ry" and len(sizes) == 1 and sizes[0] > 0:
        factor = float(ev_per_atom(1.0, float(sizes[0])))
        second = ax.secondary_yaxis("right", functions=(lambda y: y * factor, lambda y: y / factor))
        second.set_ylabel("eV per atom", color=GREY)
        second.tick_params(colors=GREY)
        ax.spines["right"].set_visible(False)


def _correlation(x: np.ndarray, y: np.ndarray) -> str:
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return ""
    return f"correlation {np.corrcoef(x[known], y[known])[0, 1]:.3f}"
