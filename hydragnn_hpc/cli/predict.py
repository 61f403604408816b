"""``hydragnn-hpc predict``: apply a finished ensemble to new structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.cli.options import (
    CELL_HELP,
    DEVICE_HELP,
    FORMATS_HELP,
    ON_ERROR_HELP,
    TARGET_SYNTAX,
    check_device,
    check_on_error,
    check_output,
    output_stream,
    parse_cell,
)
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError

EPILOG = "Example: hydragnn-hpc predict runs/quickstart new.extxyz --variant HCM --out predicted.csv"


def predict(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The campaign's folder, as given to run.", show_default=False)
    ],
    structures: Annotated[
        Path,
        typer.Argument(
            metavar="STRUCTURES",
            help="Structures in any format that data prepare reads: a file, a folder or an archive.",
        ),
    ],
    variant: Annotated[
        list[str] | None, typer.Option(help="Use this variant; repeatable. Default: all with finished members.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write here: .csv, or .extxyz (.xyz), which also holds initial charges and moments for ASE's"
            " calculators. Default: csv on standard output.",
        ),
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            help="all: every member; a number: that many, with the lowest validation loss; validation: every member,"
            " weighted by 1 / (validation RMSE)^2."
        ),
    ] = "all",
    level: Annotated[
        float, typer.Option(help="Nominal coverage of the calibrated interval (columns low and high), between 0 and 1.")
    ] = 0.9,
    members: Annotated[
        bool, typer.Option("--members", help="Also write each member's prediction, a column per replica.")
    ] = False,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Compare with the values in STRUCTURES: errors, R² and coverage of the intervals, on standard error.",
        ),
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help=f"With --evaluate, where the values are: {TARGET_SYNTAX} as for data prepare; repeatable. Default:"
            " under the targets' names, as data convert writes them."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help=FORMATS_HELP)] = "auto",
    cell: Annotated[str, typer.Option(help=CELL_HELP)] = "",
    on_error: Annotated[str, typer.Option(help=ON_ERROR_HELP)] = "fail",
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
) -> None:
    """Predict every task for new structures: mean and standard deviation over a variant's finished members.

    For a task whose loss is nll, the standard deviation has two parts: std_spread, between members, and std_noise, that
    of the data as members predict it.

    With three or more members, std_calibrated is the standard deviation scaled by the errors on the validation set, and
    low and high are the ends of an interval that is to contain the true value with the probability --level. distance is
    that of the structure from the mean of the training set in the network's features, distance_quantile the share of
    the training set that is nearer to that mean.

    Neighbours, inputs, scaling and references are those used in training; the structures need no targets.
    """
    from hydragnn_hpc.dataset.build.unseen import Preparation, ReadingChoice
    from hydragnn_hpc.dataset.read.frames import hint_to_skip
    from hydragnn_hpc.dataset.read.sources import form_of
    from hydragnn_hpc.logs import log, progress
    from hydragnn_hpc.paths import CampaignFolder
    from hydragnn_hpc.prediction.ensemble import ensembles_of
    from hydragnn_hpc.prediction.evaluation import Evaluation
    from hydragnn_hpc.prediction.predicted import Predictor
    from hydragnn_hpc.prediction.tables import writer_for

    check_on_error(on_error)
    check_device(device)
    check_output(to, structures)
    if CampaignFolder(structures).campaign.exists() and not CampaignFolder(out).campaign.exists():
        raise UserError(f"{structures} is a campaign's folder, but {out} is not: give the campaign first")
    if target and not evaluate:
        raise UserError("--target is for --evaluate; give both")
    chosen: int | str = int(select) if select.isdecimal() else select
    ensembles = ensembles_of(out, variant or [], select=chosen, device=device, level=level)
    preparation = Preparation(ensembles[0].facts, ReadingChoice(form, parse_cell(cell) if cell else None, on_error))
    writer_of = writer_for(to, ensembles, members)
    evaluation = Evaluation(ensembles, form_of(structures, preparation.options), target or []) if evaluate else None
    with progress("predict", "structures") as update, hint_to_skip(), output_stream(to) as stream:
        writer = writer_of(stream)
        predictors = [Predictor(ensemble) for ensemble in ensembles]
        for batch in preparation.read(structures):
            predicted = [predictor(batch) for predictor in predictors]
            writer.write(batch, predicted)
            if evaluation is not None:
                evaluation.add(batch, [p.tasks for p in predicted])
            update(preparation.count, 0)
    preparation.report()
    for predictor in predictors:
        for line in predictor.remarks():
            log(line)
    for line in evaluation.lines() if evaluation else ():
        log(line)
    if to is not None:
        counts = ", ".join(f"{e.variant} ({len(e.replicas)})" for e in ensembles)
        log(
            f"{to}: {counted(preparation.count - preparation.skipped.count, 'structure')}, variants (members): {counts}"
        )
