"""``hydragnn-hpc data``: make, prepare and look at data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hydragnn_hpc.errors import UserError, nearest

if TYPE_CHECKING:
    from hydragnn_hpc.dataset.store import Manifest

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

    with progress("generating", "files") as update:
        number = surrogate.generate(out, cap, seed, force, update)
    typer.echo(f"{out}: {number:,} files")


@app.command(
    epilog="Example: hydragnn-hpc data prepare data/raw data/fept.bp --cutoff 7bohr --boundary open --cap 1000"
)
def prepare(
    raw: Annotated[Path, typer.Argument(help="LSMS text: a folder, or a tar archive of any compression.")],
    out: Annotated[Path, typer.Argument(help="The data set to make; its name ends in .bp.")],
    cutoff: Annotated[str, typer.Option(help="Neighbours are closer than this; with its unit.")] = "7bohr",
    boundary: Annotated[str, typer.Option(help="open or periodic.")] = "open",
    cell: Annotated[
        str, typer.Option(help="3 edge lengths or 9 numbers (rows are vectors), with unit: '20.9 10.4 14.1 bohr'.")
    ] = "",
    cap: Annotated[int, typer.Option(help="At most so many samples a composition; 0 keeps all.")] = 1000,
    fractions: Annotated[str, typer.Option(help="Training, validation and test part.")] = "0.70,0.15,0.15",
    seed: Annotated[int, typer.Option(help="Of the split and of the cap's choice.")] = 0,
    scale_over: Annotated[str, typer.Option(help="Take minimum and maximum over: all, train.")] = "all",
    end_member: Annotated[
        list[str] | None, typer.Option(help="Energy of a pure element, Ry per atom, as Fe=-2541.0; repeatable.")
    ] = None,
    on_error: Annotated[str, typer.Option(help="A malformed file: fail, skip.")] = "fail",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing data set.")] = False,
) -> None:
    """Turn LSMS text into the shared ADIOS2 data set."""
    from hydragnn_hpc.dataset import derive
    from hydragnn_hpc.dataset import prepare as pipeline
    from hydragnn_hpc.dataset.graphs import parse_length
    from hydragnn_hpc.logs import progress

    options = pipeline.Options(
        cutoff=parse_length(cutoff),
        periodic=_one_of("--boundary", boundary, ("open", "periodic")) == "periodic",
        cell=parse_cell(cell) if cell else None,
        cap=cap,
        fractions=_fractions(fractions),
        seed=seed,
        scale_over=_one_of("--scale-over", scale_over, ("all", "train")),
        end_members=derive.parse_end_members(end_member or []),
        on_error=_one_of("--on-error", on_error, ("fail", "skip")),
    )
    with progress("reading", "files") as update:
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
    from hydragnn_hpc.dataset.graphs import parse_length

    *words, unit = text.replace(",", " ").split() or [""]
    scale = parse_length(f"1{unit}")
    try:
        numbers = [float(w) * scale for w in words]
    except ValueError as error:
        raise UserError(f"--cell '{text}': expected numbers and a unit, as '20.872 10.436 14.116 bohr'") from error
    if len(numbers) == 3:
        a, b, c = numbers
        return (a, 0.0, 0.0, 0.0, b, 0.0, 0.0, 0.0, c)
    if len(numbers) != 9:
        raise UserError(f"--cell '{text}': {len(numbers)} numbers, expected 3 edge lengths or 9")
    return tuple(numbers)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{option} {value}{nearest(value, known)}")
    return value


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text}: expected three numbers, as 0.70,0.15,0.15") from error
    return train, validation, test


def _check_values(manifest: Manifest, arrays: dict[str, Any], file: Path) -> None:
    import numpy as np

    for name, target in manifest.targets.items():
        values = arrays[f"target_{name}"]
        if np.isinf(values).any() or int(np.isnan(values).sum()) != target["missing"]:
            raise UserError(f"{file}: target '{name}' has values that are no finite numbers; prepare it again")
        outside = (values < np.array(target["minimum"])) | (values > np.array(target["maximum"]))
        if manifest.content["scaled_over"] == "all" and outside.any():
            raise UserError(f"{file}: target '{name}' leaves the range in its manifest; prepare it again")


def _show(manifest: Manifest, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    sizes, content = manifest.sizes, manifest.content
    source, near = content["source"], content["neighbours"]
    console = Console(highlight=False)
    console.print(f"[bold]{path}[/bold]  {manifest.sha256[:16]}")
    train, validation, test = manifest.split_counts
    console.print(f"samples      {sizes['S']:,}: {train:,} train, {validation:,} validation, {test:,} test")
    console.print(f"atoms        {sizes['A']:,}; geometries {sizes['G']:,}")
    edges = sizes["E"] / max(sizes["G"], 1)
    console.print(
        f"neighbours   cutoff {near['cutoff_bohr']:.4g} bohr, {near['boundary']} boundary: {edges:.1f} directed edges"
        f" and {sizes['E'] / max(sizes['B'], 1):.1f} neighbours an atom"
    )
    console.print(
        f"source       {source['path']}: {source['read']:,} read, {source['skipped']:,} skipped, {source['repeated']:,}"
        f" repeated, {source['capped']:,} over the cap of {source['cap']:,}; {source['compositions']:,} compositions,"
        f" {source['compositions_too_small_to_split']:,} too small to split"
    )
    for reason in source["skipped_reasons"]:
        console.print(f"             skipped: {reason}", markup=False)
    table = Table("target", "level", "width", "unit", "minimum", "maximum", "missing")
    for name, t in manifest.targets.items():
        low, high = (", ".join(f"{v:.6g}" for v in t[k]) for k in ("minimum", "maximum"))
        table.add_row(name, t["level"], str(t["width"]), t["unit"], low, high, str(t["missing"]))
    console.print(table)
