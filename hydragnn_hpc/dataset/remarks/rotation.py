"""Targets that rotate with the structure, such as forces, which no task of invariant values can learn.

To recognise them, a target of three components is regressed on sums of unit vectors to neighbours, one sum for each
pair of elements and range of distances, with one coefficient for all three components. This explains a part of a vector
that rotates with the structure, but nothing of three numbers that do not, or of a vector's components in a wrong order.
Tensors are regressed on traceless products of unit vectors in the same way. The regression is fitted to half of the
samples, and judged by the other half. Where it shows nothing (ideal lattices, few samples, many elements), name and
unit decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from hydragnn_hpc import compositions
from hydragnn_hpc.dataset.remarks.view import DataView, Lines, evenly

_SAMPLES, _ATOMS, _EDGES = 200, 50, 2_000_000  # examined at most: samples, atoms of each, edges of all
_RADII = 6  # ranges of distances
_TERMS = 600  # sums of directions; more take minutes and gigabytes, so that beyond ten elements name and unit decide
_EXPLAINED = 0.1  # least share of the squared values that is explained if a target rotates
_UNEXPLAINED = 0.7  # largest unexplained part, relative to that of a wrong order, where orientations are alike
_VOIGT = [0, 5, 4, 5, 1, 3, 4, 3, 2]  # ASE's xx yy zz yz xz xy as a 3 x 3 tensor
_NAMES = {
    3: re.compile(r"force|dipole|displace|velocit|momentum|gradient|polari[sz]ation|vector", re.IGNORECASE),
    6: re.compile(r"stress|virial|strain", re.IGNORECASE),
    9: re.compile(r"stress|virial|strain|tensor|polari[sz]abilit|hessian|born", re.IGNORECASE),
}
_STRESS = {"eV/Å^3", "GPa", "kbar"}
_UNITS = {3: {"eV/Å", "Ry/bohr", "Ha/bohr", "Ha/Å", "meV/Å", "D"}, 6: _STRESS, 9: _STRESS}


def rotating(data: DataView) -> Lines:
    """Targets of 3 components, or of a tensor's 6 or 9, that rotate with the structure."""
    for name, reason in reasons(data).items():
        target = data.targets[name]
        each = "atom" if target.level == "node" else "structure"
        remedy = "leave it out, or learn an invariant quantity instead"
        if target.width == 3:
            remedy = "set vector=true for its task, model.convolution=PaiNN, model.edges={number: 20}, or leave it out"
        line = (
            f"target '{name}', {target.width} components per {each}, rotates with the structure ({reason}), so that a"
            f" task of scalar values cannot learn it: {remedy}"
        )
        yield line, name


def reasons(data: DataView) -> dict[str, str]:
    """Return the targets that rotate with the structure, by name, and the evidence for it."""
    evidence = {}
    for name, target in data.targets.items():
        if target.width not in _NAMES:
            continue
        explained, shuffled = explained_share(data, name)
        if explained > _EXPLAINED and 1 - explained < _UNEXPLAINED * (1 - shuffled):
            evidence[name] = f"directions to neighbours explain {min(explained, 0.99):.0%} of its sum of squares"
        elif _NAMES[target.width].search(f"{name} {target.label}") or target.unit in _UNITS[target.width]:
            evidence[name] = "its name or unit says so"
    return evidence


def explained_share(data: DataView, name: str) -> tuple[float, float]:
    """Return the share of a target's sum of squares that directions explain; then that with its components reordered.

    Both are measured on the half of the samples that was not fitted; they are 0 where nothing can be concluded.
    """
    elements = compositions.elements_of(data.arrays["atomic_numbers"])
    if len(elements) ** 2 * _RADII > _TERMS:
        return 0.0, 0.0
    n = len(data.arrays["split"])
    edges = len(data.arrays["neighbours"]) / len(data.arrays["pos"]) * len(data.arrays["atomic_numbers"]) / n
    most = int(max(8, min(_SAMPLES, _EDGES / max(edges, 1))))
    parts = [_equations(data, name, sample, elements) for sample in evenly(n, most).tolist()]
    parts = [(terms, values) for terms, values in parts if len(values)]
    if len(parts) < 4:
        return 0.0, 0.0
    halves = [parts[::2], parts[1::2]]
    (fit_terms, fit_values), (terms, values) = (
        (np.concatenate([t for t, _ in half]), np.concatenate([v for _, v in half])) for half in halves
    )
    # A row holds an equation for each component, all with the same coefficients.
    if fit_terms.shape[1] > len(fit_values) or not fit_terms.any() or not values.any():
        return 0.0, 0.0
    width = values.shape[1]

    def share(order: np.ndarray) -> float:
        flat = fit_terms.transpose(0, 2, 1).reshape(-1, fit_terms.shape[1])
        size = np.linalg.norm(flat, axis=0)
        size[size == 0] = 1
        coefficients = np.linalg.lstsq(flat / size, fit_values[:, order].ravel(), rcond=1e-8)[0] / size
        residual = values[:, order] - np.einsum("nmw,m->nw", terms, coefficients)
        return float(1 - (residual**2).sum() / (values**2).sum())

    return share(np.arange(width)), share(np.roll(np.arange(width), 1))


def _equations(data: DataView, name: str, sample: int, elements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample's sums of directions ``[n, m, w]`` and values of the target ``[n, w]``, without missing ones.

    There is one row at graph level, and one for each of some of its atoms at node level.
    """
    target, width = data.targets[name], data.targets[name].width
    atoms = data.atoms_of(sample)
    n = atoms.stop - atoms.start
    chosen = evenly(n, _ATOMS)
    group = np.zeros(n, np.int64)  # the row to which each atom's directions are added; -1: none
    rows = np.array([sample])
    if target.level == "node":
        rows, group = atoms.start + chosen, np.full(n, -1)
        group[chosen] = np.arange(len(chosen))
    values = np.asarray(data.arrays[f"target_{name}"][rows], np.float64)
    values = values[:, _VOIGT] if width == 6 else values
    values = _traceless(values) if width > 3 else values
    known = np.isfinite(values).all(axis=1)
    return _directions(data, sample, group, elements, tensor=width > 3)[known], values[known]


def _traceless(tensors: np.ndarray) -> np.ndarray:
    """Return tensors ``[n, 9]`` without their isotropic part, which is invariant."""
    square = tensors.reshape(-1, 3, 3)
    rest: np.ndarray = square - np.einsum("nii->n", square)[:, None, None] / 3 * np.eye(3)
    return rest.reshape(-1, 9)


def _directions(data: DataView, sample: int, group: np.ndarray, elements: np.ndarray, *, tensor: bool) -> np.ndarray:
    """Return sums over each group of atoms of the directions to neighbours, ``[n, m, 3 or 9]``."""
    geometry = int(data.arrays["sample_geometry"][sample])
    graph = data.graph_of(geometry)
    element = np.searchsorted(elements, data.arrays["atomic_numbers"][data.atoms_of(sample)])
    site = np.repeat(np.arange(len(element)), np.diff(graph.offsets))
    used = group[site] >= 0
    site, other, vectors = site[used], graph.neighbours[used], graph.vectors[used]
    length = np.linalg.norm(vectors, axis=1)
    unit = vectors / length[:, None]
    along = _traceless(np.einsum("ei,ej->eij", unit, unit).reshape(-1, 9)) if tensor else unit
    kinds, n = len(elements), int(group.max()) + 1
    index = ((group[site] * kinds + element[site]) * kinds + element[other]) * _RADII
    sums = np.zeros((n * kinds**2 * _RADII, along.shape[1]))
    for k, weight in enumerate(_bumps(length, data.neighbours.cutoff_bohr)):
        sums += _sums_by(index + k, weight[:, None] * along, len(sums))
    by_pair = sums.reshape(n, kinds**2 * _RADII, -1)
    if tensor:
        return by_pair
    # Dipole moments follow from positions relative to the centre of the structure; a crystal has no centre.
    first = int(data.arrays["geometry_atom_offsets"][geometry])
    pos = data.arrays["pos"][first : first + len(element)] * (not data.arrays["cell"][geometry].any())
    grouped = group >= 0
    from_centre = _sums_by((group * kinds + element)[grouped], (pos - pos.mean(axis=0))[grouped], n * kinds)
    return np.concatenate([by_pair, from_centre.reshape(n, kinds, 3)], axis=1)


def _sums_by(index: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    """Return the sum of the ``vectors`` of each index below n."""
    return np.stack([np.bincount(index, component, n) for component in vectors.T], axis=1)


def _bumps(length: np.ndarray, cutoff: float) -> Iterator[np.ndarray]:
    """Yield the weights of lengths in each of several overlapping ranges; they vanish at the cutoff."""
    centres = np.linspace(0.35, 0.95, _RADII) * cutoff
    fade = np.clip(1 - (length / cutoff) ** 2, 0, None)
    for centre in centres:
        yield np.exp(-(((length - centre) / (0.12 * cutoff)) ** 2)) * fade
