"""Remarks on a campaign and the data set that it is to be trained on."""

from __future__ import annotations

from collections.abc import Iterable

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.read.units import is_energy
from hydragnn_hpc.dataset.remarks.values import Found
from hydragnn_hpc.records.dataset import Manifest


def each_variant(campaign: Campaign) -> dict[str, Campaign]:
    """Return each variant as a campaign of its own, by name."""
    return {variant.name: campaign.of_variant(variant) for variant in campaign.variants}


def of_variants(campaign: Campaign, concerned: Iterable[str], text: str) -> str:
    """Return a line that names the variants that it is about, unless it is about all."""
    names = list(concerned)
    return text if len(names) == len(campaign.variants) else f"variants {', '.join(names)}: {text}"


def mean_pooling(campaign: Campaign, manifest: Manifest) -> Found:
    """An energy of the structure from a mean over its atoms, where structures differ in size."""
    atoms = manifest.distribution.atoms if manifest.distribution else None
    if atoms is None or atoms.minimum == atoms.maximum:
        return
    variants = each_variant(campaign)
    for name, task in campaign.tasks.items():
        unit = manifest.targets[task.field].unit
        poor = {v: c.model.pooling for v, c in variants.items() if name in c.tasks and c.model.pooling != "sum"}
        if task.level == "graph" and is_energy(unit) and poor:
            text = (
                f"task '{name}': '{task.field}' is in {unit} per structure, and structures differ in size; with"
                f" model.pooling={next(iter(poor.values()))} a structure and its repetition get the same value: use"
                " sum, or a target per atom"
            )
            yield text, task.field


def species_as_number(campaign: Campaign, manifest: Manifest) -> Found:
    """More than two elements on one axis: the scaled proton number as the only input."""
    elements = manifest.source.species or []
    poor = [v for v, c in each_variant(campaign).items() if {i.name for i in c.inputs} == {"species"}]
    if len(elements) > 2 and poor:
        text = (
            f"{len(elements)} elements are told apart by one number, the scaled proton number, which orders them as"
            " their properties are not ordered: set inputs=[one_hot], or properties such as radius"
        )
        yield of_variants(campaign, poor, text), None
