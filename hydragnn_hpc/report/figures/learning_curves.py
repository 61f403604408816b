"""Learning curves: loss by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures.style import Drawing, label_log_axis, line_styles, panels
from hydragnn_hpc.report.results.rows import compared

MAX_CURVES = 40
"""Maximum number of individual members drawn in a panel."""


def draw(content: Content) -> Iterator[Drawing]:
    """Draw the loss by epoch, one panel per variant."""
    results = content.results
    grouped = {
        v.name: [h for name, h in content.histories.items() if name.rpartition("/")[0] == v.name and len(h)]
        for v in compared(results)
    }
    grouped = {v: histories for v, histories in grouped.items() if histories}
    if not grouped:
        return
    columns = min(len(grouped), 4)
    rows = math.ceil(len(grouped) / columns)
    figure, axes = panels(columns, rows, height=2.1)
    styles = line_styles([v.name for v in compared(results)])
    for ax, (variant, histories) in zip(axes, grouped.items(), strict=False):
        color = styles[variant]["color"]
        for history in histories[:MAX_CURVES]:
            ax.plot(history.epoch, history.validation_loss, color=color, lw=0.5, alpha=0.35)
        pooled = pd.concat(histories).groupby("epoch")
        ax.plot(pooled.validation_loss.median(), color="black", lw=1.2, label="validation, median")
        ax.plot(pooled.train_loss.median(), color="black", lw=1, ls=":", label="training, median")
        if results.campaign.with_noise(variant):  # their loss may be negative
            ax.set_yscale("symlog")
        else:
            ax.set_yscale("log")
            label_log_axis(ax.yaxis)
        ax.set_title(f"{variant} (n = {len(histories)})")
    for ax in axes[len(grouped) :]:
        ax.set_axis_off()
    for k, ax in enumerate(axes[: len(grouped)]):
        ax.set_xlabel("epoch")
        if k % columns == 0:
            ax.set_ylabel("loss (scaled)")
    # The legend goes into the first unused panel, or into the first panel if all are used.
    handles = axes[0].get_legend_handles_labels()
    target = axes[len(grouped)] if len(axes) > len(grouped) else axes[0]
    target.legend(*handles, loc="center" if target is not axes[0] else "upper right")
    note = f" (the first {MAX_CURVES} of each)" if max(len(f) for f in grouped.values()) > MAX_CURVES else ""
    caption = (
        f"Loss by epoch, as far as each member has been trained. Coloured: validation loss of single members{note};"
        " black: medians over the members that reached the epoch."
    )
    yield Drawing("learning_curves", "Learning curves", caption, figure)
