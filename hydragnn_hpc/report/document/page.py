"""The report as one self-contained page: it needs no other files and no network."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from hydragnn_hpc.counts import counted
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.document.body import EVIDENCE_HEADER, ReportSection
from hydragnn_hpc.report.tables.status import counts

TEMPLATES = Path(__file__).with_name("templates")
MEMBERS = 2000
"""At most this many members are listed; ``members.csv`` has all of them."""
POINTS = 40
"""At most this many points per small learning curve."""
CURVE_WIDTH, CURVE_HEIGHT = 120, 24
"""Size of a small learning curve, in page pixels."""
PAGE_SCALE = 0.7
"""Page pixels per image pixel: sharp on high-resolution screens too."""


def page(content: Content, parts: Sequence[ReportSection]) -> str:
    """Return the page, with the figures embedded from their files.

    Everything from outside (names, causes, output) is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = content.results
    figures = {d.name: embedded(results.folder.figures / f"{d.name}.png") for p in parts for d in p.figures}
    return environment.get_template("index.html.jinja").render(
        campaign=results.campaign,
        total=counted(len(results.members), "member"),
        states=counts(results),
        parts=[_shortened(p) if p.key == "members" else p for p in parts],
        figures=figures,
        evidence_header=EVIDENCE_HEADER,
        curves=curves(content),
        curve_size=(CURVE_WIDTH, CURVE_HEIGHT),
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
    )


def _printable(value: Any) -> Any:
    # The output of a failed program may contain control characters, which must not reach the page.
    return "".join(c for c in value if c.isprintable() or c == "\n") if type(value) is str else value


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as a ``data:`` URL, and its size on the page: text has the same size in all figures."""

    address: str
    width: int
    height: int


def embedded(path: Path) -> EmbeddedImage:
    """Return a PNG file as an image to embed in the page."""
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # in the header chunk, the first of every PNG
    address = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    return EmbeddedImage(address, round(width * PAGE_SCALE), round(height * PAGE_SCALE))


def curves(content: Content) -> dict[str, str]:
    """Return the small learning curve of every listed member, by its name, as the ``points`` of an SVG polyline.

    They lie within `CURVE_WIDTH` by `CURVE_HEIGHT` page pixels.

    The logarithm of the validation loss (its asinh where it may be negative) is shown against the epoch; the members of
    a variant share their axes.
    """
    encoded: dict[str, str] = {}
    for variant in content.results.campaign.variants:
        names = [m.name for m in content.results.members[:MEMBERS] if m.variant == variant.name]
        signed = bool(content.results.campaign.with_noise(variant.name))
        logs = {n: _log_loss(content.histories[n], signed) for n in names if n in content.histories}
        logs = {n: v for n, v in logs.items() if len(v)}
        if not logs:
            continue
        everything = np.concatenate(list(logs.values()))
        low, high = float(everything[:, 1].min()), float(everything[:, 1].max())
        last = float(everything[:, 0].max())
        for name, values in logs.items():
            keep = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(int))
            x = values[keep, 0] / max(last, 1.0) * CURVE_WIDTH
            y = (high - values[keep, 1]) / ((high - low) or 1.0) * (CURVE_HEIGHT - 2) + 1
            encoded[name] = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True))
    return encoded


def _log_loss(history: pd.DataFrame, signed: bool) -> np.ndarray:
    """Return ``[n, 2]``: epoch and log10 of the validation loss, where it is positive and finite; asinh if signed."""
    epoch, loss = (history[name].to_numpy(float) for name in ("epoch", "validation_loss"))
    known = np.isfinite(epoch) & np.isfinite(loss) & (signed | (loss > 0))
    return np.column_stack([epoch[known], (np.arcsinh if signed else np.log10)(loss[known])])


def _shortened(part: ReportSection) -> ReportSection:
    """Return the section of the members, with at most `MEMBERS` of them."""
    (table,) = part.tables
    if len(table.cells) <= MEMBERS:
        return part
    note = f"The first {MEMBERS:,} of {len(table.cells):,} members; members.csv has all of them."
    return replace(part, tables=(replace(table, cells=table.cells[:MEMBERS], notes=(*table.notes, note)),))
