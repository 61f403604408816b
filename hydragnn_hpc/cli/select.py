"""``hydragnn-hpc select``: which structures of a pool to compute next."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.cli.options import (
    CELL_HELP,
    DEVICE_HELP,
    FORMATS_HELP,
    ON_ERROR_HELP,
    check_device,
    check_on_error,
    check_output,
    check_seed,
    output_stream,
    parse_cell,
)
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError

EPILOG = "Example: hydragnn-hpc select runs/quickstart pool.extxyz --variant HCM --task H --number 50 --out next.csv"


def select(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The campaign's folder, as given to run.", show_default=False)
    ],
    pool: Annotated[Path, typer.Argument(metavar="POOL", help="Structures in any format that data prepare reads.")],
    number: Annotated[int, typer.Option(min=1, help="How many to choose.")] = 50,
    variant: Annotated[
        str | None, typer.Option(help="Use this variant. Default: the only one with finished members.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Choose by the spread of this task. Default: of all.")] = None,
    per_composition: Annotated[
        int | None, typer.Option(min=1, help="Choose at most this many of each composition.")
    ] = None,
    one_per_class: Annotated[
        bool,
        typer.Option("--one-per-class", help="Of structures that are equivalent by symmetry, choose at most one."),
    ] = False,
    at_random: Annotated[
        bool, typer.Option("--random", help="Choose at random, within the same limits, for comparison.")
    ] = False,
    seed: Annotated[int, typer.Option(help="With --random: same seed, same choice.")] = 0,
    to: Annotated[Path | None, typer.Option("--out", help="Write the csv file here. Default: standard output.")] = None,
    form: Annotated[str, typer.Option("--format", help=FORMATS_HELP)] = "auto",
    cell: Annotated[str, typer.Option(help=CELL_HELP)] = "",
    on_error: Annotated[str, typer.Option(help=ON_ERROR_HELP)] = "fail",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
) -> None:
    """Choose structures whose predictions are least certain, and which differ from each other.

    They are chosen one after the other: each has the largest spread times distance, in the network's features, from
    those chosen before. The spread of a structure is the root mean square over its values, calibrated where it can be,
    without the noise that a task with the loss nll learns; with several tasks, over these as well, each relative to its
    root mean square over the pool. The csv file has a row per structure, in the order of choice.
    """
    from hydragnn_hpc.dataset.build.unseen import Preparation, ReadingChoice
    from hydragnn_hpc.dataset.read.frames import hint_to_skip
    from hydragnn_hpc.logs import log, progress
    from hydragnn_hpc.prediction import selection
    from hydragnn_hpc.prediction.ensemble import Ensemble

    check_on_error(on_error)
    check_device(device)
    check_seed(seed)
    check_output(to, pool)
    if to is not None and to.suffix.lower() != ".csv":
        raise UserError(f"--out {to}: the suffix must be .csv")
    ensemble = Ensemble(out, variant, device=device)
    candidates = selection.Pool(selection.tasks_of(ensemble, task, needs_spread=not at_random))
    distances = selection.distances_of(ensemble, needed=not at_random)
    own_cell = parse_cell(cell) if cell else None
    preparation = Preparation(ensemble.facts, ReadingChoice(form, own_cell, on_error))
    with progress("select", "structures") as update, hint_to_skip():
        for batch in preparation.read(pool):
            candidates.add(ensemble, distances, batch)
            update(preparation.count, 0)
    preparation.report()
    if ensemble.calibration.why_not:
        log(f"{ensemble.variant}: the spread is not calibrated: {ensemble.calibration.why_not}")
    elif not at_random and (raw := candidates.uncalibrated()):
        log(f"{', '.join(raw)}: the spread is not calibrated, since that of some structures is not finite")
    classes = candidates.classes(own_cell) if one_per_class else None
    limits = selection.Limits(number, per_composition, classes)
    scores = candidates.scores()
    if at_random:
        chosen = selection.at_random(candidates, seed, limits)
    else:
        chosen = selection.farthest(candidates, scores, limits)
    with output_stream(to) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*selection.COLUMNS, *(f"std_{name}" for name in candidates.tasks)))
        writer.writerows(candidates.rows(chosen, scores))
    allowed = ", all that the limits allow" if len(chosen) < number else ""
    log(f"{len(chosen):,} of {counted(len(candidates), 'structure')} chosen{allowed}")
