"""``hydragnn-hpc init``: a campaign file that fits a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.atomic import write_text
from hydragnn_hpc.cli.options import check_new_yaml, one_of
from hydragnn_hpc.counts import counted

EPILOG = "Example: hydragnn-hpc init data/alloy.bp --for speed --out alloy.yaml"


def init(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="The data set, .bp, that 'data prepare' has made.")
    ],
    purpose: Annotated[
        str,
        typer.Option(
            "--for",
            help="accuracy: the most accurate recipe known; speed: a smaller network and a third of the epochs;"
            " paper: network and training as in the HydraGNN paper.",
        ),
    ] = "accuracy",
    output: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write. Default: the data set's name with .yaml, in this folder."),
    ] = None,
) -> None:
    """Write a commented campaign file that fits a data set: tasks, inputs, references, model and training."""
    from hydragnn_hpc.dataset import proposal
    from hydragnn_hpc.sections import as_name

    one_of("--for", purpose, proposal.PURPOSES)
    output = output or Path(f"{dataset.stem}.yaml")
    check_new_yaml(output, "a campaign file", "--out")
    data = proposal.read(dataset)
    name = as_name(dataset.stem, "campaign")
    path = os.path.relpath(dataset.resolve(), output.parent.resolve())
    proposed = proposal.propose(data, name, path, purpose)
    split, found = data.manifest.split, data.summary
    samples, elements = counted(found.samples, "sample"), counted(len(found.elements), "element")
    geometries = counted(found.geometries, "geometry", "geometries")
    header = (
        f"Written by 'hydragnn-hpc init --for {purpose}' for {samples} ({split[0]:,} to train,"
        f" {split[1]:,} to validate, {split[2]:,} to test) of {elements} on {geometries}. Change what you like: all"
        " keys are listed in jobs/campaigns/example.yaml."
    )
    write_text(output, proposed.text(header))
    typer.echo(f"{output}: tasks {', '.join(proposed.content['tasks'])}; next: hydragnn-hpc run {output} runs/{name}")
