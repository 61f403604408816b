"""Records in a member's folder: its result, and its failed attempts."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, RootModel

from hydragnn_hpc.records.base import Count, FileRecord, Level, NonNegative, Text, Timestamp
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import EndState

Reason = Literal["early_stopping", "epochs", "diverged"]


class HistoryRow(NamedTuple):
    """One epoch of a member, a row of ``history.csv``; losses are scaled and weighted, times are of the whole stack."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds_training: float
    seconds_validation: float

    @property
    def is_finite(self) -> bool:
        """Whether both losses are finite."""
        return isfinite(self.train_loss) and isfinite(self.validation_loss)


HISTORY = HistoryRow._fields
"""The columns of ``history.csv``."""


class Identity(FileRecord):
    """Which member of which campaign."""

    config_hash: str
    dataset_sha256: str
    variant: str
    replica: Count


class TaskErrors(FileRecord):
    """A member's errors of one task, over the test set.

    Attributes
    ----------
    level : str
    unit : str
    n : int
        Values compared.
    rmse, mae : float or None
        Scaled; None where the test set has no value.
    rmse_unit, mae_unit : float or None
        In the unit.
    rmse_validation : float or None
        Scaled, of the validation set, on which choices are based; None where it has no value.
    """

    level: Level
    unit: str
    n: Count
    rmse: NonNegative | None
    mae: NonNegative | None
    rmse_unit: NonNegative | None
    mae_unit: NonNegative | None
    rmse_validation: NonNegative | None = None


class Session(FileRecord):
    """A period in which one worker trained a member for ``epochs`` epochs.

    Attributes
    ----------
    engine : str
    lanes : int or None
        Its vector lanes (`member.engine.interface`).
    device : str or None
        The name of the GPU; None on a CPU.
    stack : int or None
        On a GPU: members of the stack at the last checkpoint.
    """

    started: Timestamp
    ended: Timestamp
    host: str
    rank: Count
    slot: Count
    epochs: Count
    engine: str
    lanes: Count | None = None
    device: str | None = None
    stack: Count | None = None


class Result(FileRecord):
    """``result.json``: a finished or diverged member; it is written last, and shows that its other files are complete.

    Attributes
    ----------
    state : str
        ``finished``, or ``diverged``: its loss became infinite or NaN.
    tasks : dict
        By task; empty where it diverged.
    validation_loss : float or None
        The lowest, scaled and weighted, which is that of ``best_epoch``; None if it was finite in no epoch.
    best_epoch, epochs : int
    stopped_by : str
        ``early_stopping``, ``epochs`` or ``diverged``.
    seconds, seconds_training, seconds_validation : float
        Of all sessions; of the whole stack where members were stacked.
    stack : tuple of int
        Replicas trained together.
    attempt : int
        Counted from 1 within the run.
    train_samples : int or None
        Samples of the training set that were trained on; None where it is not known, of an imported model.
    weights_sha256 : str
        Of the best epoch's parameters and buffers.
    precision : str or None
        Of matrix products in float32, in torch's words; None of an imported model.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    state: EndState
    config_hash: str
    dataset_sha256: str
    variant: str
    replica: Count
    seed: Count
    tasks: dict[str, TaskErrors]
    validation_loss: float | None
    best_epoch: Count
    epochs: Count
    stopped_by: Reason
    seconds: NonNegative
    seconds_training: NonNegative
    seconds_validation: NonNegative
    stack: Annotated[tuple[Count, ...], Field(min_length=1)]
    engine: str
    attempt: Count
    sessions: tuple[Session, ...]
    device: Device
    threads: Count
    versions: dict[str, str]
    weights_sha256: str
    precision: str | None = None
    train_samples: Count | None = None


class Failure(FileRecord):
    """One failed attempt.

    Attributes
    ----------
    cause : str
        ``killed by signal 9 (SIGKILL)``, ``exit code 1``, ``silent for 600 s``, ``error: ...``.
    detail : str
        The exception's type, or empty.
    last_output : tuple of str
        The last lines of the worker's log.
    attempt : int
        Counted from 1 within the run.
    final : bool
        Whether the run gave the member up.
    """

    time: Timestamp
    cause: Text
    detail: str
    last_output: tuple[str, ...]
    rank: Count
    host: str
    attempt: Count
    final: bool


class Failures(RootModel[tuple[Failure, ...]]):
    """``failure.json``: a member's failed attempts, oldest first."""
