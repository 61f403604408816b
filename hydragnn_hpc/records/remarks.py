"""Remarks on a data set or a campaign: in the manifest of a data set, and in a campaign's folder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hydragnn_hpc.records.base import FileRecord, Text


class Remark(FileRecord):
    """What a user should know before training, and what to do about it.

    Attributes
    ----------
    name : str
        The kind of remark; the same in all versions.
    text : str
        One line: what, where, the numbers, the remedy.
    target : str or None
        The target that it is about; None where it is about all of the data.
    """

    name: Annotated[str, Field(pattern="^[a-z-]+$")]
    text: Text
    target: str | None = None

    def line(self) -> str:
        """Return it as it is shown."""
        return f"{self.name}: {self.text}"


class CampaignRemarks(FileRecord):
    """``remarks.json``: the remarks on a campaign and its data at the start of its latest run."""

    remarks: tuple[Remark, ...]
