"""``status``, ``report`` and ``compare``: what campaigns' folders show."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.logs import console, print_line

if TYPE_CHECKING:
    from rich.console import Console

    from hydragnn_hpc.paths import CampaignFolder
    from hydragnn_hpc.report.analysis.content import Content
    from hydragnn_hpc.submit.jobs import JobStatus

ASK_SECONDS = 30.0
"""Interval at which ``status --watch`` asks the scheduler: more frequent queries would burden it."""

Folder = Annotated[
    Path, typer.Argument(metavar="OUT", help="The campaign's folder, as given to run.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def status(
    out: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until nothing is left to train.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between refreshes with --watch.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show a campaign's progress: members by state, rates, time left, the table so far, failures with causes.

    It only reads the folder: on any machine, while the campaign runs or long after. Where the scheduler is available,
    it also asks for the state of submitted jobs.
    """
    if watch and as_json:
        raise UserError("status: --watch and --json exclude each other; call --json repeatedly instead")
    from dataclasses import asdict

    from hydragnn_hpc.ledger import State
    from hydragnn_hpc.paths import CampaignFolder
    from hydragnn_hpc.report.tables import status as campaign_status
    from hydragnn_hpc.submit.jobs import read_jobs

    folder = CampaignFolder(out)
    is_submitted_only = folder.job_record.exists() and not folder.campaign.exists()
    current = None if is_submitted_only else campaign_status.read_status(out)
    finished = current is not None and current[0].states.get(State.FINISHED.value) == current[0].members
    jobs, remarks = ([], []) if finished else read_jobs(folder)  # when all is finished, jobs no longer matter
    if as_json:
        plain = current[0].plain() if current else {"folder": str(out), "settled": False}
        plain |= {"jobs": [asdict(job) for job in jobs], "job_remarks": remarks}
        typer.echo(json.dumps(plain, indent=1, allow_nan=False))
        return
    screen = console()
    _show_jobs(jobs, remarks, screen)
    if current is None:
        screen.print(f"{out}: the campaign has not begun", markup=False, highlight=False, soft_wrap=True)
    elif not watch:
        screen.print(campaign_status.render(*current))
    if watch:
        try:
            if current is not None or _wait_until_begun(folder, jobs, screen, interval):
                campaign_status.watch(out, screen, interval)
        except KeyboardInterrupt:
            return  # the user has seen enough; no work was interrupted


def _show_jobs(jobs: list[JobStatus], remarks: list[str], screen: Console) -> None:
    for line in (*(job.line() for job in jobs), *remarks):
        screen.print(line, markup=False, highlight=False, soft_wrap=True)


def _wait_until_begun(folder: CampaignFolder, jobs: list[JobStatus], screen: Console, interval: float) -> bool:
    """Wait for the campaign's first run, and show its jobs when they change; return whether it has begun."""
    from hydragnn_hpc.submit.jobs import read_jobs

    asked = time.monotonic()
    while not folder.campaign.exists():
        if jobs and all(job.state == "ended" for job in jobs):
            return False
        time.sleep(interval)
        if time.monotonic() - asked > ASK_SECONDS:
            before, (jobs, remarks) = jobs, read_jobs(folder)
            if jobs != before:
                _show_jobs(jobs, remarks, screen)
            asked = time.monotonic()
    return True


def report(
    out: Folder,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the members' learning curves for TensorBoard, too.")
    ] = False,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Leave out the baselines: predictions without a network.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write tables, figures and the page of a campaign into OUT/report, from the members that have finished.

    The page, OUT/report/index.html, is one file: open it in a browser, or send it to somebody.
    """
    from hydragnn_hpc.logs import progress

    with progress("report", "figures") as bar:
        from hydragnn_hpc.report.write import write_report

        content, written = write_report(out, bar, baselines=not no_baselines)
    has_curves = tensorboard and _write_curves(content)
    if as_json:
        typer.echo(content.results.folder.summary.read_text(encoding="utf-8"), nl=False)
        return
    _show_report(content, len(written))
    if has_curves:
        typer.echo(f"tensorboard --logdir {content.results.folder.tensorboard}")


def _write_curves(content: Content) -> bool:
    from hydragnn_hpc.report.tensorboard import write_scalars

    try:
        write_scalars(content)
    except UserError as error:  # the report is complete without them
        print_line(f"hydragnn-hpc: no curves for TensorBoard: {error}")
        return False
    return True


def _show_report(content: Content, n_files: int) -> None:
    from hydragnn_hpc.report.tables.table1 import paper_form
    from hydragnn_hpc.report.tables.text_table import as_rich

    screen = console()
    screen.print(as_rich(paper_form(content.results)))
    if line := content.results.closing_line:
        screen.print(line, markup=False, highlight=False)
    for claim in content.claims:
        screen.print(f"({claim.key}) {claim.statement}: {claim.verdict.value}", markup=False, highlight=False)
    for remark in content.remarks:
        screen.print(f"remark: {remark}", markup=False, highlight=False)
    folder = content.results.folder
    screen.print(
        f"{counted(n_files, 'file')} in {folder.report}; start with {folder.page}", markup=False, highlight=False
    )


def compare(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT OUT...", help="Campaigns' folders.", show_default=False)],
    common: Annotated[
        bool, typer.Option("--common-samples", help="If test sets differ, compare on the samples they have in common.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.md", help="Write the tables as a page of Markdown, too.")
    ] = None,
) -> None:
    """Compare the errors of several campaigns on the same test samples, with intervals.

    Variants of the same name are compared with one another; for a target without such variants, all that predict it.
    """
    from hydragnn_hpc.atomic import write_text
    from hydragnn_hpc.report.analysis.comparison import compare_campaigns
    from hydragnn_hpc.report.document import comparison
    from hydragnn_hpc.report.tables.text_table import as_rich

    if output is not None and output.suffix != ".md":
        raise UserError(f"--out {output}: give a page of Markdown a name that ends in .md")
    compared = compare_campaigns([str(out) for out in outs], common)
    if output is not None:
        write_text(output, comparison.page(compared))
    screen = console()
    for table in comparison.tables(compared):
        screen.print(as_rich(table))
    if output is not None:
        screen.print(f"written: {output}", markup=False, highlight=False)
