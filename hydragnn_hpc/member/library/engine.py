"""The engine of every convolution: PyTorch Geometric's layers and autograd, one member after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.convolutions import CONVOLUTIONS
from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import Optimizer
from hydragnn_hpc.member.engine.resident import check_batch, prediction_batch_size, resident, send, vector_lanes
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.library.convolutions import Graph
from hydragnn_hpc.member.library.network import LibraryNetwork, ModuleLayout
from hydragnn_hpc.member.library.shared import SharedGeometry


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
    shared : bool, optional
        Whether to use the form that most convolutions have for samples of one geometry; otherwise, each batch is a
        graph for PyTorch Geometric's layers. True by default where all samples share one geometry.
    """

    name = "library"
    captured = False

    def __init__(
        self,
        sizes: NetworkSizes,
        convolution: str,
        data: TrainingData,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        shared: bool | None = None,
    ) -> None:
        self.sizes, self.device, self.lanes, self._dtype = sizes, device, vector_lanes(device), dtype
        self.layout: ParameterLayout = ModuleLayout.of_module(lambda: LibraryNetwork(sizes, convolution))
        self._with_directions = CONVOLUTIONS[convolution].equivariant
        self._network = LibraryNetwork(sizes, convolution).to(device, dtype)
        self._graphs = data.graphs
        self._inputs = resident(data.inputs, device, dtype)
        self._targets = {t.name: resident(data.targets[t.name], device, dtype) for t in sizes.tasks}
        self._complete = {name: not bool(values.isnan().any()) for name, values in self._targets.items()}
        self._weights = torch.tensor([t.weight for t in sizes.tasks], dtype=dtype, device=device)
        self._parameters = list(self._network.parameters())  # in the layout's order
        self._buffers = [(name, b) for name, b in self._network.named_buffers() if name in self.layout.buffers]
        used = sum(p.numel() for p in self._parameters)
        self._loaded = (0, 0)
        self._padding = torch.zeros(self.layout.parameter_size - used, dtype=dtype, device=device)
        self._shared: SharedGeometry | None = None
        if data.graphs.shared_geometry if shared is None else shared:
            # Sites in the order of the geometry's rows: by their number of neighbours.
            self._sites = np.argsort(data.graphs.degrees(), kind="stable")
            self._shared = self._shared_geometry()

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a member's batch is one sample of one atom, which has no batch statistics.
        """
        check_batch(index, self._graphs)
        if not self._network.training:  # since `train` goes through all modules
            self._network.train()
        all_losses = []
        for e, samples in enumerate(index):
            atoms, graph = self._graph(samples)
            self._load(parameters[e], buffers[e])
            values = self._network(self._inputs.index_select(0, atoms), graph)
            losses = torch.stack([self._loss(t, values[t.name], atoms, samples) for t in self.sizes.tasks])
            self._differentiate(losses @ self._weights, gradients[e])
            all_losses.append(losses.detach())
        return torch.stack(all_losses)

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        optimizer.step(parameters, gradients, factors)

    @torch.no_grad()
    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        self._network.eval()
        size = prediction_batch_size(self._graphs, self.device)
        # Empty ones first: there may be no samples.
        none = {t.name: parameters.new_empty(0, t.outputs) for t in self.sizes.tasks}
        pieces = [[none] for _ in range(len(parameters))]
        for first in range(0, len(index), size):
            atoms, graph = self._graph(index[first : first + size])
            for e, own in enumerate(pieces):
                self._load(parameters[e], buffers[e])
                own.append(self._in_order(self._network(self._inputs.index_select(0, atoms), graph)))
        return {
            t.name: torch.stack([torch.cat([piece[t.name] for piece in own]) for own in pieces])
            for t in self.sizes.tasks
        }

    def _load(self, parameters: Tensor, buffers: Tensor) -> None:
        """Make the network use one member's [P] and [Q] without a copy: training changes the member's buffers."""
        loaded = (parameters.data_ptr(), buffers.data_ptr())
        if loaded == self._loaded:  # the network's views keep this memory, so nothing else can be there
            return
        self._loaded = loaded
        for parameter, (at, shape) in zip(self._parameters, self.layout.parameters.values(), strict=True):
            parameter.data = parameters[at : at + math.prod(shape)].view(shape)
        named = self.layout.named_buffers(buffers)
        for name, buffer in self._buffers:
            buffer.data = named[name]

    def _differentiate(self, loss: Tensor, gradient: Tensor) -> None:
        """Write the gradient of a loss to ``gradient`` [P]."""
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self._parameters, strict=True)]
        torch.cat([*(part.reshape(-1) for part in parts), self._padding], out=gradient)

    def _in_order(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the values of atoms sample after sample, from the rows of a graph."""
        if self._shared is None:
            return values
        sites, back = self._shared.sites, self._to(np.argsort(self._sites))
        return {
            t.name: v.view(sites, -1, v.shape[1])[back].transpose(0, 1).flatten(0, 1) if t.level == "node" else v
            for t, v in ((t, values[t.name]) for t in self.sizes.tasks)
        }

    def _graph(self, samples: Array) -> tuple[Tensor, Graph | SharedGeometry]:
        """Return the atoms [N] of ``samples`` [B], in the order of rows, and their graph."""
        s = self._graphs
        if self._shared:
            return self._to((samples * len(self._sites) + self._sites[:, None]).ravel()), self._shared
        sites = atoms_of(s.site_offsets, s.sample_geometry[samples])
        sizes = np.diff(s.atom_offsets)[samples]
        edges = atoms_of(s.neighbour_offsets, sites)
        degrees = s.neighbour_offsets[sites + 1] - s.neighbour_offsets[sites]
        senders = s.neighbours[edges] + np.repeat(np.repeat(np.cumsum(sizes) - sizes, sizes), degrees)
        pairs = np.stack([senders, np.repeat(np.arange(len(sites)), degrees)])
        sample = self._to(np.repeat(np.arange(len(samples)), sizes))
        graph = Graph(self._to(pairs), *self._of_edges(edges), sample, len(samples))
        return self._to(atoms_of(s.atom_offsets, samples)), graph

    def _shared_geometry(self) -> SharedGeometry:
        s, place = self._graphs, np.argsort(self._sites)
        edges = atoms_of(s.neighbour_offsets, self._sites)
        targets = np.repeat(np.arange(len(place)), s.degrees()[self._sites])
        pairs = self._to(np.stack([place[s.neighbours[edges]], targets]))
        return SharedGeometry(pairs, len(place), *self._of_edges(edges))

    def _of_edges(self, edges: Array) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return lengths [m], directions [m, 3] and features [m, K] of edges; None for those that are not used."""
        if not self.sizes.edges:
            return None, None, None
        lengths, directions = self._to(self._graphs.lengths(edges)).to(self._dtype), None
        if self._with_directions:
            directions = self._to(self._graphs.edge_vectors[edges]).to(self._dtype) / lengths[:, None]
        return lengths, directions, self.sizes.edges.of(lengths)

    def _to(self, array: Array) -> Tensor:
        return send(array, self.device)

    def _loss(self, task: TaskSizes, values: Tensor, atoms: Tensor, samples: Array) -> Tensor:
        """Return the mean loss over the values that are not missing; 0 where all are."""
        truth = self._targets[task.name].index_select(0, atoms if task.level == "node" else self._to(samples))
        mean, *noise = task.loss.split(values)
        if self._complete[task.name]:
            return task.loss.of(mean - truth, *noise).mean()
        known = ~truth.isnan()
        difference = torch.where(known, mean - torch.where(known, truth, 0), 0)
        each = task.loss.of(difference, *(torch.where(known, n, 1) for n in noise))
        return each.sum() / known.sum().clamp(min=1)
