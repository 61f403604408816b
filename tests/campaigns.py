"""The small data set and the small campaign that tests share; each changes what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import EndState
from hydragnn_hpc.records.member import Result, TaskErrors

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


def result(variant: str, replica: int, state: EndState = "finished", seconds: float = 5.0) -> Result:
    """Return the result of a member that nobody has trained; its tasks are the letters of its variant."""
    errors = TaskErrors(level="graph", unit="Ry", n=1, rmse=0.1, mae=0.1, rmse_unit=0.1, mae_unit=0.1)
    return Result(
        state=state,
        config_hash="",
        dataset_sha256="",
        variant=variant,
        replica=replica,
        seed=0,
        tasks=dict.fromkeys(variant, errors) if state == "finished" else {},
        validation_loss=0.1,
        best_epoch=1,
        epochs=1,
        stopped_by="epochs" if state == "finished" else "diverged",
        seconds=seconds,
        seconds_training=seconds,
        seconds_validation=0.0,
        stack=(replica,),
        engine="none",
        attempt=1,
        sessions=(),
        device=Device(type="cpu", name="stand-in", index=None, uuid=None),
        threads=1,
        versions={},
        weights_sha256="",
    )


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
