"""``hydragnn-hpc predict``: apply a finished ensemble to new structures."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hydragnn_hpc.cli.data_options import FORMATS_HELP, ON_ERROR_HELP, one_of, parse_cell
from hydragnn_hpc.errors import UserError, nearest

if TYPE_CHECKING:
    from hydragnn_hpc.dataset.build.unseen import UnseenStructures
    from hydragnn_hpc.member.predict import Prediction

EPILOG = "Example: hydragnn-hpc predict runs/quickstart new.extxyz --variant HCM --out predicted.csv"
COLUMNS = ("variant", "task", "unit", "index", "frame", "sample", "atom", "component", "mean", "std", "members")


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
    to: Annotated[Path | None, typer.Option("--out", help="Write here. Default: standard output.")] = None,
    form: Annotated[str, typer.Option("--format", help=FORMATS_HELP)] = "auto",
    cell: Annotated[
        str, typer.Option(help="Cell for structures without one, as in data prepare: '20.8 10.4 14.1 bohr'.")
    ] = "",
    on_error: Annotated[str, typer.Option(help=ON_ERROR_HELP)] = "fail",
    device: Annotated[str, typer.Option(help="cpu, cuda, xpu, or auto: an accelerator where there is one.")] = "auto",
) -> None:
    """Predict every task for new structures: mean and standard deviation over a variant's finished members, as csv.

    Neighbours, inputs, scaling and references are those of the training; the structures need no targets.
    """
    from hydragnn_hpc.atomic import written_whole
    from hydragnn_hpc.ledger import read_frozen, read_members
    from hydragnn_hpc.logs import log, progress
    from hydragnn_hpc.paths import CampaignFolder

    folder = CampaignFolder(out)
    campaign = read_frozen(folder).campaign
    names = [v.name for v in campaign.variants]
    for name in variant or []:
        if name not in names:
            raise UserError(f"--variant {name}: {out} has no such variant{nearest(name, names)}")
    one_of("--on-error", on_error, ("fail", "skip"))
    if device not in ("cpu", "cuda", "xpu", "auto"):
        raise UserError(f"--device {device}; known are: cpu, cuda, xpu, auto")
    if to is not None and (to.is_dir() or not to.parent.is_dir()):  # checked before the long work
        where = f"{to} is a folder" if to.is_dir() else f"no such folder: {to.parent}"
        raise UserError(f"--out {to}: {where}; give a file in an existing folder")
    with progress("predict", "structures") as update:
        from hydragnn_hpc.dataset.build import unseen
        from hydragnn_hpc.member import predict as member_predict
        from hydragnn_hpc.member.worker import choose_device, set_threads

        set_threads(campaign.launch.threads)
        models = member_predict.read_models(folder, read_members(folder, campaign), variant or [])
        facts = next(iter(models.values()))[0].facts
        choice = unseen.ReadingChoice(form, parse_cell(cell) if cell else None, on_error)
        read = unseen.read(structures, facts, choice, update)
        predictions = [
            p for v, m in models.items() for p in member_predict.predict(campaign, v, m, read, choose_device(device, 0))
        ]
    with nullcontext(sys.stdout) if to is None else written_whole(to, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row for prediction in predictions for row in _rows(prediction, read))
    if read.skipped.count:
        log(f"{read.skipped.count:,} structures skipped; the first: {read.skipped.reasons[0]}")
    if to is not None:
        counts = ", ".join(f"{v} ({len(m)})" for v, m in models.items())
        log(f"{to}: {len(read.names):,} structures, variants (members): {counts}")


def _rows(prediction: Prediction, structures: UnseenStructures) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table, in the order of the source.

    Structures, atoms and components are counted from 0; the atom is empty for a graph-level task, the component for a
    task with only one.
    """
    offsets = structures.arrays["atom_offsets"].tolist()
    head = (prediction.variant, prediction.task, prediction.unit)
    node, several = prediction.level == "node", prediction.mean.shape[1] > 1
    for number, name in enumerate(structures.names):
        origin = (int(structures.index[number]), structures.origins[number], name)
        for row in range(offsets[number], offsets[number + 1]) if node else (number,):
            atom = row - offsets[number] if node else ""
            for d, (mean, std) in enumerate(
                zip(prediction.mean[row].tolist(), prediction.std[row].tolist(), strict=True)
            ):
                std_text = "" if std != std else repr(std)
                yield *head, *origin, atom, d if several else "", repr(mean), std_text, prediction.members
