"""Data files as HydraGNN's own writers make them, from a data set of this program; written for the tests alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import adios2
import numpy as np
import torch
from torch_geometric.data import Data

from hydragnn_hpc.dataset import store

LABELS = ("trainset", "valset", "testset")
Sample = dict[str, np.ndarray]


def scales(bp: Path) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum, ``[2, F]`` each, of node features (atomic numbers, then targets) and of graph targets."""
    manifest, _ = store.read(bp)
    node = [(manifest.species.minimum, manifest.species.maximum)]
    node += [(t.minimum[0], t.maximum[0]) for t in manifest.targets.values() if t.level == "node"]
    graph = [(t.minimum[0], t.maximum[0]) for t in manifest.targets.values() if t.level == "graph"]
    # In one piece: ADIOS2 writes an attribute as it lies in memory.
    return np.array(node, np.float64).T.copy(), np.array(graph, np.float64).T.copy()


def samples(bp: Path, layout: str) -> dict[str, list[Sample]]:
    """The tensors of every sample, scaled, by label.

    ``layout``: ``processed`` (targets in y, with y_loc) or ``raw`` (node features in x, graph targets in y).
    """
    manifest, a = store.read(bp)
    node, graph = scales(bp)
    found: dict[str, list[Sample]] = {label: [] for label in LABELS}
    levels = {name: target.level for name, target in manifest.targets.items()}

    def scaled(values: np.ndarray, table: np.ndarray, feature: int) -> np.ndarray:
        low, high = table[:, feature]
        return ((values - low) / (high - low)).astype(np.float32)

    for k, part in enumerate(a["split"]):
        g, atoms = a["sample_geometry"][k], slice(*a["atom_offsets"][k : k + 2])
        first, last = a["geometry_atom_offsets"][g : g + 2]
        edges = [(j, i - first) for i in range(first, last)
                 for j in a["neighbours"][slice(*a["neighbour_offsets"][i : i + 2])]]  # fmt: skip
        of_atoms = [scaled(a["atomic_numbers"][atoms][:, None], node, 0)]
        of_graph = []
        for name, level in levels.items():
            if level == "node":
                of_atoms.append(scaled(a[f"target_{name}"][atoms], node, len(of_atoms)))
            else:
                of_graph.append(scaled(a[f"target_{name}"][k], graph, len(of_graph)))
        sample = {"pos": a["pos"][first:last].astype(np.float32), "edge_index": np.array(edges, np.int64).T}
        sample["edge_attr"] = np.ones((len(edges), 1), np.float32)
        if layout == "raw":
            sample |= {"x": np.concatenate(of_atoms, axis=1), "y": np.concatenate(of_graph)}
        else:
            node_values, graph_values = iter(of_atoms[1:]), iter(of_graph)
            outputs = [next(node_values if level == "node" else graph_values).ravel() for level in levels.values()]
            bounds = np.cumsum([0, *(len(o) for o in outputs)])
            sample |= {"x": of_atoms[0], "y": np.concatenate(outputs)[:, None], "y_loc": bounds[None]}
        found[LABELS[part]].append(sample)
    return found


def write_bp(path: Path, labels: dict[str, list[Sample]], attributes: dict[str, Any]) -> Path:
    """Write an ADIOS2 folder; the axis of concatenation is the one in which samples differ, or the first."""
    with adios2.Stream(str(path), "w") as stream:
        stream.begin_step()
        for label, of_label in labels.items():
            keys = list(of_label[0])
            stream.write_attribute(f"{label}/ndata", np.array(len(of_label)))
            stream.write_attribute(f"{label}/keys", keys)
            for key in keys:
                tensors = [sample[key] for sample in of_label]
                shapes = np.array([t.shape for t in tensors])
                axis = next((d for d in range(shapes.shape[1]) if len(set(shapes[:, d])) > 1), 0)
                whole = np.ascontiguousarray(np.concatenate(tensors, axis=axis))
                count = shapes[:, axis].astype(np.int64)
                offset = np.cumsum(count) - count
                for name, array in (("", whole), ("/variable_count", count), ("/variable_offset", offset)):
                    stream.write(f"{label}/{key}{name}", array, array.shape, [0] * array.ndim, array.shape)
                stream.write_attribute(f"{label}/{key}/variable_dim", np.array(axis))
        for name, value in attributes.items():
            stream.write_attribute(name, value)
        stream.end_step()
    return path


def whole_bp(path: Path, bp: Path, layout: str) -> Path:
    """Write the data set ``bp`` to ``path`` as HydraGNN's ADIOS2 writer would, with the ranges of its features."""
    node, graph = scales(bp)
    attributes = {"minmax_node_feature": node, "minmax_graph_feature": graph, "dataset_name": "fept"}
    return write_bp(path, samples(bp, layout), attributes)


def graphs(of_label: Sequence[Sample]) -> list[Data]:
    """Samples as PyTorch Geometric's objects."""
    return [Data(**{key: torch.from_numpy(np.ascontiguousarray(t)) for key, t in s.items()}) for s in of_label]


def write_pickles(folder: Path, bp: Path, layout: str) -> Path:
    """Write a file for each label: minimum and maximum (in the first alone), and a list of graphs."""
    folder.mkdir()
    both: tuple[Any, Any] = scales(bp)
    for label, of_label in samples(bp, layout).items():
        with (folder / f"fept-{label}.pkl").open("wb") as stream:
            for content in (*both, graphs(of_label)):
                pickle.dump(content, stream)
        both = (None, None)
    return folder


def write_many_pickles(folder: Path, bp: Path, layout: str) -> Path:
    """Write a file for each sample, in folders of fifty, and for each label one that describes them."""
    folder.mkdir()
    for label, of_label in samples(bp, layout).items():
        with (folder / f"{label}-meta.pkl").open("wb") as stream:
            for content in (*scales(bp), len(of_label), True, 50, {"pna_deg": [0, 1]}):
                pickle.dump(content, stream)
        for k, graph in enumerate(graphs(of_label)):
            (folder / str(k // 50)).mkdir(exist_ok=True)
            (folder / str(k // 50) / f"{label}-{k}.pkl").write_bytes(pickle.dumps(graph))
    return folder
