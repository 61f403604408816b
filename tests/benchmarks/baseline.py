"""Baseline A: the network and its training written plainly on PyTorch Geometric, as its tutorials do.

DataLoader, Batch, PNAConv, BatchNorm1d, Adam; nothing is tuned, nothing is slowed down. The engines' speeds are given
relative to it, and their accuracy is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import PNAConv, global_mean_pool
from torch_geometric.utils import degree

from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.library.convolutions import Graph
from hydragnn_hpc.member.library.network import LibraryNetwork
from tests.benchmarks.cases import RATE

CPU = torch.device("cpu")
AGGREGATORS = ["mean", "min", "max", "std"]
SCALERS = ["identity", "amplification", "attenuation", "linear"]


@dataclass(frozen=True)
class Task:
    """A property: its name, level (``node`` or ``graph``), width, the hidden widths of its head, and its weight."""

    name: str
    level: str
    width: int = 1
    hidden: tuple[int, ...] = (50, 25)
    weight: float = 1.0


class BaselineModel(nn.Module):
    """PNA trunk with batch norm and ReLU, and one fully connected head per task."""

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        tasks: Sequence[Task],
        degrees: Tensor,
        edge_features: int | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.trunk = nn.ModuleList()
        for fan_in, out in zip((inputs, *channels[:-1]), channels, strict=True):
            conv = PNAConv(fan_in, out, AGGREGATORS, SCALERS, degrees, edge_dim=edge_features)
            self.trunk.append(nn.ModuleDict({"conv": conv, "norm": nn.BatchNorm1d(out)}))
        self.heads = nn.ModuleDict()
        for task in self.tasks:
            widths = (channels[-1], *task.hidden, task.width)
            self.heads[task.name] = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, batch: Data) -> dict[str, Tensor]:
        """Values of every task: [atoms of the batch, d] or [samples, d]."""
        x = batch.x
        for layer in self.trunk:
            x = layer["norm"](layer["conv"](x, batch.edge_index, batch.edge_attr)).relu()
        values = {}
        for task in self.tasks:
            y = x if task.level == "node" else global_mean_pool(x, batch.batch)
            *hidden, last = self.heads[task.name]
            for linear in hidden:
                y = linear(y).relu()
            values[task.name] = last(y)
        return values

    def losses(self, batch: Data) -> list[Tensor]:
        """Mean squared error of each task, not weighted."""
        values = self(batch)
        return [nn.functional.mse_loss(values[task.name], batch[f"y_{task.name}"]) for task in self.tasks]


def train_epoch(model: BaselineModel, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    """Train one epoch; return the mean loss over batches."""
    model.train()
    total = 0.0
    device = next(model.parameters()).device
    for batch in loader:
        optimizer.zero_grad()
        losses = model.losses(batch.to(device))
        loss = sum(t.weight * error for t, error in zip(model.tasks, losses, strict=True))
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def epoch_of(
    samples: TrainingData, sizes: NetworkSizes, batch: int, device: torch.device = CPU
) -> Callable[[], object]:
    """An epoch of the baseline over ``samples``."""
    data, model = graphs_and_model(samples, sizes)
    model = model.to(device)
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    return lambda: train_epoch(model, loader, optimizer)


def graphs_and_model(samples: TrainingData, sizes: NetworkSizes) -> tuple[list[Data], BaselineModel]:
    """All samples, and a new model for them."""
    numbers = range(len(samples.graphs.sample_geometry))
    data = [graph_of(samples, number, sizes.tasks, sizes.edges) for number in numbers]
    degrees = torch.cat([degree(d.edge_index[1], d.num_nodes, torch.long) for d in data])
    named = [Task(t.name, t.level, t.width, t.hidden, t.weight) for t in sizes.tasks]
    features = sizes.edges.number if sizes.edges else None
    return data, BaselineModel(sizes.inputs, sizes.channels, named, torch.bincount(degrees), features)


def library_epoch_of(samples: TrainingData, sizes: NetworkSizes, convolution: str, batch: int) -> Callable[[], object]:
    """An epoch of the same training with another convolution, in the network of the library engine."""
    s, lengths, directions = samples.graphs, None, None
    data = [graph_of(samples, number, sizes.tasks, sizes.edges) for number in range(len(s.sample_geometry))]
    if sizes.edges:
        lengths = torch.tensor(s.lengths(), dtype=torch.float32)
        directions = torch.tensor(s.edge_vectors, dtype=torch.float32) / lengths[:, None]
        for graph in data:  # of one geometry
            graph.lengths, graph.directions = lengths, directions
    model = LibraryNetwork(sizes, convolution).train()
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def epoch() -> None:
        for b in loader:
            optimizer.zero_grad()
            of_edges = (b.lengths, b.directions, b.edge_attr) if sizes.edges else (None, None, None)
            values = model(b.x, Graph(b.edge_index, *of_edges, b.batch, b.num_graphs))
            errors = (t.weight * nn.functional.mse_loss(values[t.name], b[f"y_{t.name}"]) for t in sizes.tasks)
            torch.stack([*errors]).sum().backward()
            optimizer.step()

    return epoch


def graph_of(samples: TrainingData, number: int, tasks: Sequence[TaskSizes], edges: EdgeBasis | None = None) -> Data:
    """One sample as PyTorch Geometric's ``Data``; the features of its edges are computed once."""
    s = samples.graphs
    site = int(s.site_offsets[s.sample_geometry[number]])
    atoms = atoms_of(s.atom_offsets, np.array([number]))
    first = s.neighbour_offsets[site : site + len(atoms) + 1]
    receiver = np.repeat(np.arange(len(atoms)), np.diff(first))
    own = slice(first[0], first[-1])
    data = Data(
        x=torch.tensor(samples.inputs[atoms]),
        edge_index=torch.tensor(np.stack([s.neighbours[own], receiver]), dtype=torch.long),
    )
    if edges:
        data.edge_attr = edges.of(torch.tensor(s.lengths(own), dtype=torch.float32))
    for task in tasks:
        rows = atoms if task.level == "node" else np.array([number])
        data[f"y_{task.name}"] = torch.tensor(samples.targets[task.name][rows])
    return data
