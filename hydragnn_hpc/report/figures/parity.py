"""Parity plots: predicted against true values of the test set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures.style import (
    DENSITY,
    GREY,
    WIDTH,
    Drawing,
    file_name,
    label_of,
    panels,
    with_unit,
)
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.predictions import EnsembleStatistics


def draw(content: Content) -> Iterator[Drawing]:
    """Draw predicted against true test values, a figure per variant, a panel per task, coloured by density."""
    from matplotlib.colors import LogNorm

    results = content.results
    for variant in rows.compared(results):
        ensembles = [e for (v, _), e in content.predictions.ensembles.items() if v == variant.name]
        if not ensembles:
            continue
        figure, axes = panels(len(ensembles), height=3.6, width=WIDTH / 3 * len(ensembles))
        for ax, ensemble in zip(axes, ensembles, strict=True):
            edges = ensemble.edges.values
            extent = (edges[0], edges[-1], edges[0], edges[-1])
            counts = np.ma.masked_equal(ensemble.parity.T, 0)
            most = max(int(ensemble.parity.max()), 1)  # 0 where all predictions are outside the bins
            drawn = ax.imshow(
                counts, norm=LogNorm(1, most), cmap=DENSITY, origin="lower", extent=extent, interpolation="nearest"
            )
            ax.plot(edges[[0, -1]], edges[[0, -1]], color=GREY, lw=0.7)
            bar = figure.colorbar(drawn, ax=ax, location="bottom", label="values per bin", format="%d")
            bar.minorticks_off()
            title = f"{ensemble.task}: {label_of(results.campaign, ensemble.task)}"
            ax.set_title(f"{title}\n{_scores(ensemble)}", fontsize=7.5, loc="left", linespacing=1.4)
            ax.set_xlabel(with_unit("true", ensemble.unit))
            ax.set_ylabel(with_unit("predicted", ensemble.unit))
        scores = " Scores: mean ± standard deviation over members." if ensembles[0].n > 1 else ""
        caption = (
            f"Test predictions of the finished members of {variant.name} ({ensembles[0].n} of"
            f" {results.campaign.replicas}), counted in bins; a panel per task.{scores}"
        )
        yield Drawing(file_name("parity", variant.name), f"Parity, {variant.name}", caption, figure)


def _scores(ensemble: EnsembleStatistics) -> str:
    """Return RMSE, MAE and R² over members, a line each."""
    lines = []
    for name, values, unit in (
        ("RMSE", ensemble.rmse, ensemble.unit),
        ("MAE", ensemble.mae, ensemble.unit),
        ("R²", ensemble.r2, ""),
    ):
        mean, std = rows.mean_std([v for v in values if np.isfinite(v)])
        if mean is not None:
            shown = text.r_squared(mean) if name == "R²" else text.with_spread(mean, std)
            lines.append(f"{name} {shown} {unit}".rstrip())
    return "\n".join(lines)
