"""Random graphs as samples, and the same network built on PyTorch Geometric's own layers."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.nn import PNAConv

from hydragnn_hpc.member.engine.layout import ParameterLayout, pna_state
from hydragnn_hpc.member.engine.sizes import NetworkSizes
from hydragnn_hpc.member.engine.training_data import Samples, Structure


def random_symmetric(rng: np.random.Generator, n: int, pairs: int, loops: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A random symmetric multigraph as (offsets, neighbours); pairs may repeat, sites may be isolated."""
    ends = rng.integers(0, n, (pairs, 2))
    if not loops:
        ends = ends[ends[:, 0] != ends[:, 1]]
    both = np.concatenate([ends, ends[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=n))]).astype(np.int64)
    return offsets, both[:, 1].astype(np.int32)


def make_samples(
    rng: np.random.Generator, sizes: list[int], n_samples: int, tasks: dict[str, tuple[str, int]]
) -> Samples:
    """Samples over one geometry for each of ``sizes``; inputs are 0 or 1, so that neighbours tie all the time."""
    lists = [random_symmetric(rng, n, int(rng.integers(0, 4 * n))) for n in sizes]
    geometry = rng.integers(0, len(sizes), n_samples).astype(np.int32)
    counts = np.array(sizes)[geometry]
    atom_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    degrees = np.concatenate([np.diff(offsets) for offsets, _ in lists])
    structure = Structure(
        atom_offsets,
        geometry,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64),
        np.concatenate([neighbours for _, neighbours in lists]),
    )
    rows = {"node": int(atom_offsets[-1]), "graph": n_samples}
    return Samples(
        structure,
        rng.integers(0, 2, (int(atom_offsets[-1]), 1)).astype(np.float64),
        {name: rng.normal(size=(rows[level], width)) for name, (level, width) in tasks.items()},
        {name: level for name, (level, _) in tasks.items()},
        tuple(np.arange(n_samples)[k::3] for k in range(3)),  # type: ignore[arg-type]
    )


class Reference(torch.nn.Module):
    """The same network from PyTorch Geometric's and torch's own layers, float64, one member."""

    def __init__(self, sizes: NetworkSizes, layout: ParameterLayout, parameters: torch.Tensor) -> None:
        super().__init__()
        self.sizes = sizes
        self.convolutions, self.norms = torch.nn.ModuleList(), torch.nn.ModuleList()
        for layer, (fan_in, out) in enumerate(sizes.layers):
            convolution = PNAConv(
                fan_in,
                out,
                ["mean", "min", "max", "std"],
                ["identity", "amplification", "attenuation", "linear"],
                torch.tensor([1, 1]),
            ).double()
            convolution.load_state_dict(pna_state(layout, parameters, layer, sizes.average_degree))
            norm = torch.nn.BatchNorm1d(out).double()
            norm.load_state_dict(layout.module_state(parameters, f"trunk.{layer}.norm"), strict=False)
            self.convolutions.append(convolution)
            self.norms.append(norm)
        self.heads = torch.nn.ModuleDict()
        for task in sizes.tasks:
            layers: list[torch.nn.Module] = []
            for k, (fan_in, out) in enumerate(sizes.linears(task)):
                linear = torch.nn.Linear(fan_in, out).double()
                linear.load_state_dict(layout.module_state(parameters, f"heads.{task.name}.{k}"))
                layers += [linear, torch.nn.ReLU()]
            self.heads[task.name] = torch.nn.Sequential(*layers[:-1])

    def forward(self, samples: Samples, index: np.ndarray) -> dict[str, torch.Tensor]:
        """Predictions for the samples ``index`` [B]: concatenated atoms, or one row a sample."""
        s = samples.structure
        inputs, edges, sample_of = [], [], []
        first = 0
        for position, k in enumerate(index.tolist()):
            atoms = slice(s.atom_offsets[k], s.atom_offsets[k + 1])
            sites = range(s.site_offsets[s.sample_geometry[k]], s.site_offsets[s.sample_geometry[k] + 1])
            inputs.append(torch.from_numpy(samples.inputs[atoms]))
            for i, site in enumerate(sites):
                for j in s.neighbours[s.neighbour_offsets[site] : s.neighbour_offsets[site + 1]].tolist():
                    edges.append((first + j, first + i))
            sample_of += [position] * len(sites)
            first += len(sites)
        x = torch.cat(inputs)
        edge_index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x, edge_index)))
        batch = torch.tensor(sample_of)
        pooled = torch.stack([getattr(x[batch == k], _POOL[self.sizes.pooling])(0) for k in range(len(index))])
        return {t.name: self.heads[t.name](pooled if t.level == "graph" else x) for t in self.sizes.tasks}


_POOL = {"mean": "mean", "sum": "sum", "max": "amax"}
