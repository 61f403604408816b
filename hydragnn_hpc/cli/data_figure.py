"""The figure of ``data info``: histograms of compositions, sizes and targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.atomic import written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.dataset import Target
from hydragnn_hpc.report.figures import style

_COLUMNS = 2  # of panels
_MOST_BINS = 60
_MOST_SERIES = 9  # in a panel
_MOST_SHARES = 150  # more different shares of an element are drawn as a histogram
_COMPONENTS = "xyz"  # of a vector


def check_name(path: Path) -> None:
    """Refuse an unsuitable file name before long work.

    Raises
    ------
    UserError
        If it ends neither in .png nor in .pdf.
    """
    if path.suffix not in (".png", ".pdf"):
        raise UserError(f"--figure {path}: a figure is written as .png or .pdf; give a name that ends so")


def save(path: Path, arrays: dict[str, np.ndarray], targets: dict[str, Target], title: str) -> None:
    """Draw the data set's histograms into ``path``, whole or not at all.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    with style.style():
        figure = _draw(arrays, targets, title)
        with written_whole(path) as stream:
            metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
            figure.savefig(stream, format=path.suffix[1:], dpi=style.DPI, metadata=metadata)


def _draw(arrays: dict[str, np.ndarray], targets: dict[str, Target], title: str) -> Any:
    from ase.data import chemical_symbols

    from hydragnn_hpc.dataset.build.distribution import composition

    species, fractions = composition(arrays)
    symbols = [chemical_symbols[z] for z in species.tolist()]
    n_atoms = np.diff(arrays["atom_offsets"])
    varying = len(np.unique(n_atoms)) > 1
    panels = 1 + varying + len(targets)
    figure, axes = style.panels(_COLUMNS, math.ceil(panels / _COLUMNS), height=2.3)
    for spare in axes[panels:]:
        spare.remove()
    figure.suptitle(title, fontsize=9)
    free_axes = iter(axes)
    _shares(next(free_axes), symbols, fractions)
    if varying:
        ax = next(free_axes)
        ax.hist(n_atoms, bins=np.arange(n_atoms.min(), n_atoms.max() + 2) - 0.5, color=style.PALETTE[0])
        ax.set(xlabel="atoms per sample", ylabel="samples")
        ax.xaxis.get_major_locator().set_params(integer=True)
    for name, target in targets.items():
        _target(next(free_axes), arrays, name, target, dict(zip(symbols, species.tolist(), strict=True)))
    for ax in axes[:panels]:
        ax.yaxis.get_major_locator().set_params(integer=True)  # samples and atoms are counted
    return figure


def _shares(ax: Any, symbols: list[str], fractions: np.ndarray) -> None:
    """Draw the distribution of each element's share; of two elements only the first's, which determines the other's."""
    commonest = np.argsort(-(fractions > 0).sum(axis=0), kind="stable")[:_MOST_SERIES]
    series = [0] if len(symbols) == 2 else sorted(commonest.tolist())
    shown = [symbols[k] for k in series]
    styles = style.line_styles(shown)
    for k, symbol in zip(series, shown, strict=True):
        # Shares are fractions of small integers: evenly spaced bins would alias with them.
        share, count = np.unique(np.round(fractions[:, k], 6), return_counts=True)
        if len(share) <= _MOST_SHARES:
            ax.plot(share, count, label=symbol, markersize=3, **{**styles[symbol], "linewidth": 0.8})
        else:
            _steps(ax, fractions[:, k], np.linspace(0, 1, _MOST_BINS + 1), shown.index(symbol), symbol, filled=False)
    ax.set_ylim(bottom=0)
    ax.set(xlabel=f"share of {shown[0]}" if len(shown) == 1 else "share of an element", ylabel="samples")
    if len(shown) > 1:
        _legend(ax, len(shown), len(symbols), "elements")


def _legend(ax: Any, shown: int, of: int, what: str) -> None:
    title = f"{shown} of {of} {what}" if shown < of else None
    ax.legend(ncols=2 if shown > 4 else 1, title=title, title_fontsize=7.5, columnspacing=1.0)
    if shown > 4:  # room for the legend above the curves
        ax.set_ylim(top=1.35 * ax.get_ylim()[1])


def _target(ax: Any, arrays: dict[str, np.ndarray], name: str, target: Target, elements: dict[str, int]) -> None:
    """Draw a target: a series for each component, or for each element's atoms (``elements``: Z by symbol)."""
    values, of_atoms = arrays[f"target_{name}"], target.level == "node"
    width = values.shape[1]
    if width > 1:
        labels = _COMPONENTS if width == 3 else [str(k) for k in range(width)]
        series = {labels[k]: values[:, k] for k in range(min(width, _MOST_SERIES))}
    elif of_atoms and len(elements) <= _MOST_SERIES:
        series = {symbol: values[arrays["atomic_numbers"] == z, 0] for symbol, z in elements.items()}
    else:
        series = {"": values[:, 0]}
    known = {label: of_label[np.isfinite(of_label)] for label, of_label in series.items()}
    n_bins = min(_MOST_BINS, 10 + int(np.sqrt(max(map(len, known.values())))))  # few values in few bins
    drawn = np.concatenate(list(known.values()))
    low, high = drawn.min(), drawn.max()
    bins = np.linspace(low, high if high > low else low + 1, n_bins + 1)
    for k, (label, of_label) in enumerate(known.items()):
        _steps(ax, of_label, bins, k, label, filled=len(known) == 1)
    ax.set(xlabel=style.with_unit(target.label, target.unit), ylabel="atoms" if of_atoms else "samples")
    if len(series) > 1:
        _legend(ax, len(series), width if width > 1 else len(series), "components")


def _steps(ax: Any, values: np.ndarray, bins: np.ndarray, k: int, label: str, filled: bool) -> None:
    color = style.PALETTE[k % len(style.PALETTE)]
    dash = style.DASHES[k % len(style.DASHES)]
    kind = {"histtype": "stepfilled"} if filled else {"histtype": "step", "linestyle": dash, "linewidth": 1.2}
    ax.hist(values, bins=bins, color=color, label=label, **kind)
