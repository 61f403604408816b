"""The figures of the report, in the order of ``summary.json``. A new one is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures import (
    calibration,
    composition,
    error_density,
    learning_curves,
    parity,
    reliability,
    rmse,
    sweep,
    training_time,
    worker_timeline,
)
from hydragnn_hpc.report.figures.style import Drawing


@dataclass(frozen=True)
class Figure:
    """A kind of figure.

    Attributes
    ----------
    section : str
        Key of the section that shows it (`document.body.SECTIONS`).
    draw : callable
        Yields the drawings: none where a campaign has nothing to show, or one for each task or variant.
    """

    section: str
    draw: Callable[[Content], Iterator[Drawing]]


FIGURES = (
    Figure("learned", rmse.draw),
    Figure("sweep", sweep.draw),
    Figure("sweep", sweep.draw_sizes),
    Figure("data", composition.draw),
    Figure("predictions", parity.draw),
    Figure("predictions", error_density.draw),
    Figure("data", composition.draw_totals),
    Figure("costs", training_time.draw),
    Figure("training", learning_curves.draw),
    Figure("training", worker_timeline.draw),
    Figure("uncertainty", calibration.draw),
    Figure("uncertainty", reliability.draw),
)
