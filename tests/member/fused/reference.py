"""A random problem, and the same network as the fused engine's and as PyTorch Geometric's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch_geometric.data import Batch

from hydragnn_hpc.member.engine.sizes import Geometry, NetworkSizes, Place, TaskSizes
from hydragnn_hpc.member.fused.engine import FusedEngine
from tests.benchmarks.baseline import BaselineModel, Task, make_samples

MIXED = (TaskSizes("H", "graph", 1), TaskSizes("C", "node", 1), TaskSizes("M", "node", 1, weight=0.5))


@dataclass
class FlatTable:
    """The simplest table: parameters one after the other, padded to a multiple of 64."""

    parameters: dict[str, Place] = field(default_factory=dict)
    buffers: dict[str, Place] = field(default_factory=dict)
    parameter_size: int = 0
    buffer_size: int = 0

    @classmethod
    def of(cls, sizes: NetworkSizes) -> FlatTable:
        table = cls()
        end = 0
        for name, shape in sizes.parameter_shapes().items():
            table.parameters[name] = (end, shape)
            end += int(np.prod(shape))
        table.parameter_size = -(-end // 64) * 64
        for name, shape in sizes.buffer_shapes().items():
            table.buffers[name] = (table.buffer_size, shape)
            table.buffer_size += shape[0]
        return table


def random_geometry(rng: np.random.Generator, n: int, pairs: int) -> Geometry:
    """A symmetric multigraph: ``pairs`` random pairs, repeats and an atom with itself allowed, some atoms alone."""
    ends = rng.integers(0, n, (pairs, 2))
    receiver, sender = np.concatenate([ends, ends[:, ::-1]]).T
    order = np.argsort(receiver, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(receiver, minlength=n))])
    return Geometry(first, sender[order])


def edge_index(geometry: Geometry) -> torch.Tensor:
    """PyTorch Geometric's edges: sender, receiver."""
    receiver = np.repeat(np.arange(geometry.n_atoms), np.diff(geometry.first))
    return torch.tensor(np.stack([geometry.neighbour, receiver]), dtype=torch.long)


class Problem:
    """Random samples and E members; the engine, and one reference model a member, with the same parameters."""

    def __init__(self, sizes: NetworkSizes, geometry: Geometry, members: int = 1, **options: object) -> None:
        seed, dtype = int(str(options.get("seed", 0))), np.dtype(str(options.get("dtype", "float64")))
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        n, samples = geometry.n_atoms, int(str(options.get("samples", 80)))
        self.sizes, self.geometry, self.table = sizes, geometry, FlatTable.of(sizes)
        self.inputs = rng.integers(0, 2, (samples, n, sizes.inputs)).astype(dtype)
        self.inputs += options.get("spread", 0.1) * rng.standard_normal(self.inputs.shape).astype(dtype)
        shapes = {t.name: (samples, n, t.width) if t.level == "node" else (samples, t.width) for t in sizes.tasks}
        self.targets = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        self.engine = FusedEngine(sizes, self.table, geometry, self.inputs, self.targets)
        self.models = [self._model(rng) for _ in range(members)]
        self.parameters = self._flat("parameters", dtype)
        self.buffers = self._flat("buffers", dtype)
        self.gradients = np.full_like(self.parameters, np.nan)
        double = {name: value.astype(np.float64) for name, value in self.targets.items()}
        self.data = make_samples(edge_index(geometry), self.inputs.astype(np.float64), double)

    def _model(self, rng: np.random.Generator) -> BaselineModel:
        tasks = [Task(t.name, t.level, t.width, t.hidden, t.weight) for t in self.sizes.tasks]
        model = BaselineModel(
            self.sizes.inputs, self.sizes.channels, tasks, torch.tensor([1, 1, 1]), self.sizes.pooling
        ).double()
        for layer in model.trunk:
            aggregation = layer["conv"].aggr_module
            aggregation.avg_deg_lin.fill_(self.sizes.average_degree[0])
            aggregation.avg_deg_log.fill_(self.sizes.average_degree[1])
            with torch.no_grad():
                norm = layer["norm"]
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor += torch.tensor(0.2 * rng.random(tensor.shape))
        return model

    def _flat(self, kind: str, dtype: np.dtype) -> np.ndarray:
        size = self.table.parameter_size if kind == "parameters" else self.table.buffer_size
        flat = np.zeros((len(self.models), size))
        for e, model in enumerate(self.models):
            self.write(flat[e], kind, dict(model.state_dict()))
        return flat.astype(dtype)

    def write(self, flat: np.ndarray, kind: str, tensors: dict[str, torch.Tensor]) -> None:
        """Fill one member's flat vector."""
        for name, (offset, shape) in getattr(self.table, kind).items():
            flat[offset : offset + int(np.prod(shape))] = tensors[name].detach().numpy().ravel()

    def step(self, index: np.ndarray) -> np.ndarray:
        """The engine's step; gradients and buffers are left in this object."""
        return self.engine.step(self.parameters, self.gradients, self.buffers, index)

    def reference_step(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Losses [E, T], gradients [E, P] and buffers [E, Q] of the reference models."""
        losses, gradients = [], np.zeros(self.parameters.shape)
        for e, model in enumerate(self.models):
            model.train()
            model.zero_grad()
            errors = model.losses(Batch.from_data_list([self.data[i] for i in index[e]]))
            sum(t.weight * error for t, error in zip(self.sizes.tasks, errors, strict=True)).backward()
            losses.append([error.item() for error in errors])
            self.write(gradients[e], "parameters", {k: v.grad for k, v in model.named_parameters()})
        return np.array(losses), gradients, self._flat("buffers", np.dtype("float64"))

    def reference_predict(self, index: np.ndarray, training: bool = False) -> dict[str, np.ndarray]:
        """Values of the reference models, in evaluation or training mode, shaped as the engine's."""
        out: dict[str, list[np.ndarray]] = {t.name: [] for t in self.sizes.tasks}
        for e, model in enumerate(self.models):
            model.train(training)
            with torch.no_grad():
                values = model(Batch.from_data_list([self.data[i] for i in index[e]]))
            for task in self.sizes.tasks:
                shape = (-1, self.geometry.n_atoms, task.width) if task.level == "node" else (-1, task.width)
                out[task.name].append(values[task.name].reshape(shape).numpy())
        return {name: np.stack(values) for name, values in out.items()}

    def random_index(self, batch: int, seed: int = 1) -> np.ndarray:
        """Another draw of samples for each member."""
        rng = np.random.default_rng(seed)
        return np.stack([rng.permutation(len(self.inputs))[:batch] for _ in self.models])


def network(channels: Sequence[int] = (20, 20), tasks: Sequence[TaskSizes] = MIXED, **changes: object) -> NetworkSizes:
    """Sizes for a test."""
    return NetworkSizes(1, tuple(channels), tuple(tasks), (3.5, 1.4), **changes)  # type: ignore[arg-type]
