"""What identifies a campaign, its members, and members that others start from: hashes of settings and data."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.sections import Variant

HASH_SCHEMA = 1
"""Increased when a default or the meaning of a key changes: earlier folders then belong to other campaigns."""


def config_hash(campaign: Campaign, dataset_sha256: str) -> str:
    """Return the hash that identifies a campaign, over all settings that affect results and are not at their defaults.

    The data set enters by its checksum, not by its path.
    """
    settings = campaign.effective().model_dump(mode="json", exclude={"dataset"}, exclude_defaults=True)
    return _hash([HASH_SCHEMA, settings, dataset_sha256])


def member_hash(campaign: Campaign, variant: Variant, dataset_sha256: str) -> str:
    """Return the hash that identifies what a variant's members are trained on, and how.

    It is the same in a campaign with other variants, more replicas or other stacks, and with more epochs unless these
    change the earlier ones, as they do where the length of a cosine schedule is the number of epochs.
    """
    settings = member_settings(campaign, variant)
    for section, key in (("training", "epochs"), ("launch", "stack")):
        settings.get(section, {}).pop(key, None)
        if not settings.get(section, True):
            del settings[section]
    return _hash([HASH_SCHEMA, settings, dataset_sha256])


def member_settings(campaign: Campaign, variant: Variant, defaults: bool = False) -> dict[str, Any]:
    """Return the settings that affect a variant's members, as plain data; on request also those at their defaults."""
    own = campaign.of_variant(variant).effective()
    if own.training.schedule == "cosine":
        length = own.training.cosine.epochs or own.training.epochs
        cosine = own.training.cosine.model_copy(update={"epochs": length})
        own = own.model_copy(update={"training": own.training.model_copy(update={"cosine": cosine})})
    return own.model_dump(mode="json", exclude={"name", "dataset", "replicas"}, exclude_defaults=not defaults)


def source_hash(campaign: Campaign, variant: Variant, dataset_sha256: str) -> str:
    """Return the hash that identifies a variant's finished members as a source of others: with all their epochs."""
    return _hash([member_hash(campaign, variant, dataset_sha256), campaign.epochs(variant)])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
