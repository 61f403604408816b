"""``hydragnn-hpc archive``: pack a campaign for publication, or check an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.logs import log

EPILOG = "Example: hydragnn-hpc archive runs/paper paper.zip --license https://spdx.org/licenses/CC-BY-4.0"


def archive(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The campaign's folder, as given to run.", show_default=False)
    ],
    to: Annotated[
        Path | None,
        typer.Argument(
            metavar="ARCHIVE", help="A new folder, or a file that ends in .zip. Default: OUT with -archive added."
        ),
    ] = None,
    license_text: Annotated[
        str, typer.Option("--license", help="The terms under which others may use it: a URL or text.")
    ] = "not stated",
    check: Annotated[
        bool, typer.Option("--check", help="OUT is an archive: compare every file with its checksum.")
    ] = False,
) -> None:
    """Pack tables, models, predictions, configuration and provenance, with checksums, as an RO-Crate.

    The archive, unpacked, is a campaign's folder: report, status, predict and Ensemble work on it anywhere. Checkpoints
    are left out, so training cannot be continued from an archive. Tables and figures are made again.
    """
    from hydragnn_hpc import crate

    if check:
        if not crate.check_archive(out, checksums=True):
            raise UserError(f"{out} is not an archive: it has no {crate.FILE}; leave --check out to make one")
        log(f"{out}: every file is as it was archived")
        return
    from hydragnn_hpc.logs import progress
    from hydragnn_hpc.report.archive import write_archive

    named = out if out.name not in ("", "..") else out.resolve()  # . and .. have no name of their own
    to = to or named.with_name(f"{named.name}-archive")
    with progress("archive", "figures") as bar:
        size = write_archive(out, to, license_text, bar)
    log(f"{to}: {size / 1e6:,.1f} MB")
