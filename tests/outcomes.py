"""A campaign's results, which do not depend on how it was run, and the rows of its Table 1."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def outcome(out: Path) -> dict[str, Any]:
    """Return what must not depend on ranks, stacks, interruptions or faults.

    ``table1`` is Table 1 to the byte; under each member's name, ``HCM/0``, are the hash of its weights, its errors by
    task, and its epochs.
    """
    found: dict[str, Any] = {"table1": (out / "report" / "table1.csv").read_bytes()}
    for path in sorted(out.glob("members/*/*/result.json")):
        result = json.loads(path.read_text())
        name = f"{result['variant']}/{result['replica']}"
        found[name] = (result["weights_sha256"], result["tasks"], result["epochs"])
    return found


def table1(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows of Table 1 by variant and task."""
    with (out / "report" / "table1.csv").open(newline="") as stream:
        return {(row["variant"], row["task"]): row for row in csv.DictReader(stream)}


def of_networks(rows: dict[tuple[str, str], dict[str, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows without those of the baselines."""
    return {key: row for key, row in rows.items() if not key[0].startswith("no network")}
