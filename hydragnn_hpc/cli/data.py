"""``hydragnn-hpc data``: make, prepare and look at data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hydragnn_hpc.errors import UserError, nearest

if TYPE_CHECKING:
    from hydragnn_hpc.dataset.store import Manifest

_BOUNDARIES = {"auto": None, "open": False, "periodic": True}

app = typer.Typer(help="Make, prepare and look at data sets.", no_args_is_help=True)


@app.command(epilog="Example: hydragnn-hpc data generate data/raw --cap 40")
def generate(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    cap: Annotated[int, typer.Option(help="At most so many samples a composition.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
) -> None:
    """Write a surrogate FePt data set as LSMS text."""
    from hydragnn_hpc.dataset import surrogate
    from hydragnn_hpc.logs import progress

    _check_seed(seed)
    with progress("generating", "files") as update:
        number = surrogate.generate(out, cap, seed, force, update)
    typer.echo(f"{out}: {number:,} files")


@app.command(
    epilog="Example: hydragnn-hpc data prepare data/raw data/fept.bp --cutoff 7bohr --boundary open --cap 1000"
)
def prepare(
    raw: Annotated[
        Path,
        typer.Argument(
            help="LSMS text, extended XYZ or ASE databases (.db, .json): a folder, a tar archive of any compression, or"
            " (not LSMS) a file."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The data set to make; its name ends in .bp.")],
    cutoff: Annotated[
        str, typer.Option(help="Neighbours are closer than this; with its unit, bohr or angstrom.")
    ] = "7bohr",
    form: Annotated[str, typer.Option("--format", help="auto (by content), lsms, extxyz, or ase-db.")] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="What to learn from structure files, NAME=LEVEL:KEY:UNIT[:LABEL]; repeatable. Level: graph, node, or"
            " mixing (KEY is a total energy, stored as mixing enthalpy). As energy=graph:energy:eV,"
            " forces=node:forces:eV/Ang, mixing_enthalpy=mixing:energy:eV."
        ),
    ] = None,
    boundary: Annotated[
        str,
        typer.Option(
            help="open, or periodic: images are neighbours too. Default: as each structure says; LSMS text: open, and"
            " periodic needs --cell."
        ),
    ] = "auto",
    cell: Annotated[
        str,
        typer.Option(
            help="3 edge lengths or 9 numbers (rows are lattice vectors), with unit: '20.872 10.436 14.116 bohr'."
            " For structures without one, as LSMS text."
        ),
    ] = "",
    cap: Annotated[
        int, typer.Option(help="At most so many samples a composition, chosen at random; 0 keeps all.")
    ] = 1000,
    fractions: Annotated[
        str, typer.Option(help="Training, validation and test part of every composition.")
    ] = "0.70,0.15,0.15",
    seed: Annotated[int, typer.Option(help="Of the split and of the cap's choice.")] = 0,
    scale_over: Annotated[
        str, typer.Option(help="Scale targets to [0, 1] by minimum and maximum over: all, train.")
    ] = "all",
    end_member: Annotated[
        list[str] | None,
        typer.Option(
            help="Energy of a pure element, Ry per atom unless with its unit, as Fe=-2541.0 or Cu=-3.72eV; repeatable."
            " Else from the data's pure cells."
        ),
    ] = None,
    on_error: Annotated[str, typer.Option(help="A malformed file or structure: fail, skip.")] = "fail",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing data set.")] = False,
) -> None:
    """Turn LSMS text, extended XYZ or ASE databases into the shared ADIOS2 data set."""
    from hydragnn_hpc.dataset import derive
    from hydragnn_hpc.dataset import prepare as pipeline
    from hydragnn_hpc.dataset.graphs import parse_length
    from hydragnn_hpc.dataset.targets import parse_targets
    from hydragnn_hpc.logs import progress

    _check_seed(seed)
    options = pipeline.Options(
        cutoff=parse_length(cutoff, "--cutoff"),
        periodic=_BOUNDARIES[_one_of("--boundary", boundary, tuple(_BOUNDARIES))],
        cell=parse_cell(cell) if cell else None,
        form=form,
        targets=parse_targets(target or []),
        cap=cap,
        fractions=_fractions(fractions),
        seed=seed,
        scale_over=_one_of("--scale-over", scale_over, ("all", "train")),
        end_members=derive.parse_end_members(end_member or []),
        on_error=_one_of("--on-error", on_error, ("fail", "skip")),
    )
    with progress("reading", "samples") as update:
        manifest = pipeline.prepare(raw, out, options, force, update)
    _show(manifest, out)


@app.command(epilog="Example: hydragnn-hpc data info data/fept.bp --verify")
def info(
    file: Annotated[Path, typer.Argument(help="A data set, .bp.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every checksum and value.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show what is in a data set."""
    from hydragnn_hpc.dataset import store

    manifest = store.read_manifest(file)
    if verify:
        _check_values(*store.read(file), file)
    if as_json:
        typer.echo(json.dumps({**manifest.content, "verified": verify}, ensure_ascii=False))
        return
    _show(manifest, file)
    if verify:
        typer.echo("verified: every checksum, shape and value range fits")


def parse_cell(text: str) -> tuple[float, ...]:
    """Read ``"20.872 10.436 14.116 bohr"`` (or nine numbers); returns nine numbers in bohr.

    Raises
    ------
    UserError
        If the unit is missing or the numbers are not three or nine.
    """
    import math

    from hydragnn_hpc.dataset.graphs import parse_length

    *words, unit = text.replace(",", " ").split() or [""]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if len(numbers) not in (3, 9) or not all(map(math.isfinite, numbers)) or not unit.isalpha():
        raise UserError(
            f"--cell '{text}': expected 3 edge lengths or 9 numbers, and a unit: '20.872 10.436 14.116 bohr'"
        )
    scale = parse_length(f"1{unit}", f"--cell '{text}': unit")
    numbers = [number * scale for number in numbers]
    if len(numbers) == 3:
        a, b, c = numbers
        numbers = [a, 0.0, 0.0, 0.0, b, 0.0, 0.0, 0.0, c]
    return tuple(numbers)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{option} {value}{nearest(value, known)}")
    return value


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or positive")


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text}: expected three numbers, as 0.70,0.15,0.15") from error
    return train, validation, test


def _check_values(manifest: Manifest, arrays: dict[str, Any], file: Path) -> None:
    """Hold the targets' values to the manifest, beyond what reading checks."""
    import numpy as np

    train = arrays["split"] == 0
    if np.bincount(arrays["split"], minlength=3).tolist() != manifest.split_counts:
        raise UserError(f"{file}: the parts of the split differ from its manifest; prepare it again")
    for name, target in manifest.targets.items():
        values = arrays[f"target_{name}"]
        if int(np.isnan(values).sum()) != target["missing"]:
            raise UserError(f"{file}: target '{name}' misses other values than its manifest says; prepare it again")
        if manifest.content["scaled_over"] == "train":
            of_atom = np.repeat(train, np.diff(arrays["atom_offsets"]))
            values = values[of_atom if target["level"] == "node" else train]
        found = [np.nanmin(values, axis=0).tolist(), np.nanmax(values, axis=0).tolist()]
        if found != [target["minimum"], target["maximum"]]:
            raise UserError(f"{file}: target '{name}' has another range than its manifest says; prepare it again")


def _show(manifest: Manifest, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(manifest):
        facts.add_row(name, value)
    targets = Table("target", "level", "width", "unit", "minimum", "maximum", "missing")
    for name, t in manifest.targets.items():
        low, high = (", ".join(f"{v:.6g}" for v in t[k]) for k in ("minimum", "maximum"))
        targets.add_row(name, t["level"], str(t["width"]), t["unit"], low, high, f"{t['missing']:,}")
    console = Console(highlight=False, markup=False)
    console.print(str(path), style="bold", soft_wrap=True)
    console.print(facts)
    console.print(targets)


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    sizes, content = manifest.sizes, manifest.content
    source, near = content["source"], content["neighbours"]
    train, validation, test = manifest.split_counts
    facts = [
        ("content", manifest.sha256[:16]),
        ("samples", f"{sizes['S']:,}: {train:,} train, {validation:,} validation, {test:,} test"),
        ("atoms", f"{sizes['A']:,}; distinct geometries: {sizes['G']:,}"),
        ("compositions", _compositions(source)),
        (
            "neighbours",
            f"closer than {near['cutoff_bohr']:.6g} bohr, {near['boundary']} boundary:"
            f" {_range(near.get('fewest'), near.get('most'))}{sizes['E'] / max(sizes['B'], 1):.1f} an atom,"
            f" {sizes['E'] / max(sizes['G'], 1):,.1f} directed edges a geometry",
        ),
        ("scaled over", {"all": "all samples", "train": "the training part"}[content["scaled_over"]]),
        (
            "source",
            f"{source['path']}: {source['read']:,} read, {source['skipped']:,} skipped, {source['repeated']:,}"
            f" repeated, {source['capped']:,} over the cap of {source['cap'] or 'none'}, {sizes['S']:,} kept",
        ),
    ]
    if source["end_members"]:
        facts.append(("end members", _end_members(source["end_members"])))
    return facts + [("skipped", reason) for reason in source["skipped_reasons"]]


def _compositions(source: dict[str, Any]) -> str:
    per = source.get("samples_per_composition", {})
    counted = f" of {per['minimum']:,} to {per['maximum']:,} samples" if per else ""
    return f"{source['compositions']:,}{counted}, {source['compositions_too_small_to_split']:,} too small to split"


def _range(low: int | None, high: int | None) -> str:
    return "" if low is None else f"{low} to {high}, mean "


def _end_members(energies: dict[str, float]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(f"{chemical_symbols[int(z)]} {energy:.6f} Ry/atom" for z, energy in energies.items())
