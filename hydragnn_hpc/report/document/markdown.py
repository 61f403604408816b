"""The report as text and as data: ``report.md``, ``claims.md``, ``summary.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis.claims import PaperClaim
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.document import provenance
from hydragnn_hpc.report.document.body import EVIDENCE_HEADER, ReportSection
from hydragnn_hpc.report.figures.style import SavedFigure
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.tables.status import counts, failures
from hydragnn_hpc.report.tables.text_table import TextTable, as_markdown

SCHEMA = 1
"""Version of the keys of ``summary.json``."""


def supplement(content: Content, parts: Sequence[ReportSection]) -> str:
    """Return the whole report as Markdown."""
    results = content.results
    states = ", ".join(f"{n:,} {state}" for state, n in counts(results).items())
    lines = [
        f"# {text.markdown(results.campaign.name)}",
        "",
        f"{counted(len(results.members), 'member')}: {states}.",
        "",
    ]
    for part in parts:
        lines += [f"## {text.markdown(part.title)}", ""]
        lines += [f"{text.markdown(paragraph)}\n" for paragraph in part.paragraphs]
        lines += [_claim(claim) for claim in part.claims]
        lines += [as_markdown(table) for table in part.tables]
        for drawing in part.figures:
            lines += [f"![{text.markdown(drawing.title)}](figures/{drawing.name}.png)", ""]
            lines += [f"{text.markdown(drawing.caption)}", ""]
        if part.code:
            lines += ["```yaml", part.code.replace("```", "'''").rstrip(), "```", ""]
    return "\n".join(lines)


def claims_document(content: Content) -> str:
    """Return the claims and their evidence as Markdown."""
    return "\n".join(["# The paper's claims", "", *(_claim(c) for c in content.claims)])


def summary(content: Content, figures: Sequence[SavedFigure]) -> dict[str, Any]:
    """Return all numbers of the report as plain data; missing and non-finite ones are null."""
    results = content.results
    facts = {
        "schema": SCHEMA,
        "campaign": results.campaign.name,
        "hash": results.frozen.hash,
        "dataset_sha256": results.frozen.dataset_sha256,
        "members": len(results.members),
        "states": counts(results),
        "table1": rows.table1_rows(results),
        "not_learned": {m.name: tasks for m in results.members if (tasks := results.not_learned(m))},
        "advice": results.closing_line,
        "data": results.summary.model_dump(mode="json", by_alias=True) if results.summary else None,
        "timing": rows.timing_rows(results),
        "learned": content.headlines,
        "together": content.together,
        "claims": content.claims,
        "pairs": content.pairs,
        "costs": content.costs,
        "heads": content.heads,
        "paper": content.paper,
        "uncertainty": content.uncertainties,
        "failures": failures(results),
        "figures": [{"name": d.name, "title": d.title, "caption": d.caption} for d in figures],
        "configuration": results.campaign.model_dump(mode="json"),
        "provenance": provenance.provenance(results),
        "runs": provenance.runs(results),
        "remarks": content.remarks,
        "calibration": results.coverages,
    }
    return {key: _plain(value) for key, value in facts.items()}


def _claim(claim: PaperClaim) -> str:
    lines = [
        f"**({claim.key}) {text.markdown(claim.statement)}: {claim.verdict.value}.** {text.markdown(claim.remark)}",
        "",
    ]
    if claim.evidence:
        shown = [(e.what, e.figures, e.verdict.value, e.reason) for e in claim.evidence]
        lines.append(as_markdown(TextTable("Evidence", EVIDENCE_HEADER, shown)))
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
