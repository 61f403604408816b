"""Node inputs of a model: columns by name, computed once when the data set is staged.

``species``: the proton number, scaled to [0, 1] over the data set. ``one_hot``: for each element, whether the atom is
of it. ``radius``, ``electronegativity``, ``valence_electrons``, ``period``, ``group``: a property of the atom's element
(`features.elements`). ``composition``: the fraction of each element in the sample. ``shells``: atoms of each element in
the shells of neighbours around the site (`features.shells`). ``ewald``: for each element, the electrostatic potential
at the site of unit charges on its atoms and an equal, neutralising charge on all atoms. For charges q_s on the elements
that sum to zero, the potential is the sum of q_s times these columns. Periodic cells use Ewald's sum, with all images;
clusters use Coulomb's law. ``powers`` adds the potential's square, cube and so on: atoms respond to their potential, so
that energies are not linear in it.

All but ``species`` are standardised: mean 0 and standard deviation 1 over the atoms of the training set. Columns that
are constant there, or linear in the preceding columns of the same name, are redundant and left out: for two elements,
half of them. Redundancy between names is kept: on a small periodic lattice the potential is linear in enough shells,
and still saves the model from learning which combination matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydragnn_hpc import compositions
from hydragnn_hpc.dataset.features import elements, shells
from hydragnn_hpc.dataset.features.ewald import potential_matrix
from hydragnn_hpc.dataset.features.mapped import new_array
from hydragnn_hpc.dataset.graphs import Geometry, geometry_of
from hydragnn_hpc.records.dataset import NumberRange
from hydragnn_hpc.records.recipe import InputRecipe, RequiredInput

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_MIN_UNEXPLAINED = 1e-6  # least share of a column's variance that the preceding columns must leave unexplained
# Candidates: for the slopes of all columns but shells, and of shells. Errors on left-out classes vary little between
# neighbouring candidates.
_SHRINKAGE = ((1.0, 1.0), (10.0, 10.0), (1.0, 10.0), (1.0, 100.0), (10.0, 100.0))
BATCH = 100_000
"""Atoms of one geometry that are processed at once."""


def all_columns(recipe: InputRecipe) -> list[tuple[str, str]]:
    """Return (name, input that it belongs to) of every column, kept or not."""
    from ase.data import chemical_symbols

    symbols = [chemical_symbols[z] for z in recipe.elements]
    columns: list[tuple[str, str]] = []
    for name in recipe.names:
        if name == "species" or name in elements.PROPERTIES:
            columns.append((name, name))
        elif name == "shells" and recipe.shells is not None:
            columns += [(f"shell {r:.4g} bohr {s}", name) for r in recipe.shells.radii for s in symbols]
        else:
            columns += [(f"{name} {s}", name) for s in symbols]
        if name == "ewald":
            columns += [(f"{name}^{p} {s}", name) for p in range(2, recipe.powers + 1) for s in symbols]
    return columns


def shrinkage(recipe: InputRecipe) -> np.ndarray:
    """Return candidate shrinkage strengths for the slopes of each kept column, ``[C, F0]`` (`features.regression`).

    A potential carries over from one composition to the next, whereas shells describe the details of each: where
    few samples are distinct, the slopes of shells may be shrunk more.
    """
    columns = all_columns(recipe)
    shell = np.array([columns[k][1] == "shells" for k in recipe.kept])
    factors = [np.where(shell, details, others) for others, details in _SHRINKAGE]
    return np.unique(factors, axis=0) if shell.all() else np.array(factors)


class GeometryOperators:
    """The operators of one geometry, which give the columns of all its decorations.

    Raises
    ------
    UserError
        If a potential is requested under a boundary that is periodic along one or two vectors only, or a property that
        is not known for an element.
    """

    def __init__(self, recipe: InputRecipe, geometry: Geometry) -> None:
        self._recipe = recipe
        self._shells: csr_matrix | None = None
        if recipe.shells is not None:
            self._shells = shells.operator(recipe.shells, geometry)
        self._potential = potential_matrix(geometry) if "ewald" in recipe.names else None
        self._properties = {n: elements.values(n, recipe.elements) for n in recipe.names if n in elements.PROPERTIES}

    def columns(self, numbers: np.ndarray) -> np.ndarray:
        """Return all columns of m decorations ``numbers`` ``[m, n]``: ``[m, n, F]`` float64, not standardised."""
        recipe = self._recipe
        m, n = numbers.shape
        is_element = (numbers[..., None] == np.array(recipe.elements)).astype(np.float64)
        shares = np.broadcast_to(is_element.mean(axis=1, keepdims=True), is_element.shape)
        blocks = []
        for name in recipe.names:
            if name == "species":
                low, high = recipe.species
                blocks.append((numbers[..., None] - low) / ((high - low) or 1.0))
            elif name == "one_hot":
                blocks.append(is_element)
            elif name in self._properties:
                blocks.append((is_element @ self._properties[name])[..., None])
            elif name == "composition":
                blocks.append(shares)
            elif name == "shells" and self._shells is not None:
                flat = is_element.transpose(1, 0, 2).reshape(n, -1)
                around = (self._shells @ flat).reshape(-1, n, m, len(recipe.elements))
                blocks.append(around.transpose(2, 1, 0, 3).reshape(m, n, -1))
            elif name == "ewald" and self._potential is not None:
                potential = np.einsum("ij,mjk->mik", self._potential, is_element - shares, optimize=True)
                blocks += [potential**p for p in range(1, recipe.powers + 1)]
        columns: np.ndarray = np.concatenate(blocks, axis=2)
        return columns

    def inputs(self, numbers: np.ndarray) -> np.ndarray:
        """Return the inputs of m decorations ``numbers`` ``[m, n]`` as a model takes them: ``[m, n, F0]`` float32."""
        recipe = self._recipe
        kept = self.columns(numbers)[..., recipe.kept]
        standard: np.ndarray = ((kept - np.array(recipe.mean)) / np.array(recipe.scale)).astype(np.float32)
        return standard


def plan(
    arrays: Mapping[str, np.ndarray], required: Sequence[RequiredInput], numbers: NumberRange, cutoff: float
) -> InputRecipe:
    """Return the recipe for a data set, before :func:`write` fits it.

    Parameters
    ----------
    arrays : mapping
        The data set's arrays.
    required : sequence of RequiredInput
    numbers : NumberRange
        Least and greatest atomic number of the data set.
    cutoff : float
        Cutoff of its neighbour lists, bohr.

    Raises
    ------
    UserError
        As `shells.find`.
    """
    species = [float(numbers.minimum), float(numbers.maximum)]
    around, powers = None, 1
    for entry in required:
        powers = max(powers, entry.powers or 1)
        if entry.number is not None:
            n = len(arrays["cell"])
            geometries = (geometry_of(arrays, g) for g in range(n))
            around = shells.find(geometries, entry.number, cutoff, _shortest(arrays["edge_vectors"], cutoff))
    names = [entry.name for entry in required]
    present = compositions.elements_of(arrays["atomic_numbers"]).tolist()
    return InputRecipe(names=names, elements=present, species=species, shells=around, powers=powers)


def _shortest(vectors: np.ndarray, cutoff: float) -> float:
    blocks = (vectors[k : k + BATCH] for k in range(0, len(vectors), BATCH))
    return min((float(np.linalg.norm(b, axis=1).min()) for b in blocks), default=cutoff / 2)


def write(arrays: Mapping[str, np.ndarray], recipe: InputRecipe, path: Path) -> InputRecipe:
    """Compute the inputs of all samples into ``path`` (``.npy``, ``[A, F0]`` float32); return the fitted recipe.

    Raises
    ------
    UserError
        As :class:`GeometryOperators`.
    OSError
        If the storage is full.
    """
    raw_path = path.with_name("raw_inputs.npy")  # deleted before this returns
    raw = new_array(raw_path, (len(arrays["atomic_numbers"]), len(all_columns(recipe))))
    moments = _fill(arrays, recipe, raw)
    fitted = _choose(recipe, *moments)
    made = new_array(path, (len(raw), len(fitted.kept)))
    mean, scale = np.array(fitted.mean), np.array(fitted.scale)
    for start in range(0, len(raw), BATCH):
        block = raw[start : start + BATCH][:, fitted.kept].astype(np.float64)
        made[start : start + BATCH] = (block - mean) / scale
    raw_path.unlink()
    return fitted


def _fill(arrays: Mapping[str, np.ndarray], recipe: InputRecipe, raw: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Compute all columns, geometry by geometry; return count, sum and products over the training set's atoms."""
    width = raw.shape[1]
    n_atoms, total, products = 0, np.zeros(width), np.zeros((width, width))
    by_geometry = np.argsort(arrays["sample_geometry"], kind="stable")
    ends = np.cumsum(np.bincount(arrays["sample_geometry"], minlength=len(arrays["cell"])))
    for number, samples in enumerate(np.split(by_geometry, ends[:-1])):
        if not len(samples):
            continue
        operators = GeometryOperators(recipe, geometry_of(arrays, number))
        n = int(np.diff(arrays["geometry_atom_offsets"][number : number + 2])[0])
        for start in range(0, len(samples), max(1, BATCH // max(n, 1))):
            chosen = samples[start : start + max(1, BATCH // max(n, 1))]
            atoms = arrays["atom_offsets"][chosen][:, None] + np.arange(n)
            columns = operators.columns(np.asarray(arrays["atomic_numbers"])[atoms])
            raw[atoms] = columns
            train = columns[arrays["split"][chosen] == 0].reshape(-1, width)
            n_atoms += len(train)
            total += train.sum(axis=0)
            products += train.T @ train
    return n_atoms, total, products


def _choose(recipe: InputRecipe, n_atoms: int, total: np.ndarray, products: np.ndarray) -> InputRecipe:
    """Return the recipe with the columns that are not redundant, in order, and their means and deviations."""
    mean = total / max(n_atoms, 1)
    covariance = products / max(n_atoms, 1) - np.outer(mean, mean)
    size = products.diagonal() / max(n_atoms, 1)
    columns = all_columns(recipe)
    kept: list[int] = []
    for k, (_, owner) in enumerate(columns):
        others = [c for c in kept if columns[c][1] == owner]
        varies = covariance[k, k] > _MIN_UNEXPLAINED**2 * size[k]
        if owner == "species" or (varies and _unexplained(covariance, others, k) > _MIN_UNEXPLAINED):
            kept.append(k)
    kept = kept or [0]
    # Species keeps its scaling over the data set, which models without other inputs also receive.
    as_is = np.array([columns[k][1] == "species" for k in kept])
    deviation = np.sqrt(np.maximum(covariance.diagonal()[kept], 0))
    fitted = {
        "columns": [columns[k][0] for k in kept],
        "kept": kept,
        "mean": np.where(as_is, 0.0, mean[kept]).tolist(),
        "scale": np.where(as_is | (deviation == 0), 1.0, deviation).tolist(),
    }
    return InputRecipe(**{**dict(recipe), **fitted})


def _unexplained(covariance: np.ndarray, kept: list[int], k: int) -> float:
    """Return the share of column k's variance that the ``kept`` columns do not explain."""
    if not kept:
        return 1.0
    deviation = np.sqrt(covariance.diagonal())
    correlation = covariance[np.ix_(kept, kept)] / np.outer(deviation[kept], deviation[kept])
    with_k = covariance[kept, k] / (deviation[kept] * deviation[k])
    return float(1.0 - with_k @ np.linalg.solve(correlation, with_k))
