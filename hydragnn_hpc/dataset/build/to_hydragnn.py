"""A data set in HydraGNN's format: an ADIOS2 folder with trainset, valset and testset, and a configuration beside it.

Values are scaled to [0, 1] and stored as float32, as HydraGNN does; `dataset.read.formats.hydragnn` reads them back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.atomic import new_folder, storage_errors, write_json
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.features.mapped import new_array
from hydragnn_hpc.dataset.read.formats.hydragnn import LABELS
from hydragnn_hpc.dataset.read.formats.hydragnn_features import (
    Configuration,
    DatasetSection,
    FeatureNames,
    NetworkSection,
    VariablesSection,
)
from hydragnn_hpc.dataset.store import bp5
from hydragnn_hpc.dataset.store.foreign import INDEX, pack
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.dataset import Manifest, Target

LOST = (
    "names of samples and their numbers in the source",
    "end members",
    "neighbours' cutoff (in the configuration)",
    "digits beyond float32",
)
"""What HydraGNN's data sets do not hold."""


@dataclass(frozen=True)
class _Array:
    """One tensor of every sample.

    Attributes
    ----------
    of : callable
        Returns sample k's tensor.
    dtype : str
    shape : tuple of int
        Of a tensor whose size along ``axis`` is 1.
    sizes : numpy.ndarray
        ``[S]``, each tensor's size along ``axis``, the only one along which they may differ.
    axis : int
    """

    of: Callable[[int], np.ndarray]
    dtype: str
    shape: tuple[int, ...]
    sizes: np.ndarray
    axis: int = 0


def write(bp: Path, out: Path, force: bool) -> int:
    """Write the data set ``bp`` as ``out``, and a configuration beside it (``.json``); return the number of samples.

    Raises
    ------
    UserError
        If something cannot be read or written, or lacks a value.
    """
    bp5.check_path(out)
    description = out.with_suffix(".json")
    if description == out:
        raise UserError(f"{out}: its configuration would have the same name; give a name that does not end in .json")
    for path in (out, description):
        if path.exists() and not force:
            raise UserError(f"{path} exists; give another name, or --force to replace it")
    if out.exists() and (not (out / INDEX).is_file() or (out / store.MANIFEST).exists()):
        raise UserError(f"{out} is not a data set of HydraGNN, and --force replaces nothing else; remove it by hand")
    manifest, arrays = store.read(bp)
    for name, target in manifest.targets.items():
        if target.missing:
            raise UserError(
                f"{bp}: target '{name}' lacks {target.missing:,} values, and HydraGNN's data sets have none missing;"
                " leave out the samples that lack them"
            )
    samples = _Samples(manifest, arrays)
    with storage_errors(out), tempfile.TemporaryDirectory(dir=store.folder_for(out)) as scratch:
        attributes, files = samples.lay_out(Path(scratch))
        with new_folder(out, replace=force) as folder:
            pack(folder, Path(scratch), attributes, files)
    write_json(description, _description(out.stem, manifest))
    return manifest.sizes["S"]


class _Samples:
    """Makes HydraGNN's tensors from the samples of a data set."""

    def __init__(self, manifest: Manifest, arrays: dict[str, np.ndarray]) -> None:
        self._manifest, self._a = manifest, arrays
        self._n = np.diff(arrays["atom_offsets"])
        sites = arrays["geometry_atom_offsets"]
        self._degree = np.diff(arrays["neighbour_offsets"])
        of_geometry = np.diff(arrays["neighbour_offsets"][sites])
        self._n_edges = of_geometry[arrays["sample_geometry"]]
        # The last geometry whose edges were requested, and these edges.
        self._edges: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0), np.empty(0))

    def lay_out(self, scratch: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """Write every tensor of every label into a file; return attributes, and the files by variable."""
        tensors, split = self._tensors(), self._a["split"]
        attributes: dict[str, Any] = {"total_ndata": len(split), **self._scales()}
        files: dict[str, str] = {}

        def save(name: str, array: np.ndarray) -> None:
            files[name] = f"{len(files)}.npy"
            np.save(scratch / files[name], array)

        for label, part in LABELS.items():
            chosen = np.flatnonzero(split == part)
            attributes |= {f"{label}/ndata": len(chosen), f"{label}/keys": list(tensors)}
            for key, tensor in tensors.items():
                sizes = tensor.sizes[chosen]
                # As HydraGNN does: along the axis in which samples differ, or the first.
                axis = tensor.axis if len(set(sizes.tolist())) > 1 else 0
                counts = sizes if axis == tensor.axis else np.full(len(chosen), tensor.shape[0])
                name = f"{label}/{key}"
                files[name] = f"{len(files)}.npy"
                _concatenate(scratch / files[name], tensor, chosen, counts, axis)
                save(f"{name}/variable_count", counts.astype(np.int64))
                save(f"{name}/variable_offset", (np.cumsum(counts) - counts).astype(np.int64))
                attributes[f"{name}/variable_dim"] = axis
        return attributes, files

    def _scales(self) -> dict[str, Any]:
        species, targets = self._manifest.species, self._manifest.targets.values()
        node = [(float(species.minimum), float(species.maximum))] + [_range(t) for t in targets if t.level == "node"]
        graph = [_range(t) for t in targets if t.level == "graph"]
        train = np.bincount(self._a["sample_geometry"][self._a["split"] == 0], minlength=len(self._a["cell"]))
        of_site = np.repeat(train, np.diff(self._a["geometry_atom_offsets"]))
        degrees = np.bincount(self._degree, weights=of_site).astype(np.int64)
        scales = {"minmax_node_feature": _flat(node), "pna_deg": degrees.tolist()}
        return {**scales, "minmax_graph_feature": _flat(graph)} if graph else scales

    def _tensors(self) -> dict[str, _Array]:
        a, n, one = self._a, self._n, np.ones(len(self._n), np.int64)
        targets = self._manifest.targets.values()
        widths = [np.where(t.level == "node", n, 1) * t.width for t in targets]
        tensors = {
            "x": _Array(self._x, "float32", (1, 1), n),
            "y": _Array(self._y, "float32", (1, 1), np.sum(widths, axis=0)),
            "y_loc": _Array(
                lambda k: np.cumsum([0, *(w[k] for w in widths)])[None], "int64", (1, len(widths) + 1), one
            ),
            "pos": _Array(lambda k: a["pos"][self._sites(k)], "float32", (1, 3), n),
            "edge_index": _Array(lambda k: self._edges_of(k)[0], "int64", (2, 1), self._n_edges, axis=1),
        }
        if a["periodic"].any():
            of = a["sample_geometry"]
            tensors["cell"] = _Array(lambda k: a["cell"][of[k]], "float32", (3, 3), 3 * one)
            tensors["pbc"] = _Array(lambda k: a["periodic"][of[k]], "uint8", (3,), 3 * one)
            tensors["edge_shifts"] = _Array(lambda k: self._edges_of(k)[1], "float32", (1, 3), self._n_edges)
        return tensors

    def _sites(self, k: int) -> slice:
        g = int(self._a["sample_geometry"][k])
        return slice(*self._a["geometry_atom_offsets"][g : g + 2].tolist())

    def _atoms(self, k: int) -> slice:
        return slice(*self._a["atom_offsets"][k : k + 2].tolist())

    def _x(self, k: int) -> np.ndarray:
        species = self._manifest.species
        return _scaled(self._a["atomic_numbers"][self._atoms(k)][:, None], species.minimum, species.maximum)

    def _y(self, k: int) -> np.ndarray:
        parts = []
        for name, target in self._manifest.targets.items():
            rows = self._atoms(k) if target.level == "node" else slice(k, k + 1)
            parts.append(_scaled(self._a[f"target_{name}"][rows], *_range(target)).ravel())
        return np.concatenate(parts)[:, None]

    def _edges_of(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (source and target of every edge ``[2, E]``, the lattice vectors between them ``[E, 3]``)."""
        g, sites = int(self._a["sample_geometry"][k]), self._sites(k)
        if self._edges[0] != g:
            first, last = self._a["neighbour_offsets"][[sites.start, sites.stop]].tolist()
            target = np.repeat(np.arange(sites.stop - sites.start), self._degree[sites])
            source, pos = self._a["neighbours"][first:last], self._a["pos"][sites]
            shifts = self._a["edge_vectors"][first:last] - (pos[source] - pos[target])
            self._edges = g, np.stack([source, target]), shifts
        return self._edges[1:]


def _concatenate(path: Path, tensor: _Array, chosen: np.ndarray, counts: np.ndarray, axis: int) -> None:
    """Write the tensors of the chosen samples, one after the other along ``axis``, into a ``.npy`` file."""
    shape = list(tensor.shape)
    shape[tensor.axis] = int(tensor.sizes[chosen[0]])  # the same in all samples unless it is ``axis``
    shape[axis] = int(counts.sum())
    array = new_array(path, tuple(shape), tensor.dtype)
    first = 0
    for k, count in zip(chosen.tolist(), counts.tolist(), strict=True):
        array[(slice(None),) * axis + (slice(first, first + count),)] = tensor.of(k)
        first += count


def _range(target: Target) -> tuple[float, float]:
    """Return the minimum and maximum over components: HydraGNN has one of each for a feature."""
    return min(target.minimum), max(target.maximum)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled: np.ndarray = (values - low) / ((high - low) or 1.0)
    return scaled


def _flat(ranges: list[tuple[float, float]]) -> list[float]:
    return [low for low, _ in ranges] + [high for _, high in ranges]


def _description(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return the parts of a HydraGNN configuration that describe the data; HydraGNN ignores the units in it."""
    by_level = {level: [(k, t) for k, t in manifest.targets.items() if t.level == level] for level in ("node", "graph")}
    place = {
        k: number
        for level, first in (("node", 1), ("graph", 0))
        for number, (k, _) in enumerate(by_level[level], first)
    }

    def features(level: str) -> FeatureNames:
        rows = [(k, t.width, t.unit) for k, t in by_level[level]]
        rows = [("num_of_protons", 1, ""), *rows] if level == "node" else rows
        return FeatureNames(name=[row[0] for row in rows], dim=[row[1] for row in rows], unit=[row[2] for row in rows])

    variables = VariablesSection(
        input_node_features=[0],
        output_names=list(manifest.targets),
        output_index=[place[k] for k in manifest.targets],
        type=[t.level for t in manifest.targets.values()],
    )
    dataset = DatasetSection(node_features=features("node"), graph_features=features("graph"), length_unit="bohr")
    described = Configuration(Dataset=dataset, NeuralNetwork=NetworkSection(Variables_of_interest=variables))
    content = described.model_dump(by_alias=True)
    # Keys that only HydraGNN reads.
    near = manifest.neighbours
    content["Dataset"]["name"] = name
    content["NeuralNetwork"]["Architecture"] = {
        "radius": near.cutoff_bohr,
        "periodic_boundary_conditions": near.boundary == "periodic",
    }
    return content
