"""What a campaign's results are, apart from how it was run."""

from __future__ import annotations

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
