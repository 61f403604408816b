"""Training time by variant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.analysis.costs import measured_seconds, seconds_of
from hydragnn_hpc.report.figures.style import Drawing, line_styles, panels, time_unit
from hydragnn_hpc.report.results import rows


def draw(content: Content) -> Iterator[Drawing]:
    """Draw the training time of every variant, where there are several."""
    results = content.results
    trained = {v.name: s for v in rows.compared(results) if (s := seconds_of(results, v.name))}
    if len(trained) < 2:
        return  # the table is enough
    divisor, unit = time_unit(max(max(s) for s in trained.values()))
    styles = line_styles([v.name for v in rows.compared(results)])
    figure, (ax,) = panels(1, height=2.8, width=5.0)
    for k, (variant, seconds) in enumerate(trained.items()):
        values = np.array(seconds) / divisor
        times = measured_seconds(results, variant)
        mean, std = rows.mean_std(values.tolist())
        std = std if len(times) > 1 else None
        color = styles[variant]["color"]
        ax.bar(k, mean, color=color, alpha=0.35, width=0.7)
        ax.errorbar(k, mean, std, fmt="none", color="black", capsize=3, lw=1, zorder=5)
        shift = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(k + shift, values, ".", ms=4, mew=0, color=color)
        ax.text(k, 0, f"n = {len(values)}", ha="center", va="bottom", fontsize=6.5)
    ax.set_xticks(range(len(trained)), list(trained), rotation=0 if max(map(len, trained)) < 7 else 30)
    ax.set(xlabel="variant", ylabel=f"training time ({unit})")
    whiskers = any(len(measured_seconds(results, v)) > 1 for v in trained)
    bars = "Bars and whiskers: mean ± standard deviation" if whiskers else "Bars: mean"
    caption = (
        f"Training and validation time of a member. {bars}; a dot per finished member (n of"
        f" {results.campaign.replicas}). {rows.stacking_note(results)}"
    ).strip()
    yield Drawing("training_time", "Training time by variant", caption, figure)
