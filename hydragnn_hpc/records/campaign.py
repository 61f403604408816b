"""``campaign.yaml`` in a campaign's folder: the configuration that a run has frozen."""

from __future__ import annotations

from typing import Any

from hydragnn_hpc.records.base import Record


class EarlierCampaign(Record):
    """A configuration that the folder held before the campaign grew.

    Attributes
    ----------
    since : str
        When a run first froze it, in ISO 8601.
    hash : str
        Its hash (`campaign_hash.config_hash`).
    campaign : dict
        Its settings (`config.Campaign`) as plain data.
    """

    since: str
    hash: str
    campaign: dict[str, Any]


class CampaignRecord(Record):
    """The content of the file: the current configuration, and those from which it has grown.

    Attributes
    ----------
    hash, since, campaign
        As in `EarlierCampaign`.
    dataset_sha256 : str
        The content hash of the data set (`records.dataset.Manifest`).
    earlier : tuple of EarlierCampaign
        Oldest first.
    """

    hash: str
    dataset_sha256: str
    since: str
    campaign: dict[str, Any]
    earlier: tuple[EarlierCampaign, ...] = ()
