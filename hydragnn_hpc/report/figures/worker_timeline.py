"""Which worker trained which variant, and when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from hydragnn_hpc.counts import counted
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.figures.style import GREY, PALETTE, Drawing, line_styles, panels, time_unit
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.worker_sessions import WorkerSession, read_sessions

FAILED = "#D00000"


def draw(content: Content) -> Iterator[Drawing]:
    """Draw which worker trained which variant, and when, where there were several stacks."""
    results = content.results
    sessions = read_sessions(results)
    distinct = list(_distinct(sessions))
    if len(distinct) < 2:
        return
    workers = sorted({s.worker for s in sessions})
    begin, end = min(s.started for s in sessions), max(s.ended for s in sessions)
    divisor, unit = time_unit(end - begin)
    origins = rows.origins(results.campaign)
    styles = line_styles(list(dict.fromkeys(origins.values())))
    height = min(max(1.3 + 0.2 * len(workers), 2.0), 9.0)
    figure, (ax,) = panels(1, height=height)

    def bars(label: str, shown: list[WorkerSession], **look: Any) -> None:
        if shown:
            places = [workers.index(s.worker) for s in shown]
            lengths = [(s.ended - s.started) / divisor for s in shown]
            ax.barh(places, lengths, 0.8, [(s.started - begin) / divisor for s in shown], label=label, **look)

    for k, (name, style) in enumerate(styles.items()):
        # Beyond the length of the palette, a hatch distinguishes two variants of one colour.
        hatch = "///" if k >= len(PALETTE) else None
        own = [s for s in sessions if not s.failed and origins[s.variant] == name]
        bars(name, own, color=style["color"], edgecolor="white", linewidth=0.4, hatch=hatch)
    failed = [s for s in sessions if s.failed]
    bars("failed", failed, color="white", edgecolor=FAILED, hatch="xxxx", linewidth=0.8)
    step = math.ceil(len(workers) / 40)
    ticks = list(range(0, len(workers), step))
    slots = any(slot for _, slot in workers)
    ax.set_yticks(ticks, [f"{workers[k][0]}.{workers[k][1]}" if slots else str(workers[k][0]) for k in ticks])
    ax.set_ylim(len(workers) - 0.4, -0.6)
    ax.set(xlabel=f"time since the start ({unit})", ylabel="rank.slot" if slots else "rank")
    ax.grid(axis="x", color=GREY, alpha=0.3, lw=0.5)
    ax.set_axisbelow(True)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=8)
    busy = sum(s.ended - s.started for s in distinct)
    share = busy / ((end - begin) * len(workers)) if end > begin else 1.0
    who = f"{counted(len(workers), 'worker')} {'was' if len(workers) == 1 else 'were'}"
    caption = (
        f"Variants trained by each worker over time. {who} busy {share:.0%} of the time between the first start and"
        " the last end; a stack is one bar."
    )
    yield Drawing("schedule", "Workers over time", caption, figure)


def _distinct(sessions: list[WorkerSession]) -> Iterator[WorkerSession]:
    """Yield sessions without their overlap with earlier ones of the same worker."""
    until: dict[tuple[int, int], float] = {}
    for s in sessions:
        begin = max(s.started, until.get(s.worker, s.started))
        if s.ended > begin:
            until[s.worker] = s.ended
            yield WorkerSession(s.worker, s.variant, begin, s.ended, s.failed)
