"""The small data set and the small campaign that tests share; each test changes what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options

SMALL: dict[str, Any] = {
    "name": "small",
    "dataset": "small.bp",
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy"},
        "C": {"level": "node", "field": "charge_transfer"},
        "M": {"level": "node", "field": "magnetic_moment"},
    },
    "variants": ["HCM", "H", "M"],
    "replicas": 2,
    "model": {"layers": 2, "channels": 8, "graph_head": [8], "node_head": [8]},
    "training": {"epochs": 4, "batch_size": 16},
    "launch": {"device": "cpu", "checkpoint_seconds": 0},
}


def text(**changes: Any) -> str:
    """Return the small campaign as YAML, with whole sections replaced by ``changes``."""
    return yaml.safe_dump({**SMALL, **changes})


def data_set(folder: Path, cap: int = 8, seed: int = 2) -> Path:
    """Make ``raw`` and ``small.bp`` in ``folder``; return the data set."""
    surrogate.generate(folder / "raw", cap=cap, seed=seed)
    prepare(folder / "raw", folder / "small.bp", Options())
    return folder / "small.bp"


def make(folder: Path, **changes: Any) -> Path:
    """Make the data set and ``campaign.yaml`` in ``folder``; return the campaign's file."""
    data_set(folder)
    (folder / "campaign.yaml").write_text(text(**changes))
    return folder / "campaign.yaml"
