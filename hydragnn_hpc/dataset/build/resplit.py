"""A new split of an existing data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydragnn_hpc.compositions import species_counts
from hydragnn_hpc.dataset import store, symmetry
from hydragnn_hpc.dataset.build import distribution, select
from hydragnn_hpc.dataset.build.prepare import fit_scaling
from hydragnn_hpc.dataset.remarks import registry
from hydragnn_hpc.dataset.remarks.view import DataView
from hydragnn_hpc.fields import Property
from hydragnn_hpc.records.dataset import DatasetFacts


@dataclass(frozen=True)
class SplitOptions:
    """Options of a split.

    Attributes
    ----------
    by : {"composition", "symmetry", "groups", "random"}
    fractions : tuple of float
        Training, validation, test.
    seed : int
    cell : tuple of float or None
        Nine numbers, bohr, rows are vectors: the crystal's period, where the graph's boundary is open. None keeps what
        the data set states.
    scale_over : {"all", "train"} or None
        None keeps what the data set has.
    """

    by: str = "composition"
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0
    cell: tuple[float, ...] | None = None
    scale_over: str | None = None


@dataclass(frozen=True)
class SymmetryLeakage:
    """Leakage of a split through the symmetry of the lattices.

    Attributes
    ----------
    classes : int
        Number of classes of equivalent samples.
    before, after : int
        Test samples with an equivalent in the training set: in the old and the new split.
    """

    classes: int
    before: int
    after: int


def split(bp: Path, out: Path, options: SplitOptions, force: bool = False) -> tuple[store.Manifest, SymmetryLeakage]:
    """Write the data set ``bp`` as ``out`` with another split; its samples stay the same.

    What follows from the split is computed anew: the targets' scaling, and remarks. Return the manifest of ``out``, and
    how many test samples have an equivalent in the training set before and after.

    Raises
    ------
    UserError
        If ``bp`` cannot be read, ``out`` exists (and not ``force``), or the options do not fit the data.
    """
    store.refuse_existing(out, force)
    manifest, arrays = store.read(bp)
    _, counts = species_counts(arrays["atomic_numbers"], arrays["atom_offsets"])
    classes = symmetry.classes_of(arrays, options.cell or manifest.source.cell)
    made = select.split(options.by, counts, options.fractions, options.seed, classes)
    old, arrays["split"] = arrays["split"], made.part
    leaked_before, leaked_after = (symmetry.leaked(classes, part) for part in (old, made.part))
    leakage = SymmetryLeakage(len(np.unique(classes)), leaked_before, leaked_after)
    properties = [Property(name, t.level, t.unit, t.label) for name, t in manifest.targets.items()]
    over = options.scale_over or manifest.scaled_over
    changed = {
        "split_by": options.by,
        "seed": options.seed,
        "fractions": list(options.fractions),
        "compositions_too_small_to_split": len(made.too_small),
        "symmetry_classes": leakage.classes,
        "split_again_from": manifest.sha256,
        **({} if options.cell is None else {"cell": list(options.cell)}),
    }
    facts = DatasetFacts(
        targets=fit_scaling(arrays, over, properties),
        species=manifest.species,
        scaled_over=over,
        distribution=distribution.describe(arrays, manifest.targets),
        source=manifest.source.model_copy(update=changed),
        neighbours=manifest.neighbours,
    )
    view = DataView(arrays, facts.targets, facts.source, facts.neighbours, counts, classes)
    facts = facts.model_copy(update={"remarks": registry.of_data(view, manifest.remarks or ())})
    return store.write(out, arrays, facts, force), leakage
