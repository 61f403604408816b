"""Figures of the training: times, learning curves, who trained what and when."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report.analysis.costs import seconds_of
from hydragnn_hpc.report.figures.style import GREY, PALETTE, Drawing, log_labels, looks, panels, time_unit
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.live import timestamp
from hydragnn_hpc.report.results.load import Results

LINES = 40
"""Single members drawn per panel of the learning curves."""
FAILED = "#D00000"


@dataclass(frozen=True)
class Session:
    """A stretch of time in which a worker trained a stack, in seconds of the epoch; ``failed`` ended in a failure."""

    worker: tuple[int, int]
    variant: str
    started: float
    ended: float
    failed: bool = False


def times(results: Results) -> Iterator[Drawing]:
    """Draw the training time of every variant."""
    found = {v.name: seconds_of(results, v.name) for v in results.campaign.variants}
    found = {v: s for v, s in found.items() if s}
    if not found:
        return
    divisor, unit = time_unit(max(max(s) for s in found.values()))
    look = looks([v.name for v in results.campaign.variants])
    figure, (ax,) = panels(1, height=2.8, width=5.0)
    for k, (variant, seconds) in enumerate(found.items()):
        values = np.array(seconds) / divisor
        mean, std = rows.mean_std(values.tolist())
        color = look[variant]["color"]
        ax.bar(k, mean, color=color, alpha=0.35, width=0.7)
        ax.errorbar(k, mean, std, fmt="none", color="black", capsize=3, lw=1, zorder=5)
        shift = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(k + shift, values, ".", ms=4, mew=0, color=color)
        ax.text(k, 0, f"n = {len(values)}", ha="center", va="bottom", fontsize=6.5)
    ax.set_xticks(range(len(found)), list(found), rotation=0 if max(map(len, found)) < 7 else 30)
    ax.set(xlabel="variant", ylabel=f"training time ({unit})")
    stack = rows.stacked(results)
    stacked = f" Members were trained in stacks of up to {stack}: the time of each is its stack's." if stack > 1 else ""
    caption = (
        "Training and validation time of a member: bars and whiskers mean ± standard deviation, a dot per finished"
        f" member (n of {results.campaign.replicas}).{stacked}"
    )
    yield Drawing("training_time", "Training time by variant", caption, figure)


def curves(results: Results, histories: dict[str, pd.DataFrame]) -> Iterator[Drawing]:
    """Draw the loss by epoch, a panel a variant."""
    grouped = {
        v.name: [h for name, h in histories.items() if name.rpartition("/")[0] == v.name and len(h)]
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
        f"Loss by epoch, members as far as they have got. Coloured: validation loss of single members{many};"
        " black: medians over the members that reached the epoch."
    )
    yield Drawing("learning_curves", "Learning curves", caption, figure)


def schedule(results: Results) -> Iterator[Drawing]:
    """Draw which worker trained which variant when."""
    sessions = read_sessions(results)
    if not sessions:
        return
    workers = sorted({s.worker for s in sessions})
    begin, end = min(s.started for s in sessions), max(s.ended for s in sessions)
    divisor, unit = time_unit(end - begin)
    look = looks([v.name for v in results.campaign.variants])
    height = min(max(1.3 + 0.2 * len(workers), 2.0), 9.0)
    figure, (ax,) = panels(1, height=height)
    for variant in results.campaign.variants:
        own = [s for s in sessions if s.variant == variant.name and not s.failed]
        if own:
            ax.barh(
                [workers.index(s.worker) for s in own],
                [(s.ended - s.started) / divisor for s in own],
                left=[(s.started - begin) / divisor for s in own],
                height=0.8,
                color=look[variant.name]["color"],
                edgecolor="white",
                linewidth=0.4,
                label=variant.name,
                # Beyond the palette's length a hatch tells two variants of one colour apart.
                hatch="///" if list(look).index(variant.name) >= len(PALETTE) else None,
            )
    lost = [s for s in sessions if s.failed]
    if lost:
        ax.barh(
            [workers.index(s.worker) for s in lost],
            [(s.ended - s.started) / divisor for s in lost],
            left=[(s.started - begin) / divisor for s in lost],
            height=0.8, color="white", edgecolor=FAILED, hatch="xxxx", linewidth=0.8, label="failed",
        )  # fmt: skip
    step = math.ceil(len(workers) / 40)
    ticks = list(range(0, len(workers), step))
    slots = any(slot for _, slot in workers)
    ax.set_yticks(ticks, [f"{workers[k][0]}.{workers[k][1]}" if slots else str(workers[k][0]) for k in ticks])
    ax.set_ylim(len(workers) - 0.4, -0.6)
    ax.set(xlabel=f"time since the start ({unit})", ylabel="rank.slot" if slots else "rank")
    ax.grid(axis="x", color=GREY, alpha=0.3, lw=0.5)
    ax.set_axisbelow(True)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=8)
    used = sum(s.ended - s.started for s in _distinct(sessions))
    share = used / ((end - begin) * len(workers)) if end > begin else 1.0
    who = "1 worker was" if len(workers) == 1 else f"{len(workers)} workers were"
    caption = (
        f"What every worker trained, and when. {who} busy {share:.0%} of the time between the first start and the last"
        " end; a stack is one bar."
    )
    yield Drawing("schedule", "Workers over time", caption, figure)


def read_sessions(results: Results) -> list[Session]:
    """Return who trained what and when: from the sessions of the results, and failed attempts from the event log."""
    found = set()
    for member in results.members:
        for s in member.result.sessions if member.result else ():
            began, ended = (datetime.fromisoformat(t).timestamp() for t in (s.started, s.ended))
            found.add(Session((s.rank, s.slot), member.variant, began, ended))
    return sorted([*_merged(found), *_failed(results)], key=lambda s: (s.worker, s.started))


def _merged(sessions: set[Session]) -> list[Session]:
    """Take overlapping sessions of one worker and variant together: the members of a stack."""
    merged: list[Session] = []
    for s in sorted(sessions, key=lambda s: (s.worker, s.variant, s.started)):
        last = merged[-1] if merged else None
        if last and (last.worker, last.variant) == (s.worker, s.variant) and s.started < last.ended:
            merged[-1] = Session(last.worker, last.variant, last.started, max(last.ended, s.ended))
        else:
            merged.append(s)
    return merged


def _failed(results: Results) -> Iterator[Session]:
    assigned: dict[tuple[int, int], float] = {}
    for event in events(results):
        worker, moment = (event.get("rank"), event.get("slot")), timestamp(event.get("time"))
        if not isinstance(worker[0], int) or not isinstance(worker[1], int) or moment is None:
            continue
        place = (worker[0], worker[1])
        if event.get("event") == "assign":
            assigned[place] = moment
        elif event.get("event") == "failed" and place in assigned:
            yield Session(place, str(event.get("variant", "")), assigned[place], moment, failed=True)


def events(results: Results) -> list[dict[str, Any]]:
    """Return the event log; a line that a kill cut short is left out.

    Raises
    ------
    UserError
        If the file is there and cannot be read.
    """
    path = results.folder.events
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; mend the file's rights") from error
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def _distinct(sessions: list[Session]) -> Iterator[Session]:
    """Yield sessions without what overlaps on the same worker."""
    until: dict[tuple[int, int], float] = {}
    for s in sessions:
        begin = max(s.started, until.get(s.worker, s.started))
        if s.ended > begin:
            until[s.worker] = s.ended
            yield Session(s.worker, s.variant, begin, s.ended, s.failed)
