"""Table 1, training times and members: as files (csv, md, tex) and as shown to people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder, write_text
from hydragnn_hpc.report import text
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Row, Snapshot

COUNTED = "n of N: finished members of all; diverged and failed members are not averaged in."
SPREAD = "± is the standard deviation over members (ddof = 1)"


@dataclass(frozen=True)
class Table:
    """A table ready to be shown: text in every cell, notes below."""

    title: str
    header: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def write_tables(out: Path | str | Snapshot) -> list[Path]:
    """Write ``table1``, ``timing`` and ``members`` as csv, md and tex into the folder ``report/``.

    The same results give the same bytes. Returns the files.

    Raises
    ------
    UserError
        If the folder holds no campaign, a result cannot be read, or the folder cannot be written.
    """
    snapshot = out if isinstance(out, Snapshot) else rows.read(out)
    make_folder(snapshot.folder)
    raw = {
        "table1": rows.table1_rows(snapshot),
        "timing": rows.timing_rows(snapshot),
        "members": rows.member_rows(snapshot),
    }
    shown = {
        "table1": [paper_form(snapshot), tidy("Table 1, a row per variant and task", raw["table1"], rows.TABLE1)],
        "timing": [timing_table(snapshot), tidy("Training time, a row per variant", raw["timing"], rows.TIMING)],
        "members": [members_table(snapshot, raw["members"])],
    }
    written = []
    for name, content in raw.items():
        for suffix, made in (
            ("csv", as_csv(content)),
            ("md", "\n".join(as_markdown(t) for t in shown[name])),
            ("tex", "\n\\bigskip\n\n".join(as_latex(t) for t in shown[name])),
        ):
            path = snapshot.folder.table(name, suffix)
            write_text(path, made)
            written.append(path)
    return written


def make_folder(folder: CampaignFolder) -> None:
    """Create the folder ``report/figures/``.

    Raises
    ------
    UserError
        If it cannot be created.
    """
    try:
        folder.figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder.figures}: {error.strerror or error}; mend the folder") from error


def paper_form(snapshot: Snapshot, scaled: bool = True) -> Table:
    """Return Table 1 as the paper prints it: a row per variant, a column per task, mean ± std over n of N members."""
    tasks = list(snapshot.campaign.tasks)
    found = {(r["variant"], r["task"]): r for r in rows.table1_rows(snapshot)}
    shown = []
    for variant in snapshot.campaign.variants:
        cells = [_error_cell(found.get((variant.name, task)), scaled) for task in tasks]
        counts = sorted({f"{r['n']} of {r['n_total']}" for (v, _), r in found.items() if v == variant.name})
        shown.append((variant.name, *cells, ", ".join(counts)))
    units = {task: rows.unit_of(snapshot, task) for task in tasks}
    header = ("variant", *(task if scaled else f"{task} / {units[task] or '1'}" for task in tasks), "n of N")
    title = f"Test RMSE, {'scaled' if scaled else 'in units'}, mean ± std over members"
    return Table(title, header, shown, _notes([r["n"] for r in found.values()]))


def timing_table(snapshot: Snapshot) -> Table:
    """Return the training times for people."""
    found = rows.timing_rows(snapshot)
    shown = [
        (
            r["variant"],
            text.pair(r["seconds_mean"], r["seconds_std"], text.plain),
            text.pair(r["epochs_mean"], r["epochs_std"], text.plain),
            text.plain(r["seconds_mean"] / r["epochs_mean"] if r["seconds_mean"] and r["epochs_mean"] else None),
            f"{r['n']} of {r['n_total']}",
        )
        for r in found
    ]
    header = ("variant", "seconds", "epochs", "seconds per epoch", "n of N")
    stack = rows.stacked(snapshot)
    stacked = (
        (f"Members were trained in stacks of up to {stack}: the time of each is its stack's.",) if stack > 1 else ()
    )
    notes = (*_notes([r["n"] for r in found]), *stacked)
    return Table("Training time, mean ± std over members", header, shown, notes)


def members_table(snapshot: Snapshot, found: list[Row] | None = None) -> Table:
    """Return the members for people: fewer columns than ``members.csv``."""
    tasks = list(snapshot.campaign.tasks)
    shown = [
        (
            f"{r['variant']}/{r['replica']:02d}",
            r["state"],
            *(text.scientific(r[f"rmse_{task}"]) for task in tasks),
            text.scientific(r["validation_loss"]),
            text.MISSING if r["epochs"] is None else str(r["epochs"]),
            text.plain(r["seconds"]),
            str(r["failures"]),
            r["cause"],
        )
        for r in (rows.member_rows(snapshot) if found is None else found)
    ]
    errors = (f"RMSE {task}" for task in tasks)
    header = ("member", "state", *errors, "validation loss", "epochs", "seconds", "failures", "last cause")
    return Table("Members", header, shown, ("RMSE of the test set and validation loss are of scaled values.",))


def tidy(title: str, content: list[Row], columns: tuple[str, ...]) -> Table:
    """Return rows with the very columns of their csv file, numbers shortened to five digits."""
    return Table(title, columns, [tuple(_shortened(r[c]) for c in columns) for r in content])


def as_csv(content: list[Row]) -> str:
    """Return rows as csv: floats with every digit, an empty cell for a missing value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(content[0])
    writer.writerows(["" if v is None else repr(v) if isinstance(v, float) else v for v in r.values()] for r in content)
    return stream.getvalue()


def as_markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [f"**{text.markdown(table.title)}**", ""]
    lines.append("| " + " | ".join(text.markdown(h) for h in table.header) + " |")
    lines.append("|" + "---|" * len(table.header))
    lines += ["| " + " | ".join(text.markdown(c) for c in cells) + " |" for cells in table.cells]
    lines += [f"\n{text.markdown(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """Return a table as a LaTeX ``tabular`` that needs no package."""
    lines = [
        f"% {text.line(table.title)}",
        r"\begin{tabular}{" + "l" * len(table.header) + "}",
        r"\hline",
        " & ".join(text.latex(h) for h in table.header) + r" \\",
        r"\hline",
        *(" & ".join(text.latex(c) for c in cells) + r" \\" for cells in table.cells),
        r"\hline",
        r"\end{tabular}",
    ]
    lines += [f"% {text.line(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def as_rich(table: Table) -> Any:
    """Return a table for a terminal (``rich``)."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD)
    for k, name in enumerate(table.header):
        shown.add_column(Text(text.line(name)), justify="left" if k == 0 else "right", no_wrap=k == 0)
    for cells in table.cells:
        shown.add_row(*(Text(text.line(cell)) for cell in cells))
    # Title and notes stand outside, so that a narrow table does not fold them.
    return Group(Text(table.title, "bold"), shown, *(Text(note, "dim") for note in table.notes))


def _error_cell(row: Row | None, scaled: bool) -> str:
    if row is None:
        return text.MISSING
    if scaled:
        return text.pair(row["rmse_mean"], row["rmse_std"])
    return text.pair(row["rmse_unit_mean"], row["rmse_unit_std"], text.plain)


def _shortened(value: Any) -> str:
    if value is None:
        return text.MISSING
    return text.plain(value, 5) if isinstance(value, float) else str(value)


def _notes(counts: list[int]) -> tuple[str, ...]:
    found = [COUNTED]
    found.append(f"{SPREAD}; {text.MISSING} where fewer than two have finished." if min(counts) < 2 else f"{SPREAD}.")
    return tuple(found)
