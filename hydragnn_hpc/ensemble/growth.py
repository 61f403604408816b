"""Changes of a campaign whose folder exists: it can grow, as long as nothing that has been trained changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydragnn_hpc.campaign_hash import member_settings
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.sections import Variant

_ONLY_GROWS = "a campaign can grow, not shrink"
_MOST_NAMED = 8  # variants in one line
_REASONS = {
    "training.cosine.epochs": " (the epochs already trained had other learning rates; to continue at the lowest rate,"
    " set this key to its former value)",
    "start.sha256": " (what members start from has been trained further, or with other settings)",
}


@dataclass(frozen=True)
class Changes:
    """Differences between a folder's campaign and the requested one, one line each.

    Attributes
    ----------
    growth : tuple of str
        What is trained in addition.
    refused : tuple of str
        What would contradict existing members.
    """

    growth: tuple[str, ...]
    refused: tuple[str, ...]


def changes(old: Campaign, new: Campaign) -> Changes:
    """Compare the ``old`` and ``new`` configuration of a folder: more replicas, variants and epochs are growth."""
    growth, refused = [], []
    if new.name != old.name:
        refused.append(f"name: {old.name} -> {new.name}")
    if new.replicas != old.replicas:
        line = f"replicas: {old.replicas} -> {new.replicas}"
        if new.replicas > old.replicas:
            growth.append(line)
        else:
            refused.append(f"{line} ({_ONLY_GROWS})")
    refused += _halving_refusals(old, new)
    variants = {v.name: v for v in new.variants}
    before = {v.name for v in old.variants}
    added = [name for name in variants if name not in before]
    if added:
        more = f" and {len(added) - _MOST_NAMED} more" if len(added) > _MOST_NAMED else ""
        growth.append(f"variants: + {', '.join(added[:_MOST_NAMED])}{more}")
    lines: dict[str, list[str]] = {}
    grows: dict[str, bool] = {}
    for variant in old.variants:
        if variant.name not in variants:
            refused.append(f"variants: {variant.name} is missing ({_ONLY_GROWS})")
            continue
        for key, was, becomes in _differences(_settings(old, variant), _settings(new, variants[variant.name])):
            line = f"{key}: {was} -> {becomes}{_REASONS.get(key, '')}"
            grows[line] = key == "training.epochs" and becomes > was
            lines.setdefault(line, []).append(variant.name)
    for line, names in lines.items():
        of_all = len(names) == len(before)
        (growth if grows[line] else refused).append(line if of_all else f"variants.{', '.join(names)}: {line}")
    return Changes(tuple(growth), tuple(refused))


def _halving_refusals(old: Campaign, new: Campaign) -> list[str]:
    """Return what would contradict rungs that may have been decided."""
    # A sweep has an effect of its own only with halving: otherwise its points are plain variants.
    before, after = (c.effective().sweep for c in (old, new))
    if before == after and (before is None or old.replicas == new.replicas):
        return []
    key = "sweep" if before != after else "replicas"
    return [f"{key}: with sweep.halving, other points, rungs or replicas would have let other points go on"]


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = [k for k in dict.fromkeys((*before, *after)) if before.get(k) != after.get(k)]
    return [(key, before.get(key, "not set"), after.get(key, "not set")) for key in keys]


def _settings(campaign: Campaign, variant: Variant) -> dict[str, Any]:
    """Return all settings that affect a variant's members, by key."""
    # Defaults are included, so that a change can name both values.
    settings = _flat(member_settings(campaign, variant, defaults=True))
    settings.pop("launch.stack")  # affects only the last digits of results, and only on a GPU
    return {key: value for key, value in settings.items() if not key.startswith("variants")}


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
