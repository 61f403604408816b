"""The engine of every convolution: PyTorch Geometric's layers and autograd, one member after the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from hydragnn_hpc.convolutions import CONVOLUTIONS
from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import Optimizer
from hydragnn_hpc.member.engine.resident import check_statistics, resident, samples_at_once, vector_lanes
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.library.convolutions import Graph
from hydragnn_hpc.member.library.network import LibraryNetwork, ModuleLayout


class LibraryEngine:
    """Training steps and predictions of stacked members; a member's numbers are the same in any stack.

    On a GPU its last digits change from run to run: PyTorch Geometric's sums over neighbours are atomic there.

    Parameters
    ----------
    sizes : NetworkSizes
    convolution : str
    data : TrainingData
    device : torch.device
        Where inputs and targets are kept.
    dtype : torch.dtype
        float32; float64 for tests.
    """

    name = "library"

    def __init__(
        self,
        sizes: NetworkSizes,
        convolution: str,
        data: TrainingData,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sizes, self.device, self.lanes, self._dtype = sizes, device, vector_lanes(device), dtype
        self.layout: ParameterLayout = ModuleLayout.of_module(lambda: LibraryNetwork(sizes, convolution))
        self._directions_wanted = CONVOLUTIONS[convolution].equivariant
        self._network = LibraryNetwork(sizes, convolution).to(device, dtype)
        self._structure = data.structure
        self._inputs = resident(data.inputs, device, dtype)
        self._targets = {t.name: resident(data.targets[t.name], device, dtype) for t in sizes.tasks}
        self._weights = torch.tensor([t.weight for t in sizes.tasks], dtype=dtype, device=device)
        self._own = [(name, p.shape) for name, p in self._network.named_parameters()]
        used = [shape.numel() for _, shape in self._own]
        self._counts = [*used, self.layout.parameter_size - sum(used)]

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a member's batch of one sample of one atom has no batch statistics.
        """
        check_statistics(index, self._structure)
        self._network.train()
        found = []
        for e, samples in enumerate(index):
            atoms, graph = self._graph(samples)
            flat = parameters[e].detach().requires_grad_()
            values = self._call(flat, buffers[e], atoms, graph)
            losses = torch.stack([self._loss(t, values[t.name], atoms, samples) for t in self.sizes.tasks])
            gradients[e] = torch.autograd.grad(losses @ self._weights, flat)[0]
            found.append(losses.detach())
        return torch.stack(found)

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        optimizer.step(parameters, gradients, factors)

    @torch.no_grad()
    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        self._network.eval()
        chunk = samples_at_once(self._structure, self.device)
        pieces: list[list[dict[str, Tensor]]] = [[] for _ in range(len(parameters))]
        for first in range(0, len(index), chunk):
            atoms, graph = self._graph(index[first : first + chunk])
            for e, found in enumerate(pieces):
                found.append(self._call(parameters[e], buffers[e], atoms, graph))
        return {
            t.name: torch.stack([torch.cat([piece[t.name] for piece in found]) for found in pieces])
            for t in self.sizes.tasks
        }

    def _call(self, flat: Tensor, buffers: Tensor, atoms: Tensor, graph: Graph) -> dict[str, Tensor]:
        """Run the network with one member's numbers; training changes its buffers [Q] in place."""
        # One split: its backward is one concatenation, whereas that of a slice per parameter would be a full vector
        # each.
        parts = torch.split(flat, self._counts)
        named = {name: part.view(shape) for (name, shape), part in zip(self._own, parts[:-1], strict=True)}
        state = {**named, **self.layout.named_buffers(buffers)}
        values: dict[str, Tensor] = functional_call(self._network, state, (self._inputs[atoms], graph))
        return values

    def _graph(self, samples: Array) -> tuple[Tensor, Graph]:
        """Return the atoms [N] of ``samples`` [B] and their graph."""
        s = self._structure
        sites = atoms_of(s.site_offsets, s.sample_geometry[samples])
        sizes = np.diff(s.atom_offsets)[samples]
        degrees = np.diff(s.neighbour_offsets)[sites]
        edges = atoms_of(s.neighbour_offsets, sites)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        senders = s.neighbours[edges] + np.repeat(first, degrees)
        pairs = np.stack([senders, np.repeat(np.arange(len(sites)), degrees)])
        lengths = directions = None
        if self.sizes.edges:
            lengths = self._to(s.lengths(edges)).to(self._dtype)
            if self._directions_wanted:
                directions = self._to(s.edge_vectors[edges]).to(self._dtype) / lengths[:, None]
        sample = self._to(np.repeat(np.arange(len(samples)), sizes))
        graph = Graph(self._to(pairs), lengths, directions, None, sample, len(samples))
        return self._to(atoms_of(s.atom_offsets, samples)), graph

    def _to(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _loss(self, task: TaskSizes, values: Tensor, atoms: Tensor, samples: Array) -> Tensor:
        """Mean loss over the values that are not missing; 0 where all are."""
        truth = self._targets[task.name][atoms if task.level == "node" else self._to(samples)]
        known = ~truth.isnan()
        each = task.loss.of(torch.where(known, values - torch.where(known, truth, 0), 0))
        return each.sum() / known.sum().clamp(min=1)
