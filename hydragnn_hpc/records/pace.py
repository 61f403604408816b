"""What `submit` asks a probe of the engines (`member.pace`), and the probe's answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hydragnn_hpc.records.base import FileRecord, NonNegative
from hydragnn_hpc.records.dataset import Manifest


class PaceQuestion(FileRecord):
    """How fast does a stack of ``members`` train on data like these?

    Attributes
    ----------
    campaign : dict
        A variant's own campaign (`Campaign.of_variant`) as plain data.
    manifest : dict
        The data set's manifest as plain data.
    """

    campaign: dict[str, Any]
    manifest: dict[str, Any]
    members: int = Field(ge=1)

    @property
    def contents(self) -> Manifest:
        """The manifest."""
        return Manifest.model_validate(self.manifest)


class PaceAnswer(FileRecord):
    """The engine that trains, and its times in seconds.

    Attributes
    ----------
    start : float
        From the start of the process to the first batch: imports, compiled kernels, the first calls.
    training, evaluation : float
        Of one sample of each member of the stack, in a batch and in an evaluation.
    """

    engine: str
    start: NonNegative
    training: NonNegative
    evaluation: NonNegative
