"""A sweep: validation error against each key, and test error against the number of training samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hydragnn_hpc.report.analysis import sweep
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.analysis.sweep import PointResult
from hydragnn_hpc.report.figures.style import Drawing, label_log_axes, label_log_axis, label_of, line_styles, panels
from hydragnn_hpc.report.results import rows

_COLUMNS = 3
_LOGARITHMIC = 30.0  # an axis whose values span more than this factor is logarithmic


def draw(content: Content) -> Iterator[Drawing]:
    """Draw the validation error of every point against each key of a sweep, a panel per key."""
    points = [p for p in sweep.ranked(content.results) if p.validation is not None]
    keys = [key for key in (points[0].settings if points else ()) if len({str(p.settings[key]) for p in points}) > 1]
    if not keys:
        return
    columns = min(len(keys), _COLUMNS)
    figure, axes = panels(columns, -(-len(keys) // columns), height=2.6)
    styles = line_styles(list(dict.fromkeys(p.of for p in points)))
    for ax, key in zip(axes, keys, strict=False):
        _panel(ax, key, points, styles)
    for ax in axes[len(keys) :]:
        ax.set_axis_off()
    axes[0].set_ylabel("validation RMSE (scaled, 10⁻³)")
    if len(styles) > 1:
        axes[0].legend(title="variant")
    caption = (
        "Validation error (mean over tasks of the scaled RMSE) of every point against each key: mean over members, with"
        " the 95 % interval if there are at least three. Lines join the best points at each value."
    )
    yield Drawing("sweep", "Validation error over the sweep", caption, figure)


def _panel(ax: Any, key: str, points: Sequence[PointResult], styles: dict[str, Any]) -> None:
    """Draw the errors against one key; values that are not numbers are equally spaced."""
    values = {str(p.settings[key]): p.settings[key] for p in points}
    numbers = [v for v in values.values() if isinstance(v, int | float)]
    numeric = len(numbers) == len(values)
    place = dict(values) if numeric else {name: k for k, name in enumerate(values)}
    for of, style in styles.items():
        own = [p for p in points if p.of == of]
        best: dict[float, float] = {}
        for p in own:
            x, y = float(place[str(p.settings[key])]), 1e3 * (p.validation or 0.0)
            low, high = (1e3 * v for v in p.interval) if p.interval else (y, y)
            ax.errorbar(x, y, [[y - low], [high - y]], fmt=style["marker"], color=style["color"], ms=3.5, lw=0.8)
            best[x] = min(y, best.get(x, y))
        ax.plot(*zip(*sorted(best.items()), strict=True), color=style["color"], ls=style["linestyle"], lw=1, label=of)
    if not numeric:
        ax.set_xticks(range(len(values)), list(values), rotation=30 if max(map(len, values)) > 5 else 0)
    elif min(numbers) > 0 and max(numbers) / min(numbers) > _LOGARITHMIC:
        ax.set_xscale("log")
        label_log_axis(ax.xaxis)
    ax.set_xlabel(key)


def draw_sizes(content: Content) -> Iterator[Drawing]:
    """Draw test error against the number of training samples on logarithmic axes, a panel per task."""
    results, laws = content.results, sweep.power_laws(content.results)
    tasks = list(dict.fromkeys(law.task for law in laws))
    if not tasks:
        return
    figure, axes = panels(len(tasks), height=2.9)
    names = [_label(law.of, law.settings) for law in laws]
    styles = line_styles(list(dict.fromkeys(names)))
    points = sweep.ranked(results)
    for ax, task in zip(axes, tasks, strict=True):
        for law, name in zip(laws, names, strict=True):
            if law.task != task:
                continue
            style = styles[name]
            full = [p for p in points if p.of == law.of and p.ended is None]
            for p in (p for p in full if law.settings.items() <= p.settings.items()):
                members = [m for m in results.finished(p.name) if m.result and m.result.train_samples]
                errors = [1e3 * e for e in rows.metrics(members, task, "rmse")]
                sizes = [m.result.train_samples for m in members if m.result]
                ax.plot(sizes, errors, style["marker"], color=style["color"], ms=3, alpha=0.7, mew=0)
            ends = np.array([law.sizes[0], law.sizes[-1]], np.float64)
            line = [1e3 * law.error(n) for n in ends]
            label = f"{name} ($N^{{{-law.exponent:.2f}}}$)"
            ax.plot(ends, line, color=style["color"], ls=style["linestyle"], lw=1, label=label)
        ax.set(xscale="log", yscale="log", xlabel="training samples N")
        label_log_axes(ax)
        ax.set_title(f"{task}: {label_of(results.campaign, task)}")
        ax.legend()
    axes[0].set_ylabel("test RMSE (scaled, 10⁻³)")
    caption = "Test error against the number of training samples: a dot per member, and fitted power laws."
    yield Drawing("training-samples", "Error against training samples", caption, figure)


def _label(of: str, settings: Any) -> str:
    return " ".join([of, *(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())])
