"""Calibration of the ensembles' uncertainty."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.analysis.uncertainty import LEVELS
from hydragnn_hpc.report.figures.style import (
    GREY,
    Drawing,
    coverage_axes,
    file_name,
    label_log_axes,
    line_styles,
    panels,
    with_unit,
)
from hydragnn_hpc.report.results import rows


def draw(content: Content) -> Iterator[Drawing]:
    """Draw coverage against confidence, and error against spread, of the ensembles, a figure per task."""
    results = content.results
    styles = line_styles([v.name for v in rows.compared(results)])
    for task in results.campaign.tasks:
        own = [u for u in content.uncertainties if u.task == task]
        if not own:
            continue
        figure, (left, right) = panels(2, height=3.0)
        for u in own:
            style = styles[u.variant]
            left.plot(LEVELS, u.coverage, ms=3, label=f"{u.variant} ({u.calibration_error:.2f})", **style)
            positive = (u.groups > 0).all(axis=1)
            right.plot(*u.groups[positive].T, ms=3.5, label=u.variant, **style)
        coverage_axes(left, "confidence level")
        left.legend(title="variant (calibration error)")
        groups = np.concatenate([u.groups.ravel() for u in own])
        groups = groups[groups > 0]
        if len(groups):
            ends = np.array([groups.min() * 0.8, groups.max() * 1.25])
            right.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
            label_log_axes(right)
            right.plot(ends, ends, color=GREY, lw=0.7)
        right.set_xlabel(with_unit("spread of the members, RMS", own[0].unit))
        right.set_ylabel(with_unit("error of their mean, RMS", own[0].unit))
        right.set_box_aspect(1)
        parts = (
            "includes the noise that members predict" if own[0].noise is not None else "is over initial weights alone"
        )
        caption = (
            f"Ensembles as predictors of {task}. Left: fraction of true values within the central normal interval of"
            " each confidence level around the ensemble's mean (grey: perfect). Right: error against spread, root mean"
            f" squares (RMS) in groups of equal size (grey: equal). The spread {parts}."
        )
        yield Drawing(file_name("calibration", task), f"Calibration of {task}", caption, figure)
