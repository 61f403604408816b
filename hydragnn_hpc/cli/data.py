"""``hydragnn-hpc data``: make, prepare and look at data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.cli.command import App
from hydragnn_hpc.cli.data_show import check_values, show
from hydragnn_hpc.cli.options import (
    FORMATS_HELP,
    ON_ERROR_HELP,
    SPLIT_HELP,
    TARGET_SYNTAX,
    check_on_error,
    check_seed,
    one_of,
    parse_cell,
    parse_cutoff,
    parse_fractions,
)
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError

_BOUNDARIES = {"auto": None, "open": False, "periodic": True}

app = App(help="Make, prepare and look at data sets.", no_args_is_help=True)


@app.command(
    epilog="Example: hydragnn-hpc data generate data/alloy.extxyz --system ternary --cap 20 --sizes 1x1x1,2x2x1"
)
def generate(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder (LSMS text) or the file (extended XYZ) to write.")
    ],
    system: Annotated[str, typer.Option(help="FePt, CuAu, or ternary (Cu-Ag-Au).")] = "FePt",
    form: Annotated[
        str, typer.Option("--format", help="lsms (only FePt) or extxyz. Default: lsms for FePt, otherwise extxyz.")
    ] = "",
    cap: Annotated[int, typer.Option(help="Maximum number of samples per composition (and size).")] = 1000,
    sizes: Annotated[
        str, typer.Option(help="CuAu and ternary: repetitions of the 4-atom cube, such as 1x1x1,2x2x2. Default: 2x2x2.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing OUT.")] = False,
) -> None:
    """Write a surrogate data set: FePt as LSMS text, or an alloy as extended XYZ."""
    from hydragnn_hpc.dataset.build import convert
    from hydragnn_hpc.dataset.generate import alloys, surrogate
    from hydragnn_hpc.logs import progress

    check_seed(seed)
    if cap < 1:
        raise UserError(f"--cap {cap}: must be at least 1 sample per composition")
    one_of("--system", system, ("FePt", *alloys.SYSTEMS))
    form = one_of("--format", form or ("lsms" if system == "FePt" else "extxyz"), ("lsms", "extxyz"))
    if system != "FePt" and form == "lsms":
        raise UserError(f"--format lsms --system {system}: only FePt can be written as LSMS text; leave --format out")
    if system == "FePt" and sizes:
        raise UserError(f"--sizes {sizes}: FePt has one cell size, 32 atoms; leave it out")
    if form == "extxyz" and out.suffix not in (".xyz", ".extxyz"):
        raise UserError(f"{out}: give an extended XYZ file a name that ends in .extxyz or .xyz")
    with progress("generating", "files" if form == "lsms" else "structures") as update:
        if system != "FePt":
            generated = alloys.structures(alloys.SYSTEMS[system], cap, seed, alloys.parse_sizes(sizes or "2x2x2"))
            number = alloys.write(out, generated, force, update)
        elif form == "lsms":
            number = surrogate.generate(out, cap, seed, force, update)
        else:
            number = convert.generate_fept(out, cap, seed, force, update)
    typer.echo(f"{out}: {number:,} {'files' if form == 'lsms' else 'structures'}")


@app.command(
    epilog="Example: hydragnn-hpc data prepare data/raw data/fept.bp --cutoff 7bohr --boundary open --cap 1000"
)
def prepare(
    raw: Annotated[
        Path,
        typer.Argument(
            metavar="RAW",
            help="LSMS text, extended XYZ, ASE databases (.db, .json) or whatever else ASE reads (POSCAR, .cif, .traj):"
            " a file, a folder, or an archive (.zip, or .tar of any compression).",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data set to make; its name ends in .bp.")],
    cutoff: Annotated[str, typer.Option(help="Cutoff for neighbours, with its unit, bohr or angstrom.")] = "7bohr",
    form: Annotated[str, typer.Option("--format", help=FORMATS_HELP)] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What to learn from structure files, {TARGET_SYNTAX}[:LABEL]; repeatable. Level: graph,"
            " node, or mixing (KEY is a total energy, stored as mixing enthalpy). Examples: energy=graph:energy:eV,"
            " forces=node:forces:eV/Ang, mixing_enthalpy=mixing:energy:eV."
        ),
    ] = None,
    boundary: Annotated[
        str,
        typer.Option(
            help="open, or periodic (with periodic images as neighbours). Default: as each structure states; LSMS text"
            " is open, and needs --cell to be periodic."
        ),
    ] = "auto",
    cell: Annotated[
        str,
        typer.Option(
            help="3 edge lengths or 9 numbers (rows are lattice vectors), with unit: '20.872 10.436 14.116 bohr'."
            " For structures without one, such as LSMS text; also the period that --split-by symmetry or groups uses."
        ),
    ] = "",
    cap: Annotated[
        int, typer.Option(help="Maximum number of samples per composition, chosen at random; 0 keeps all.")
    ] = 0,
    fractions: Annotated[
        str, typer.Option(help="Fractions for training, validation and test; of each composition, if split by it.")
    ] = "0.70,0.15,0.15",
    seed: Annotated[int, typer.Option(help="Seed of the split and of the samples that --cap keeps.")] = 0,
    split_by: Annotated[
        str,
        typer.Option(
            help=f"{SPLIT_HELP} source: as each structure says under the key split (train, validation, test), or else"
            " the path of its file. Default: composition if that leaves enough samples to validate and test, otherwise"
            " groups or random."
        ),
    ] = "auto",
    scale_over: Annotated[
        str, typer.Option(help="Scale targets to [0, 1] by minimum and maximum over: all, train.")
    ] = "all",
    end_member: Annotated[
        list[str] | None,
        typer.Option(
            help="Energy of a pure element, in Ry per atom unless a unit is given: Fe=-2541.0, Cu=-3.72eV; repeatable."
            " Default: from the data's pure cells."
        ),
    ] = None,
    on_error: Annotated[str, typer.Option(help=ON_ERROR_HELP)] = "fail",
    on_outlier: Annotated[
        str,
        typer.Option(
            help="What to do with an outlier, a value so far from all others that scaling hides their differences:"
            " tell (only in a remark), fail, or skip (leave its sample out and count it)."
        ),
    ] = "tell",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing data set.")] = False,
) -> None:
    """Turn structures in any format into the shared ADIOS2 data set."""
    from hydragnn_hpc.dataset.build import prepare as pipeline
    from hydragnn_hpc.dataset.read import derive
    from hydragnn_hpc.dataset.read.targets import parse_targets
    from hydragnn_hpc.logs import progress

    check_seed(seed)
    check_on_error(on_error)
    options = pipeline.Options(
        cutoff=parse_cutoff(cutoff),
        periodic=_BOUNDARIES[one_of("--boundary", boundary, _BOUNDARIES)],
        cell=parse_cell(cell) if cell else None,
        form=form,
        targets=parse_targets(target or []),
        cap=cap,
        fractions=parse_fractions(fractions),
        seed=seed,
        split_by=split_by,
        scale_over=one_of("--scale-over", scale_over, ("all", "train")),
        end_members=derive.parse_end_members(end_member or []),
        on_error=on_error,
        on_outlier=one_of("--on-outlier", on_outlier, ("tell", "fail", "skip")),
    )
    with progress("reading", "samples") as update:
        manifest = pipeline.prepare(raw, out, options, force, update)
    show(manifest, out)


@app.command(epilog="Example: hydragnn-hpc data split data/fept.bp data/fept-1.bp --split-by symmetry --seed 1")
def split(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data set, .bp.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The data set to make; its name ends in .bp.")],
    fractions: Annotated[str, typer.Option(help="Fractions for training, validation and test.")] = "0.70,0.15,0.15",
    seed: Annotated[int, typer.Option(help="Same seed, same split.")] = 0,
    split_by: Annotated[str, typer.Option(help=SPLIT_HELP)] = "composition",
    cell: Annotated[
        str,
        typer.Option(
            help="The crystal's period, where the graph's boundary is open: 3 edge lengths or 9 numbers, with unit:"
            " '20.872 10.436 14.116 bohr'. For --split-by symmetry or groups. Default: as the source data set states."
        ),
    ] = "",
    scale_over: Annotated[str, typer.Option(help="all or train; default: as in the source data set.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing data set.")] = False,
) -> None:
    """Write a copy of a data set with another split."""
    from hydragnn_hpc.dataset.build import resplit

    check_seed(seed)
    choice = resplit.SplitOptions(
        by=split_by,
        fractions=parse_fractions(fractions),
        seed=seed,
        cell=parse_cell(cell) if cell else None,
        scale_over=one_of("--scale-over", scale_over, ("all", "train")) if scale_over else None,
    )
    manifest, equivalents = resplit.split(file, out, choice, force)
    show(manifest, out)
    classes = counted(equivalents.classes, "symmetry class", "symmetry classes")
    n_test = manifest.split[2]
    typer.echo(
        f"{classes} of {counted(manifest.sizes['S'], 'sample')}; {equivalents.after:,} of {n_test:,} test samples"
        f" have an equivalent in the training set ({equivalents.before:,} before)"
    )


@app.command(epilog="Example: hydragnn-hpc data convert data/fept.bp fept.extxyz")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A data set (.bp), or structures in any format that prepare reads.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A data set (.bp), an extended XYZ file (.extxyz, .xyz), or a folder of LSMS text."
        ),
    ],
    to: Annotated[str, typer.Option(help="What to write: auto (by OUT's name), lsms, extxyz, bp, hydragnn.")] = "auto",
    form: Annotated[str, typer.Option("--format", help=f"What SOURCE is: {FORMATS_HELP}")] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="As for prepare, where the source does not state what its keys mean. LSMS text needs"
            " total_energy, charge or charge_transfer, magnetic_moment: total_energy=graph:energy:eV."
        ),
    ] = None,
    cell: Annotated[str, typer.Option(help="As for prepare, for structures without one.")] = "",
    cutoff: Annotated[str, typer.Option(help="Cutoff for neighbours, with unit. Default: SOURCE's, or 7bohr.")] = "",
    on_error: Annotated[str, typer.Option(help=ON_ERROR_HELP)] = "fail",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing OUT.")] = False,
) -> None:
    """Convert between LSMS text, extended XYZ, data sets and those of HydraGNN; list what the result cannot hold."""
    from hydragnn_hpc.dataset.build import convert as conversion
    from hydragnn_hpc.dataset.read.options import Options
    from hydragnn_hpc.dataset.read.targets import parse_targets

    check_on_error(on_error)
    options = Options(
        form=form,
        targets=parse_targets(target or []),
        cell=parse_cell(cell) if cell else None,
        cutoff=parse_cutoff(cutoff) if cutoff else 0.0,
        on_error=on_error,
    )
    done = conversion.convert(source, out, options, to, force)
    skipped = f", {done.skipped.count:,} skipped" if done.skipped.count else ""
    typer.echo(f"{out}: {counted(done.count, 'structure')} as {done.kind}{skipped}")
    for reason in done.skipped.reasons:
        typer.echo(f"skipped: {reason}")
    if done.lost:
        typer.echo(f"not held by {done.kind}: {'; '.join(done.lost)}")


@app.command(epilog="Example: hydragnn-hpc data info data/fept.bp --verify")
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A data set, .bp.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every checksum and value.")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw histograms of compositions and targets into this file, .png or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show what is in a data set, and how it is distributed."""
    from hydragnn_hpc.dataset import store
    from hydragnn_hpc.dataset.build.distribution import describe

    if figure:
        from hydragnn_hpc.cli import data_figure

        data_figure.check_name(figure)
    manifest = store.read_manifest(file)
    distribution = manifest.distribution
    if verify or figure or distribution is None:  # data sets of earlier versions do not hold it in their manifest
        manifest, arrays = store.read(file)
        distribution = describe(arrays, manifest.targets)
        if verify:
            check_values(manifest, arrays, file)
        if figure:
            title = f"{file.name}: {counted(manifest.sizes['S'], 'sample')}, {counted(manifest.sizes['A'], 'atom')}"
            data_figure.save(figure, arrays, manifest.targets, title)
    if as_json:
        content = {**manifest.plain(), "distribution": distribution.model_dump(exclude_unset=True), "verified": verify}
        typer.echo(json.dumps(content))
        return
    show(manifest, file, distribution)
    if verify:
        typer.echo("verified: every checksum, shape and value range matches")
    if figure:
        typer.echo(f"histograms: {figure}")
