"""Style of all figures and how they are saved: readable in print, safe for the colour-blind."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydragnn_hpc.atomic import written_whole
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.fields import PROPERTIES

WIDTH = 7.0
"""Inches: the full width of a journal page."""
DPI = 160
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), without the yellow, which fades in print."""
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DENSITY = "viridis"
GREY = "#666666"
_RC: dict[Any, Any] = {
    "font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "legend.fontsize": 7.5, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    "lines.linewidth": 1.3, "legend.frameon": False, "pdf.fonttype": 3, "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4), "axes.formatter.use_mathtext": True, "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name (without suffix), title, and caption."""

    name: str
    title: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class SavedFigure:
    """A :class:`Drawing` whose files have been written, and the section that shows it."""

    section: str
    name: str
    title: str
    caption: str


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Enter the context in which figures are made, whatever the user's settings of matplotlib are."""
    # A notebook's backend, which matplotlib may not find here, and which figures in files do not need.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        yield


def panels(columns: int, rows: int = 1, height: float = 2.6, width: float = WIDTH) -> tuple[Any, list[Any]]:
    """Make a figure of equal panels; return it and its axes in reading order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows))
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """Write a figure as PNG and PDF, each completely or not at all; the same figure gives the same bytes."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    paths = [folder / f"{drawing.name}.png", folder / f"{drawing.name}.pdf"]
    with style(), written_whole(paths[0]) as stream:
        stream.write(compressed(drawing.figure))
    drawing.figure.set_layout_engine("none")  # the layout is done; repeating it takes a third of the time
    drawing.figure.dpi = 300
    canvas: Any = FigureCanvasPdf(drawing.figure)  # not typed by Matplotlib
    with style(), written_whole(paths[1]) as stream:
        canvas.print_pdf(stream, metadata={"CreationDate": None, "Title": drawing.title})
    return paths


def compressed(figure: Any) -> bytes:
    """Return a figure as a PNG of at most 256 colours: a third of the size, and no visible difference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.dpi = DPI
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # once; savefig would draw twice
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    small = io.BytesIO()
    image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker of every name; any two of the first 22 differ in at least two of them."""
    styles = {}
    for k, name in enumerate(names):
        block, colour = divmod(k, len(PALETTE))
        styles[name] = {
            "color": PALETTE[colour],
            "linestyle": DASHES[(colour + block) % len(DASHES)],
            "marker": MARKERS[(colour + 2 * block) % len(MARKERS)],
        }
    return styles


def coverage_axes(ax: Any, label: str) -> None:
    """Set up a plot of coverage against level: a square, the diagonal of perfect coverage, ``label`` on the x axis."""
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.7)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel=label, ylabel="fraction of true values inside")
    ax.set_box_aspect(1)


def label_log_axes(ax: Any) -> None:
    """Label both logarithmic axes of a panel (:func:`label_log_axis`)."""
    for axis in (ax.xaxis, ax.yaxis):
        label_log_axis(axis)


def label_log_axis(axis: Any) -> None:
    """Label a logarithmic axis in plain numbers, as many as suit its limits."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 9.0
    steps = (1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(MaxNLocator(3) if decades < 0.6 else LogLocator(subs=steps))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def label_of(campaign: Campaign, task: str) -> str:
    """Return the name of the quantity that a task predicts."""
    field = campaign.tasks[task].field
    return PROPERTIES[field].label if field in PROPERTIES else field.replace("_", " ")


def with_unit(label: str, unit: str) -> str:
    """Return an axis label: quantity and unit, ``charge transfer (e)``."""
    return f"{label} ({unit})" if unit else label


def file_name(*parts: str) -> str:
    """Return a file name without suffix, from fixed words and names of the campaign."""
    return "_".join("".join(c if c.isalnum() or c in "+-" else "-" for c in part) for part in parts)


def time_unit(largest: float) -> tuple[float, str]:
    """Return the divisor and the name of the unit that suits a time span in seconds."""
    for divisor, name in ((3600.0, "h"), (60.0, "min")):
        if largest > 2 * divisor:
            return divisor, name
    return 1.0, "s"
