"""Learning curves: loss by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures.style import Drawing, log_labels, looks, panels

LINES = 40
"""Single members drawn per panel."""


def draw(content: Content) -> Iterator[Drawing]:
    """Draw the loss by epoch, a panel per variant."""
    results = content.results
    grouped = {
        v.name: [h for name, h in content.histories.items() if name.rpartition("/")[0] == v.name and len(h)]
        for v in results.campaign.variants
    }
    grouped = {v: found for v, found in grouped.items() if found}
    if not grouped:
        return
    columns = min(len(grouped), 4)
    lines = math.ceil(len(grouped) / columns)
    figure, axes = panels(columns, lines, height=2.1)
    look = looks([v.name for v in results.campaign.variants])
    for ax, (variant, found) in zip(axes, grouped.items(), strict=False):
        color = look[variant]["color"]
        for history in found[:LINES]:
            ax.plot(history.epoch, history.validation_loss, color=color, lw=0.5, alpha=0.35)
        together = pd.concat(found).groupby("epoch")
        ax.plot(together.validation_loss.median(), color="black", lw=1.2, label="validation, median")
        ax.plot(together.train_loss.median(), color="black", lw=1, ls=":", label="training, median")
        ax.set_yscale("log")
        log_labels(ax.yaxis)
        ax.set_title(f"{variant} (n = {len(found)})")
    for ax in axes[len(grouped) :]:
        ax.set_axis_off()
    for k, ax in enumerate(axes[: len(grouped)]):
        ax.set_xlabel("epoch (number)")
        if k % columns == 0:
            ax.set_ylabel("loss (scaled, no unit)")
    # The first free panel holds the legend, else the first panel does.
    handles = axes[0].get_legend_handles_labels()
    target = axes[len(grouped)] if len(axes) > len(grouped) else axes[0]
    target.legend(*handles, loc="center" if target is not axes[0] else "upper right")
    many = f" (the first {LINES} of each)" if max(len(f) for f in grouped.values()) > LINES else ""
    caption = (
        f"Loss by epoch, as far as each member has been trained. Coloured: validation loss of single members{many};"
        " black: medians over the members that reached the epoch."
    )
    yield Drawing("learning_curves", "Learning curves", caption, figure)
