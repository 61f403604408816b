"""What `submit` asks a trial of the engines (`member.pace`), and the answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hydragnn_hpc.records.base import FileRecord, NonNegative
from hydragnn_hpc.records.dataset import Manifest


class PaceQuestion(FileRecord):
    """How fast does a stack of ``members`` replicas train on data like these?

    Attributes
    ----------
    campaign : dict
        A variant's own campaign (`Campaign.of_variant`) as plain data.
    """

    campaign: dict[str, Any]
    manifest: Manifest
    members: int = Field(ge=1)


class PaceAnswer(FileRecord):
    """The engine that would train, and its times in seconds.

    Attributes
    ----------
    start : float
        From the start of the process to the first batch: imports, compiled kernels, the first calls.
    training, evaluation : float
        Per sample and member of the stack, in training and in evaluation.
    """

    engine: str
    start: NonNegative
    training: NonNegative
    evaluation: NonNegative
