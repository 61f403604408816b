"""The decisions of a sweep's successive halving."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hydragnn_hpc.records.base import FileRecord


class Rungs(FileRecord):
    """``rungs.json``: by variant that is swept, the points that go on after each rung that has been decided."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    survivors: dict[str, tuple[tuple[str, ...], ...]] = Field(default_factory=dict)
