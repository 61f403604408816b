"""Baseline A: the network and its training written plainly on PyTorch Geometric, as its tutorials do.

DataLoader, Batch, PNAConv, BatchNorm1d, Adam; nothing is tuned, nothing is slowed down. It is what every speed of the
project is a multiple of, and what the engines' numbers are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import PNAConv, global_add_pool, global_max_pool, global_mean_pool

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
