"""Probability density of the test errors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures.style import Drawing, file_name, label_of, line_styles, panels, with_unit
from hydragnn_hpc.report.results import rows

_HALF_WIDTH = 3.0  # of the error axis, in units of the largest RMSE of a variant


def draw(content: Content) -> Iterator[Drawing]:
    """Draw the probability density of the test errors, a figure per task, a line per variant."""
    results = content.results
    styles = line_styles([v.name for v in rows.compared(results)])
    for task in results.campaign.tasks:
        ensembles = [e for (v, t), e in content.predictions.ensembles.items() if t == task and v in styles]
        if not ensembles:
            continue
        figure, (ax,) = panels(1, height=3.0, width=5.0)
        for ensemble in ensembles:
            centres = (ensemble.edges.errors[1:] + ensemble.edges.errors[:-1]) / 2
            densities = np.array(ensemble.densities)
            mean, style = densities.mean(axis=0), styles[ensemble.variant]
            ax.plot(
                centres, mean, color=style["color"], ls=style["linestyle"],
                label=f"{ensemble.variant} ({ensemble.n} of {results.campaign.replicas})",
            )  # fmt: skip
            if ensemble.n > 1:
                std = densities.std(axis=0, ddof=1)
                ax.fill_between(centres, np.maximum(mean - std, 0), mean + std, color=style["color"], alpha=0.18, lw=0)
        reach = _HALF_WIDTH * max(float(np.mean(e.rmse)) for e in ensembles) or ensembles[0].edges.errors[-1]
        ax.set_xlim(-reach, reach)
        ax.set_ylim(bottom=0)
        unit = ensembles[0].unit
        ax.set_xlabel(with_unit(f"error of {label_of(results.campaign, task)}, predicted − true", unit))
        ax.set_ylabel(f"probability density (1/{unit})" if unit else "probability density")
        ax.legend(title="variant (members)")
        several = any(e.n > 1 for e in ensembles)
        caption = f"Density of the test errors of {task}, a line per variant" + (
            ": mean over its finished members; band: one standard deviation over members." if several else "."
        )
        yield Drawing(file_name("errors", task), f"Errors of {task}", caption, figure)
