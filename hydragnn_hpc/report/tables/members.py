"""The members, a row each."""

from __future__ import annotations

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable


def members_table(snapshot: Snapshot) -> TextTable:
    """Return the members as a table to read: fewer columns than ``members.csv``."""
    members, tasks = snapshot.members, list(snapshot.campaign.tasks)
    poor = [" ".join(snapshot.not_learned(m)) for m in members]
    r2_tasks, failed, marked = tasks if snapshot.summary else [], any(m.failures for m in members), any(poor)
    shown = [
        (
            m.name,
            m.state.value,
            *(text.scientific(rows.metric(m, task, "rmse")) for task in tasks),
            text.scientific(m.result.validation_loss if m.result else None),
            text.MISSING if m.result is None else str(m.result.epochs),
            text.plain(m.result.seconds if m.result else None),
            *([str(len(m.failures))] if failed else []),
            *(text.r_squared(rows.r2(snapshot, m, task)) for task in r2_tasks),
            *([not_learned] if marked else []),
            *([rows.last_cause(m)] if failed else []),
        )
        for m, not_learned in zip(members, poor, strict=True)
    ]
    header = (
        "member", "state", *(f"RMSE {task}" for task in tasks), "validation loss", "epochs", "seconds",
        *(["failures"] if failed else []),
        *(f"R² {task}" for task in r2_tasks), *(["not learned"] if marked else []),
        *(["last cause"] if failed else []),
    )  # fmt: skip
    notes = ["RMSE of the test set and validation loss are of scaled values."]
    if marked:
        notes.append("Not learned: tasks whose validation error is no better than the baselines.")
    return TextTable("Members", header, shown, tuple(notes))
