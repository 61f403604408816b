"""New structures as arrays for trained models: neighbours, inputs and references are computed as in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydragnn_hpc import compositions
from hydragnn_hpc.dataset.build import prepare
from hydragnn_hpc.dataset.features import decorations, inputs, residual
from hydragnn_hpc.dataset.read import sources
from hydragnn_hpc.dataset.read.frames import Skipped, hint_to_skip
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.staged.copies import scaled
from hydragnn_hpc.logs import ProgressCallback, log
from hydragnn_hpc.records.model import ModelFacts
from hydragnn_hpc.records.recipe import FittedReference


@dataclass(frozen=True)
class ReadingChoice:
    """How to read new structures.

    Attributes
    ----------
    form : str
        A format, or ``auto``.
    cell : tuple of float or None
        Nine numbers, bohr, where the source gives no cell.
    on_error : {"fail", "skip"}
        What to do with a structure that cannot be used.
    """

    form: str = "auto"
    cell: tuple[float, ...] | None = None
    on_error: str = "fail"


@dataclass(frozen=True)
class UnseenStructures:
    """New structures, in the order of their source.

    Attributes
    ----------
    names, origins : list of str
        Names, which need not be unique, and which structure of the source each is.
    index : numpy.ndarray
        ``[S]`` int64, the position of each in the source, counted from 0, skipped structures included.
    arrays : dict
        Those of :data:`hydragnn_hpc.fields.STRUCTURE`.
    inputs : numpy.ndarray
        ``[A, F0]`` float32.
    skipped : Skipped
        Structures that could not be used.
    """

    names: list[str]
    origins: list[str]
    index: np.ndarray
    arrays: dict[str, np.ndarray]
    inputs: np.ndarray
    skipped: Skipped

    def reference(self, reference: FittedReference) -> np.ndarray:
        """Return the values of a task's reference, scaled: ``[A, d]`` or, at graph level, ``[S, d]`` float64."""
        elements, a = np.array(reference.elements), self.arrays
        counts = compositions.counts_of(a["atomic_numbers"], a["atom_offsets"], elements)
        n_atoms, element = np.diff(a["atom_offsets"]), np.searchsorted(elements, a["atomic_numbers"])
        described = residual.described(reference.level, self.inputs, n_atoms, element, len(elements))
        if reference.level == "graph":
            each = np.arange(len(self.names))
            return residual.evaluate(reference, counts, each, np.zeros_like(each), described)
        return residual.evaluate(reference, counts, np.repeat(np.arange(len(self.names)), n_atoms), element, described)


def read(
    source: Path, facts: ModelFacts, choice: ReadingChoice, progress: ProgressCallback | None = None
) -> UnseenStructures:
    """Read structures in any format, in the order of the source; targets and other values are ignored.

    Parameters
    ----------
    source : Path
    facts : ModelFacts
        Facts of the models to be applied.
    choice : ReadingChoice

    Raises
    ------
    UserError
        If a structure is malformed, or holds an element that the models were not trained on.
    """
    low, high = facts.species.minimum, facts.species.maximum
    cutoff = facts.neighbours.cutoff_bohr
    options = Options(
        cutoff=cutoff,
        periodic={"open": False, "periodic": True}.get(facts.neighbours.boundary),
        cell=choice.cell,
        form=choice.form,
        on_error=choice.on_error,
        purpose="predict",
        elements=tuple(facts.species.elements or range(low, high + 1)),
    )
    with hint_to_skip():
        raw = sources.read(source, options, progress)
        samples = raw.samples
        if raw.overruled:
            log(
                f"{raw.overruled:,} of {len(samples.names):,} structures state another boundary than the"
                f" models were trained on; taken as {facts.neighbours.boundary}"
            )
        arrays = prepare.structure_arrays(samples, np.full(len(samples.names), 2, np.uint8), cutoff)
    return UnseenStructures(samples.names, samples.origins, samples.index, arrays, _inputs(arrays, facts), raw.skipped)


def _inputs(arrays: Mapping[str, np.ndarray], facts: ModelFacts) -> np.ndarray:
    numbers = arrays["atomic_numbers"]
    recipe = facts.ready.inputs
    if recipe is None or recipe.names == ["species"]:
        return scaled(numbers[:, None].astype(np.float64), facts.species.minimum, facts.species.maximum)
    found = np.empty((len(numbers), len(recipe.kept)), np.float32)
    for number in range(len(arrays["cell"])):
        site = inputs.GeometryOperators(recipe, decorations.geometry(arrays, number))
        chosen = np.flatnonzero(arrays["sample_geometry"] == number)
        n = int(np.diff(arrays["geometry_atom_offsets"][number : number + 2])[0])
        for some in np.array_split(chosen, -(-len(chosen) * n // inputs.BATCH)):
            atoms = arrays["atom_offsets"][some][:, None] + np.arange(n)
            found[atoms] = site.inputs(numbers[atoms])
    return found
