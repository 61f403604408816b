"""How the data commands check and display a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydragnn_hpc.errors import UserError, spelt_out
from hydragnn_hpc.logs import console

if TYPE_CHECKING:
    from rich.table import Column, Table

    from hydragnn_hpc.records.dataset import Distribution, Manifest, NeighbourFacts, Source

_SHOWN_COMPONENTS = 6


def check_values(manifest: Manifest, arrays: dict[str, Any], file: Path) -> None:
    """Check the split and the targets' values against the manifest, which the reading of a data set does not.

    Raises
    ------
    UserError
        If they differ.
    """
    import numpy as np

    train = arrays["split"] == 0
    if np.bincount(arrays["split"], minlength=3).tolist() != manifest.split:
        raise UserError(f"{file}: the split differs from the manifest; prepare it again")
    for name, target in manifest.targets.items():
        values = arrays[f"target_{name}"]
        if int(np.isnan(values).sum()) != target.missing:
            raise UserError(
                f"{file}: the number of missing values of target '{name}' differs from the manifest; prepare it again"
            )
        if manifest.scaled_over == "train":
            train_atoms = np.repeat(train, np.diff(arrays["atom_offsets"]))
            values = values[train_atoms if target.level == "node" else train]
        limits = [np.nanmin(values, axis=0).tolist(), np.nanmax(values, axis=0).tolist()]
        if limits != [target.minimum, target.maximum]:
            raise UserError(f"{file}: the range of target '{name}' differs from the manifest; prepare it again")


def show(manifest: Manifest, path: Path, distribution: Distribution | None = None) -> None:
    """Print what a data set's manifest says, and how its samples are distributed."""
    from rich.table import Table

    distribution = distribution or manifest.distribution
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(manifest):
        facts.add_row(name, spelt_out(value))
    if distribution:
        atoms = distribution.atoms
        facts.add_row("atoms per sample", f"{atoms.minimum:,} to {atoms.maximum:,}, mean {atoms.mean:.4g}")
    screen = console(highlight=False, markup=False)
    screen.print(spelt_out(str(path)), style="bold", soft_wrap=True)
    screen.print(facts)
    if distribution:
        screen.print(_targets(manifest, distribution))
        screen.print(_elements(distribution))
    for remark in manifest.remarks or []:
        screen.print(f"remark: {spelt_out(remark.line())}", soft_wrap=True)


def _targets(manifest: Manifest, distribution: Distribution) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    table = Table(
        Column("target", no_wrap=True),
        "level",
        "unit",
        *_right_aligned("min", "mean", "std", "max", "missing"),
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name, t in manifest.targets.items():
        moments = distribution.targets[name]
        missing_counts = moments.missing or [t.missing]  # data sets of earlier versions: one count for all components
        columns = list(zip(t.minimum, moments.mean, moments.std, t.maximum, strict=True))
        for k, values in enumerate(columns[:_SHOWN_COMPONENTS]):
            shown = spelt_out(name if t.width == 1 else f"{name}[{k}]")
            missing = f"{missing_counts[k]:,}" if k < len(missing_counts) else ""
            table.add_row(shown, t.level, spelt_out(t.unit), *(f"{v:.4g}" for v in values), missing)
        if len(columns) > _SHOWN_COMPONENTS:
            table.add_row(
                spelt_out(f"{name}[...]"), t.level, spelt_out(t.unit), *[f"{len(columns):,} components"], "", "", "", ""
            )
    return table


def _elements(distribution: Distribution) -> Table:
    from ase.data import chemical_symbols
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from hydragnn_hpc.dataset.build.distribution import BINS

    table = Table(Column("samples by share", no_wrap=True), *_right_aligned(*BINS), box=SIMPLE_HEAD, pad_edge=False)
    for z, counts in distribution.elements.items():
        table.add_row(chemical_symbols[int(z)], *(f"{n:,}" if n else "" for n in counts))
    return table


def _right_aligned(*titles: str) -> list[Column]:
    from rich.table import Column

    return [Column(title, justify="right") for title in titles]


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    sizes, source, neighbours = manifest.sizes, manifest.source, manifest.neighbours
    train, validation, test = manifest.split
    facts = [
        ("content hash", manifest.sha256[:16]),
        (
            "samples",
            f"{sizes['S']:,}: {train:,} train, {validation:,} validation, {test:,} test, split by {source.split_by}",
        ),
        ("atoms", f"{sizes['A']:,}; distinct geometries: {sizes['G']:,}"),
        ("compositions", _compositions(source)),
        (
            "neighbours",
            f"closer than {neighbours.cutoff_bohr:.6g} bohr, {neighbours.boundary} boundary:"
            f" {_extremes(neighbours)}{sizes['E'] / max(sizes['B'], 1):.1f} per atom,"
            f" {sizes['E'] / max(sizes['G'], 1):,.1f} directed edges per geometry",
        ),
        ("scaled over", {"all": "all samples", "train": "the training set"}[manifest.scaled_over]),
        (
            "source",
            f"{source.path}: {source.read:,} read, {source.skipped:,} skipped, {source.repeated:,} repeated,"
            f" {f'{source.capped:,} over the cap of {source.cap}' if source.cap else 'no cap'}, {sizes['S']:,} kept",
        ),
    ]
    if source.end_members:
        facts.append(("end members", _end_members(source.end_members)))
    return facts + [("skipped", reason) for reason in source.skipped_reasons]


def _compositions(source: Source) -> str:
    counts = source.samples_per_composition
    counted = f" of {counts.minimum:,} to {counts.maximum:,} samples" if counts else ""
    return f"{source.compositions:,}{counted}, {source.compositions_too_small_to_split:,} too small to split"


def _extremes(neighbours: NeighbourFacts) -> str:
    """Return the least and the most neighbours of an atom, to precede their mean; empty where they are not known."""
    return "" if neighbours.fewest is None else f"{neighbours.fewest} to {neighbours.most}, mean "


def _end_members(energies: dict[str, float]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(f"{chemical_symbols[int(z)]} {energy:.6f} Ry/atom" for z, energy in energies.items())
