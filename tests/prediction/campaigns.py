"""Small campaigns whose members are used, and commands as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = {"layers": 2, "channels": 8, "graph_head": [8], "node_head": [8]}
TRAINING = {"epochs": 2, "batch_size": 16}
FEPT: dict[str, Any] = {
    "name": "fept",
    "dataset": "fept.bp",
    "inputs": ["species", "composition", {"name": "shells", "number": 3}, "ewald"],
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy", "reference": "linear"},
        "C": {"level": "node", "field": "charge_transfer", "reference": "species"},
        "M": {"level": "node", "field": "magnetic_moment"},
    },
    "variants": ["HCM", "M"],
    "replicas": 2,
    "model": MODEL,
    "training": TRAINING,
}
PLAIN = {
    **FEPT,
    "name": "plain",
    "inputs": ["species"],
    "tasks": {name: {k: v for k, v in task.items() if k != "reference"} for name, task in FEPT["tasks"].items()},
    "variants": ["HCM"],
    "replicas": 3,
}
TERNARY = {
    "name": "ternary",
    "dataset": "ternary.bp",
    "tasks": {"H": {"level": "graph", "field": "mixing_enthalpy"}, "F": {"level": "node", "field": "forces"}},
    "variants": ["HF"],
    "replicas": 1,
    "model": {**MODEL, "convolution": "GIN", "edges": {"number": 6}},
    "training": TRAINING,
}


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "hydragnn_hpc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
    )


def done(folder: Path, *arguments: str) -> str:
    """Run a command that must succeed; returns what it printed."""
    found = command(folder, *arguments)
    assert found.returncode == 0, f"{arguments}\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    return found.stdout
