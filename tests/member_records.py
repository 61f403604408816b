"""Records of members as a training leaves them, with whatever values a test is about."""

from __future__ import annotations

from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.member import Failure, Result, TaskErrors

CPU = Device(type="cpu", name="x86_64", index=None, uuid=None)
ERRORS = TaskErrors(level="graph", unit="Ry", n=1, rmse=0.1, mae=0.1, rmse_unit=0.1, mae_unit=0.1, rmse_validation=0.1)
_RESULT = Result(
    state="finished", config_hash="c", dataset_sha256="d", variant="H", replica=0, seed=0, tasks={},
    validation_loss=0.1, best_epoch=1, epochs=1, stopped_by="early_stopping", seconds=1.0, seconds_training=1.0,
    seconds_validation=0.0, stack=(0,), engine="none", attempt=1, sessions=(), device=CPU, threads=1, versions={},
    weights_sha256="w",
)  # fmt: skip
_FAILURE = Failure(
    time="2026-08-01T09:00:00.000+00:00", cause="exit code 1", detail="", last_output=(), rank=0, host="h",
    attempt=1, final=False,
)  # fmt: skip


def a_result(**changes: object) -> Result:
    """Return a plain result with these fields changed."""
    return Result(**{**_RESULT.model_dump(by_alias=True), "stack": (changes.get("replica", 0),), **changes})


def a_failure(**changes: object) -> Failure:
    """Return a plain failed attempt with these fields changed."""
    return Failure(**{**dict(_FAILURE), **changes})
