"""The members, a row each."""

from __future__ import annotations

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable


def tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
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
        for r in content
    ]
    errors = (f"RMSE {task}" for task in tasks)
    header = ("member", "state", *errors, "validation loss", "epochs", "seconds", "failures", "last cause")
    note = "RMSE of the test set and validation loss are of scaled values."
    return [TextTable("Members", header, shown, (note,))]
