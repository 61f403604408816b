"""Reliability and sharpness of the ensembles' intervals, before and after calibration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.analysis.uncertainty import LEVELS
from hydragnn_hpc.report.figures.style import (
    Drawing,
    coverage_axes,
    file_name,
    label_log_axis,
    line_styles,
    panels,
    with_unit,
)
from hydragnn_hpc.report.results import rows


def draw(content: Content) -> Iterator[Drawing]:
    """Draw coverage against level, and the distribution of the calibrated standard deviation, a figure per task."""
    results = content.results
    styles = line_styles([v.name for v in rows.compared(results)])
    for task in results.campaign.tasks:
        own = [c for c in content.calibrated if c.ensemble.task == task]
        if not own:
            continue
        figure, (left, right) = panels(2, height=3.0)
        for c in own:
            name = c.ensemble.variant
            color = styles[name]["color"]
            after = [c.inside(c.calibrated(level)) for level in LEVELS]
            left.plot(LEVELS, after, color=color, marker=styles[name]["marker"], ms=3, label=name)
            left.plot(LEVELS, [c.inside(c.raw(level)) for level in LEVELS], color=color, ls=":")
            for std, line in ((c.calibrated_std, "-"), (c.std, ":")):
                shown = np.sort(std[np.isfinite(std) & (std > 0)])
                right.plot(shown, np.linspace(0, 1, len(shown)), color=color, ls=line)
            right.axvline(c.ensemble.rmse_of_mean, color=color, lw=0.7)
        coverage_axes(left, "level of the interval")
        left.legend(title="variant")
        right.set(xscale="log", ylim=(0, 1), ylabel="fraction of predictions below")
        label_log_axis(right.xaxis)
        right.set_xlabel(with_unit("standard deviation", own[0].ensemble.unit))
        right.set_box_aspect(1)
        caption = (
            f"Intervals of {task} on the test set, before (dotted) and after calibration. Left: fraction of true"
            " values inside the interval of each level (grey: perfect). Right: distribution of the standard deviation;"
            " smaller is sharper (vertical line: RMSE of the ensemble's mean)."
        )
        yield Drawing(file_name("reliability", task), f"Reliability and sharpness of {task}", caption, figure)
