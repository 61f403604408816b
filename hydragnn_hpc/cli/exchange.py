"""``hydragnn-hpc import`` and ``export``: what comes from HydraGNN, and what goes there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.cli.command import App
from hydragnn_hpc.cli.options import check_new_yaml, length_in_bohr, one_of
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError

EXPORT_EPILOG = "Example: hydragnn-hpc export runs/quickstart models --to hydragnn --variant HCM"

app = App(help="Import a configuration or trained models of HydraGNN.", no_args_is_help=True)


@app.command(epilog="Example: hydragnn-hpc import config lsms.json fept.yaml")
def config(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A configuration of HydraGNN (.json), of version 2 or later.")
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", help="The campaign file to write. Default: FILE's name with .yaml, in this folder."
        ),
    ] = None,
) -> None:
    """Write a HydraGNN configuration as a campaign file; every key that a campaign cannot carry is named."""
    from hydragnn_hpc.atomic import write_text
    from hydragnn_hpc.exchange.settings import campaign_file

    out = out or Path(f"{file.stem}.yaml")
    check_new_yaml(out, "a campaign file")
    text, unused = campaign_file(file)
    write_text(out, text)
    typer.echo(f"{out}: its comments say how the data set is made; keys not carried over: {len(unused)}")
    for line in unused:
        typer.echo(f"  {line}")


@app.command(epilog="Example: hydragnn-hpc import model logs/FePt runs/fept --length-unit bohr --unit energy=Ry")
def model(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder with config.json and a checkpoint, as in HydraGNN's logs; or a folder of these.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The campaign's folder to make, for predict.")],
    length_unit: Annotated[
        str, typer.Option(help="Unit of the positions that it was trained on, bohr or angstrom.", show_default=False)
    ],
    unit: Annotated[
        list[str] | None, typer.Option(help="Unit of an output, OUTPUT=UNIT; repeatable. Default: dimensionless.")
    ] = None,
    elements: Annotated[
        str,
        typer.Option(help="Elements it was trained on: Fe,Pt. Default: all between its lightest and heaviest."),
    ] = "",
    unscaled: Annotated[
        bool, typer.Option("--unscaled", help="It was trained on values in their units: config.json has no ranges.")
    ] = False,
) -> None:
    """Make a campaign's folder from trained models of HydraGNN (PNA), which then predict here as they do there."""
    from hydragnn_hpc.dataset.read.units import parse_unit
    from hydragnn_hpc.exchange.models import ImportOptions, import_models

    units: dict[str, str] = {}
    for entry in unit or []:
        name, equals, text = entry.partition("=")
        if not equals:
            raise UserError(f"--unit {entry}: expected OUTPUT=UNIT, such as energy=Ry")
        if name in units:
            raise UserError(f"--unit {entry}: {name} has the unit {units[name]} already; leave one out")
        units[name] = parse_unit(text, f"--unit {entry}").text
    unit_in_bohr = length_in_bohr(length_unit, "--length-unit")
    count = import_models(folder, out, ImportOptions(unit_in_bohr, units, _proton_numbers(elements), unscaled))
    typer.echo(f"{out}: {count} finished members; next: hydragnn-hpc predict {out} STRUCTURES")


def _proton_numbers(elements: str) -> list[int] | None:
    """Return the proton numbers of elements, ascending; None where none are given."""
    from ase.data import atomic_numbers

    words = [word.strip() for word in elements.split(",") if word.strip()]
    for word in words:
        if not atomic_numbers.get(word):
            raise UserError(f"--elements {elements}: '{word}' is not an element; expected symbols, such as Fe,Pt")
    return sorted(atomic_numbers[word] for word in words) or None


def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The campaign's folder, as given to run.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make, with a folder for each model.")],
    to: Annotated[str, typer.Option(help="For which program: hydragnn (version 3).", show_default=False)],
    variant: Annotated[
        list[str] | None, typer.Option(help="Export this variant; repeatable. Default: all with finished members.")
    ] = None,
) -> None:
    """Write trained members as HydraGNN's models: HydraGNN loads them and makes the same predictions."""
    from hydragnn_hpc.exchange.export import export as write

    one_of("--to", to, ("hydragnn",))
    names = write(out, folder, variant or [])
    typer.echo(f"{folder}: {counted(len(names), 'model')}: {', '.join(names[:6])}{', ...' * (len(names) > 6)}")
