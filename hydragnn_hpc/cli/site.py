"""``hydragnn-hpc site``: machine profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.atomic import write_text
from hydragnn_hpc.cli.command import App
from hydragnn_hpc.cli.options import check_new_yaml

app = App(no_args_is_help=True, help="Write machine profiles.")


@app.command(epilog="Example: hydragnn-hpc site detect --out my-machine.yaml")
def detect(
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: standard output.")] = None,
    queue: Annotated[str | None, typer.Option(help="The queue for jobs. Default: the scheduler's.")] = None,
) -> None:
    """Write a profile of this machine, from its scheduler's answers, for 'submit --site FILE.yaml'."""
    from hydragnn_hpc.submit import detect as detection

    if out is not None:
        check_new_yaml(out, "a profile", "--out")
    site, text = detection.detect(queue)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text(out, text)
    typer.echo(f"{out}: {site.about}")
