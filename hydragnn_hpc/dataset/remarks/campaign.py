"""Remarks on a campaign and its data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from hydragnn_hpc import starts
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.read.units import is_energy
from hydragnn_hpc.dataset.remarks.view import Lines
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.sections import Folds

Variants = Mapping[str, Campaign]
"""Each variant of a campaign as a campaign of its own, by name."""


def each_variant(campaign: Campaign) -> Variants:
    """Return each variant as a campaign of its own, by name."""
    return {variant.name: campaign.of_variant(variant) for variant in campaign.variants}


def naming_variants(variants: Variants, concerned: Iterable[str], text: str) -> str:
    """Return a remark with the variants that it concerns in front, unless it concerns all."""
    names = list(concerned)
    if len(names) == len(variants):
        return text
    return f"variant{'s' if len(names) > 1 else ''} {', '.join(names)}: {text}"


def mean_pooling(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """Mean pooling for a structure's total energy, where structures differ in size."""
    atoms = manifest.distribution.atoms if manifest.distribution else None
    if atoms is None or atoms.minimum == atoms.maximum:
        return
    for name, task in campaign.tasks.items():
        unit = manifest.targets[task.field].unit
        poor = {v: c.model.pooling for v, c in variants.items() if name in c.tasks and c.model.pooling != "sum"}
        if task.level == "graph" and is_energy(unit) and poor:
            poolings = " or ".join(sorted(set(poor.values())))
            text = (
                f"task '{name}': '{task.field}' is in {unit} per structure, and structures differ in size, but with"
                f" model.pooling={poolings} a structure and its supercells have the same value: use sum, or a target"
                " per atom"
            )
            yield naming_variants(variants, poor, text), task.field


def species_as_number(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """The scaled proton number as the only input, with more than two elements."""
    elements = manifest.source.species or []
    poor = [v for v, c in variants.items() if {i.name for i in c.inputs} == {"species"}]
    if len(elements) > 2 and poor:
        text = (
            f"{len(elements)} elements are distinguished by the scaled proton number alone, whose order is not that of"
            " their properties: set inputs=[one_hot], or use properties such as radius"
        )
        yield naming_variants(variants, poor, text), None


def reference_of_all(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """A reference that is fitted to the whole training set, while the network is trained on part of it."""
    for name, task in campaign.tasks.items():
        affected = [
            v
            for v, c in variants.items()
            if c.training.trained_on(manifest.split[0]) < manifest.split[0]
            and c.training.fitted_to == "all"
            and name in c.tasks
            and c.tasks[name].reference != "none"
        ]
        if affected:
            text = (
                f"task '{name}': its reference is fitted to all {manifest.split[0]:,} training samples, although"
                " training.samples is smaller, so that errors are lower than so few samples would give; set"
                " training.fitted_to=samples"
            )
            yield naming_variants(variants, affected, text), task.field


def reference_of_resampled(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """A reference that is fitted to the data set's training set, while replicas are trained on samples of their own."""
    for name, task in campaign.tasks.items():
        resampled = [
            v
            for v, c in variants.items()
            if c.training.resample != "none" and name in c.tasks and c.tasks[name].reference != "none"
        ]
        if resampled:
            text = (
                f"task '{name}': its reference is fitted to all {manifest.split[0]:,} training samples, although"
                " replicas are trained on samples of their own (training.resample): errors vary less than with"
                " references of their own; set reference=none"
            )
            yield naming_variants(variants, resampled, text), task.field


def one_atom_batches(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """A last batch of one sample, where samples may be one atom: it has no batch statistics, and ends its member."""
    atoms = manifest.distribution.atoms if manifest.distribution else None
    if atoms is None or atoms.minimum > 1:
        return
    affected: dict[tuple[int, int], list[str]] = {}
    for name, variant in variants.items():
        training = variant.training
        samples, size = training.trained_on(training.split_sizes(*manifest.split[:2])[0]), training.batch_size
        if size == 1 or samples % size == 1:
            affected.setdefault((samples, size), []).append(name)
    for (samples, size), names in affected.items():
        text = (
            f"training.batch_size={size} leaves one of {samples:,} training samples for"
            f" {'every' if size == 1 else 'the last'} batch of an epoch: if"
            " it is a structure of one atom, the batch has no statistics and the member fails; set another"
            " training.batch_size"
        )
        yield naming_variants(variants, names, text), None


def start_from_other_data(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """A source that was trained on other data, maybe on samples that this data set has for validation or test."""
    affected: dict[str, list[str]] = {}
    source_of = cache(starts.source_of)  # many variants start from the same members
    for name, variant in variants.items():
        if variant.start is not None and source_of(variant.start).dataset_sha256 != manifest.sha256:
            affected.setdefault(variant.start.folder, []).append(name)
    for folder, names in affected.items():
        text = (
            f"members start from {folder}, which was trained on another data set: if it was trained on samples that are"
            " in the validation or test set here, errors are lower than those of new structures"
        )
        yield naming_variants(variants, names, text), None


def start_from_other_folds(campaign: Campaign, variants: Variants, manifest: Manifest) -> Lines:
    """A source whose replicas were trained on samples on which those of this campaign are validated."""
    affected: dict[str, list[str]] = {}
    source_of = cache(starts.source_of)
    for name, variant in variants.items():
        if variant.start is None:
            continue
        source = source_of(variant.start)
        own, theirs = ((c.training.resample, c.seed) for c in (variant, source.campaign))
        has_folds = isinstance(own[0], Folds) or isinstance(theirs[0], Folds)
        if has_folds and own != theirs and source.dataset_sha256 == manifest.sha256:
            affected.setdefault(variant.start.folder, []).append(name)
    for folder, names in affected.items():
        text = (
            f"members start from {folder}, whose replicas have other folds (training.resample, seed), so that they were"
            " trained on samples on which members are validated here: validation errors are too low, and calibrated"
            " intervals too narrow; test errors are not affected"
        )
        yield naming_variants(variants, names, text), None
