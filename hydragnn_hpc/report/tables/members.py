"""The members, a row each."""

from __future__ import annotations

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable


def tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return the members as a table to read: fewer columns than ``members.csv``."""
    tasks, marked = list(snapshot.campaign.tasks), any(r["not_learned"] for r in content)
    fits, failed = tasks if snapshot.summary else [], any(r["failures"] for r in content)
    shown = [
        (
            f"{r['variant']}/{r['replica']:02d}",
            r["state"],
            *(text.scientific(r[f"rmse_{task}"]) for task in tasks),
            text.scientific(r["validation_loss"]),
            text.MISSING if r["epochs"] is None else str(r["epochs"]),
            text.plain(r["seconds"]),
            *([str(r["failures"])] if failed else []),
            *(text.r_squared(r[f"r2_{task}"]) for task in fits),
            *([r["not_learned"]] if marked else []),
            *([r["cause"]] if failed else []),
        )
        for r in content
    ]
    header = (
        "member", "state", *(f"RMSE {task}" for task in tasks), "validation loss", "epochs", "seconds",
        *(["failures"] if failed else []),
        *(f"R² {task}" for task in fits), *(["not learned"] if marked else []),
        *(["last cause"] if failed else []),
    )  # fmt: skip
    notes = ["RMSE of the test set and validation loss are of scaled values."]
    if marked:
        notes.append("Not learned: tasks whose validation error is no better than the baselines.")
    return [TextTable("Members", header, shown, tuple(notes))]
