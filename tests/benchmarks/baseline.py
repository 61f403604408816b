"""Baseline A: the network and its training written plainly on PyTorch Geometric, as its tutorials do.

DataLoader, Batch, PNAConv, BatchNorm1d, Adam; nothing is tuned, nothing is slowed down. All speeds of the
project are given relative to it, and the engines' numbers are compared with it.
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
from torch_geometric.nn import PNAConv, global_add_pool, global_max_pool, global_mean_pool
from torch_geometric.utils import degree

from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.sizes import TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData

AGGREGATORS = ["mean", "min", "max", "std"]
SCALERS = ["identity", "amplification", "attenuation", "linear"]
POOL = {"mean": global_mean_pool, "sum": global_add_pool, "max": global_max_pool}


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
        self, inputs: int, channels: Sequence[int], tasks: Sequence[Task], degrees: Tensor, pooling: str = "mean"
    ) -> None:
        super().__init__()
        self.tasks, self.pool = tuple(tasks), POOL[pooling]
        self.trunk = nn.ModuleList()
        for fan_in, out in zip((inputs, *channels[:-1]), channels, strict=True):
            conv = PNAConv(fan_in, out, AGGREGATORS, SCALERS, degrees)
            self.trunk.append(nn.ModuleDict({"conv": conv, "norm": nn.BatchNorm1d(out)}))
        self.heads = nn.ModuleDict()
        for task in self.tasks:
            widths = (channels[-1], *task.hidden, task.width)
            pairs = pairwise(widths)
            self.heads[task.name] = nn.ModuleList(nn.Linear(*pair) for pair in pairs)

    def forward(self, batch: Data) -> dict[str, Tensor]:
        """Values of every task: [atoms of the batch, d] or [samples, d]."""
        x = batch.x
        for layer in self.trunk:
            x = layer["norm"](layer["conv"](x, batch.edge_index)).relu()
        values = {}
        for task in self.tasks:
            y = x if task.level == "node" else self.pool(x, batch.batch)
            *hidden, last = self.heads[task.name]
            for linear in hidden:
                y = linear(y).relu()
            values[task.name] = last(y)
        return values

    def losses(self, batch: Data) -> list[Tensor]:
        """Mean squared error of each task, not weighted."""
        values = self(batch)
        return [nn.functional.mse_loss(values[task.name], batch[f"y_{task.name}"]) for task in self.tasks]


def make_samples(edge_index: Tensor, inputs: np.ndarray, targets: dict[str, np.ndarray]) -> list[Data]:
    """One ``Data`` per sample; ``inputs`` [S, n, F0], targets [S, n, d] or, at graph level, [S, d]."""
    samples = []
    for number, x in enumerate(inputs):
        data = Data(x=torch.tensor(x), edge_index=edge_index)
        for name, values in targets.items():
            value = torch.tensor(values[number])
            data[f"y_{name}"] = value if value.ndim == 2 else value[None]
        samples.append(data)
    return samples


def train_epoch(model: BaselineModel, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    """One epoch; returns the mean loss over batches."""
    model.train()
    total = 0.0
    for batch in loader:
        optimizer.zero_grad()
        loss = sum(t.weight * error for t, error in zip(model.tasks, model.losses(batch), strict=True))
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def epoch_of(
    samples: TrainingData, channels: Sequence[int], tasks: Sequence[TaskSizes], batch: int
) -> Callable[[], object]:
    """An epoch of the baseline over ``samples``."""
    data = [graph_of(samples, number, tasks) for number in range(len(samples.structure.sample_geometry))]
    degrees = torch.cat([degree(d.edge_index[1], d.num_nodes, torch.long) for d in data])
    named = [Task(t.name, t.level, t.width, t.hidden, t.weight) for t in tasks]
    model = BaselineModel(samples.inputs.shape[1], channels, named, torch.bincount(degrees))
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return lambda: train_epoch(model, loader, optimizer)


def graph_of(samples: TrainingData, number: int, tasks: Sequence[TaskSizes]) -> Data:
    """One sample as the library's ``Data``."""
    s = samples.structure
    site = int(s.site_offsets[s.sample_geometry[number]])
    atoms = atoms_of(s.atom_offsets, np.array([number]))
    first = s.neighbour_offsets[site : site + len(atoms) + 1]
    receiver = np.repeat(np.arange(len(atoms)), np.diff(first))
    edges = np.stack([s.neighbours[first[0] : first[-1]], receiver])
    data = Data(x=torch.tensor(samples.inputs[atoms]), edge_index=torch.tensor(edges, dtype=torch.long))
    for task in tasks:
        rows = atoms if task.level == "node" else np.array([number])
        data[f"y_{task.name}"] = torch.tensor(samples.targets[task.name][rows])
    return data
