"""HydraGNN's LSMS example, lsms.json, and changes of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

LSMS: dict[str, Any] = json.loads(Path(__file__).with_name("lsms.json").read_text())
NOTHING = object()
"""In place of a value: the key is removed."""


def changed(**values: Any) -> dict[str, Any]:
    """Return the example with values at dotted paths; ``__`` stands for a dot."""
    content = copy.deepcopy(LSMS)
    for path, value in values.items():
        *sections, key = path.split("__")
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {})
        inner.pop(key, None)
        if value is not NOTHING:
            inner[key] = value
    return content


def write(path: Path, content: Any) -> Path:
    """Write a configuration."""
    path.write_text(json.dumps(content))
    return path
