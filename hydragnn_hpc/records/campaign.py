"""``campaign.yaml`` in a campaign's folder: the configuration that a run has frozen."""

from __future__ import annotations

from typing import Any

from hydragnn_hpc.records.base import Record


class EarlierCampaign(Record):
    """What the folder held before the campaign grew.

    Attributes
    ----------
    since : str
        When it was first frozen as it was.
    hash : str
    campaign : dict
        Its settings (`config.Campaign`) as plain data.
    """

    since: str
    hash: str
    campaign: dict[str, Any]


class CampaignRecord(Record):
    """The content of the file; attributes as of `EarlierCampaign`, which are those of ``earlier``, oldest first."""

    hash: str
    dataset_sha256: str
    since: str
    campaign: dict[str, Any]
    earlier: tuple[EarlierCampaign, ...] = ()
