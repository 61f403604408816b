"""``hydragnn-hpc import``: configurations of HydraGNN."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.errors import UserError

app = typer.Typer(help="Import a configuration of HydraGNN.", no_args_is_help=True)


@app.command(epilog="Example: hydragnn-hpc import config lsms.json fept.yaml")
def config(
    file: Annotated[Path, typer.Argument(help="A configuration of HydraGNN (.json), of version 2 or later.")],
    out: Annotated[
        Path | None, typer.Argument(help="The campaign file to write. Default: FILE's name with .yaml, in this folder.")
    ] = None,
) -> None:
    """Write a HydraGNN configuration as a campaign file; every key that a campaign cannot carry is named."""
    from hydragnn_hpc.atomic import write_text
    from hydragnn_hpc.exchange.settings import campaign_file

    out = out or Path(f"{file.stem}.yaml")
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out}: give a campaign file a name that ends in .yaml")
    if out.exists():
        raise UserError(f"{out} exists; give another name, or remove it")
    text, unused = campaign_file(file)
    write_text(out, text)
    typer.echo(f"{out}: its comments say how the data set is made; keys not carried over: {len(unused)}")
    for line in unused:
        typer.echo(f"  {line}")
