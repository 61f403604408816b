"""What a campaign requires beyond the scaled arrays: node inputs by name, references and residuals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.staged.subset import nested
from hydragnn_hpc.paths import read_record
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.recipe import FittedSamples, ReferencedTask, RequiredInput, Requirements, StagedRecipe
from hydragnn_hpc.sections import Folds, Training, Variant

READY = "ready.json"
PLAIN = Requirements()
"""The requirements of a copy without reference or inputs beyond the species."""


def of_all(campaign: Campaign) -> tuple[Requirements, ...]:
    """Return what a campaign requires, and what each variant with inputs or references of its own requires.

    Those without inputs beyond the species come first: they share the copy's own ``node_inputs``, which the first of
    the others would replace.
    """
    own = [of(campaign), *(of(campaign.of_variant(v)) for v in campaign.variants if _requires_its_own(v))]
    classes = max(required.classes for required in own)  # computed once for all
    distinct = dict.fromkeys(required.model_copy(update={"classes": classes}) for required in own)
    return tuple(sorted(distinct, key=lambda required: required.inputs != PLAIN.inputs))


def _requires_its_own(variant: Variant) -> bool:
    return bool(variant.inputs or variant.references or {"resample", "samples", "fitted_to"} & set(variant.training))


def of(campaign: Campaign) -> Requirements:
    """Return what a campaign requires, apart from variants with inputs or references of their own."""
    training, fitted_to = campaign.training, None
    if training.fitted_to == "samples":
        fitted_to = FittedSamples(number=None if training.samples == "all" else training.samples, seed=campaign.seed)
    tasks = [
        ReferencedTask(
            name=name, field=t.field, level=t.level, reference="range" if t.reference == "none" else t.reference
        )
        for name, t in campaign.tasks.items()
        if t.reference != "none" or (fitted_to and not t.vector)
    ]
    inputs = [RequiredInput(**entry.model_dump()) for entry in campaign.inputs]
    return Requirements(inputs=tuple(inputs), tasks=tuple(tasks), classes=_classes(training), fitted_to=fitted_to)


def _classes(training: Training) -> int:
    if isinstance(training.resample, Folds):
        return training.resample.folds
    return int(training.resample != "none")


def meet(made: Requirements, required: Requirements) -> bool:
    """Whether what was ``made`` includes everything that is ``required``."""
    same = made.inputs == required.inputs and made.fitted_to == required.fitted_to
    return same and set(required.tasks) <= set(made.tasks) and made.classes >= required.classes


def write(folder: Path, arrays: Mapping[str, np.ndarray], manifest: Manifest, required: Requirements) -> None:
    """Compute what is ``required`` into a node-local copy: ``node_inputs``, ``reference_<task>``, ``residual_<task>``.

    ``ready.json`` in the same folder holds it (``wanted``), and how it was computed: ``inputs`` and ``references``.

    Parameters
    ----------
    folder : Path
    arrays : mapping
        The copy's arrays.
    manifest : Manifest
    required : Requirements

    Raises
    ------
    UserError
        If the data set does not allow something that is ``required``.
    OSError
        If the storage is full.
    """
    # Imported here because a supervisor imports this module and has no use for SciPy.
    from hydragnn_hpc.dataset.features import inputs, residual

    if required.fitted_to is not None:
        arrays = {**arrays, "split": _fitted_to(arrays, required.fitted_to)}
    recipe = inputs.plan(arrays, required.inputs, manifest.species, manifest.neighbours.cutoff_bohr)
    if not recipe.species_only:
        recipe = inputs.write(arrays, recipe, folder / "node_inputs.npy")
        node_inputs: np.ndarray = np.load(folder / "node_inputs.npy", mmap_mode="r")
    else:
        node_inputs = arrays["node_inputs"]
    shrinkage = inputs.shrinkage(recipe) if recipe.kept else None
    references = {}
    for task in required.tasks:
        paths = (folder / f"reference_{task.name}.npy", folder / f"residual_{task.name}.npy")
        values = arrays[f"scaled_{task.field}"]
        references[task.name] = residual.write(arrays, task, values, node_inputs, paths, shrinkage)
    staged = StagedRecipe(wanted=required, inputs=recipe, references=references)
    # Not in pydantic's JSON mode, which writes NaN as null.
    (folder / READY).write_text(json.dumps(staged.model_dump()), encoding="utf-8")


def _fitted_to(arrays: Mapping[str, np.ndarray], fitted_to: FittedSamples) -> np.ndarray:
    """Return the split ``[S]`` in which training samples that are not trained on belong to no part."""
    split: np.ndarray = np.array(arrays["split"])
    train = np.flatnonzero(split == 0)
    if fitted_to.number is not None:
        chosen = nested(train, fitted_to.number, arrays["atomic_numbers"], arrays["atom_offsets"], fitted_to.seed)
        split[np.setdiff1d(train, chosen, assume_unique=True)] = np.iinfo(split.dtype).max
    return split


def read(folder: Path) -> StagedRecipe | None:
    """Return what was required of a copy, and how it was computed; None if nothing was required.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    path = folder / READY
    return read_record(path, StagedRecipe) if path.exists() else None
