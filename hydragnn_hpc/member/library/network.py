"""Networks with any convolution as one module: trunk, pooling, heads; and their layout in a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import global_add_pool, global_max_pool, global_mean_pool

from hydragnn_hpc.convolutions import CONVOLUTIONS
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.losses import INITIAL_NOISE
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes, build
from hydragnn_hpc.member.library.shared import SharedGeometry, linear

_POOL = {"mean": global_mean_pool, "sum": global_add_pool, "max": global_max_pool}


class LibraryNetwork(nn.Module):
    """A trunk of layers, and a head for each task.

    A layer is a convolution, batch normalisation and ReLU. An equivariant convolution stands alone: it adds to its
    input, and has activations of its own.
    """

    def __init__(self, sizes: NetworkSizes, convolution: str) -> None:
        super().__init__()
        self.sizes = sizes
        features, cutoff = (sizes.edges.number, sizes.edges.cutoff) if sizes.edges else (0, 0.0)
        self.trunk = nn.ModuleList()
        for fan_in, out in sizes.layers:
            layer = LayerSizes(fan_in, out, features, cutoff, sizes.average_degree)
            if CONVOLUTIONS[convolution].equivariant:
                self.trunk.append(_EquivariantLayer(build(convolution, layer)))
                continue
            norm = nn.BatchNorm1d(out, eps=sizes.epsilon, momentum=sizes.momentum)
            norm.num_batches_tracked = None  # not used here
            self.trunk.append(_TrunkLayer(build(convolution, layer), norm))
        # In a list: a task's name may not be valid for a module.
        self.heads = nn.ModuleList(
            _VectorHead(sizes.linears(task), task.limits) if task.limits else _Head(sizes.linears(task), task.width)
            for task in sizes.tasks
        )

    def forward(self, x: Tensor, graph: Graph | SharedGeometry) -> dict[str, Tensor]:
        """Return the values of every task, [N, outputs], or [B, outputs] at graph level, from inputs ``x`` [N, F0]."""
        if isinstance(graph, SharedGeometry):
            return self._over_shared(x.t().contiguous(), graph)
        vectors = None
        for layer in self.trunk:
            x, vectors = layer(x, vectors, graph)

        def pooled(task: TaskSizes, values: Tensor) -> Tensor:
            if task.level == "node":
                return values
            by_sample: Tensor = _POOL[self.sizes.pooling](values, graph.sample, graph.samples)
            return by_sample

        values = {}
        for task, head in zip(self.sizes.tasks, self.heads, strict=True):
            if isinstance(head, _VectorHead):
                values[task.name] = head.scaled(pooled(task, head(x, vectors)))
            else:
                values[task.name] = head(pooled(task, x))
        return values

    def _over_shared(self, x: Tensor, geometry: SharedGeometry) -> dict[str, Tensor]:
        """Do the same from columns ``x`` [F0, n * B]; rows of values are site after site."""
        vectors: Tensor | None = None
        for layer in self.trunk:
            x, vectors = layer(x, vectors, geometry)

        def pooled(task: TaskSizes, values: Tensor) -> Tensor:
            by_site = values.view(len(values), geometry.sites, -1)
            return values if task.level == "node" else _pooled(by_site, self.sizes.pooling)

        values = {}
        for task, head in zip(self.sizes.tasks, self.heads, strict=True):
            assert isinstance(head, _Head)
            if isinstance(head, _VectorHead):
                assert vectors is not None
                values[task.name] = head.scaled(pooled(task, head.over_shared(x, vectors)).t())
            else:
                values[task.name] = head.of_columns(pooled(task, x)).t()
        return values

    def named(self) -> dict[str, Tensor]:
        """Return the parameters in this module's order; heads and norms have the same names in every engine."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            part, number, rest = name.split(".", 2)
            tensors[f"heads.{self.sizes.tasks[int(number)].name}.{rest}" if part == "heads" else name] = parameter
        return tensors


def _pooled(values: Tensor, how: str) -> Tensor:
    """Pool values [F, n, B] over sites; return [F, B]."""
    if how == "max":
        return values.amax(1)
    return values.mean(1) if how == "mean" else values.sum(1)


class _TrunkLayer(nn.Module):
    conv: Any

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor, vectors: None, graph: Graph | SharedGeometry) -> tuple[Tensor, None]:
        if isinstance(graph, Graph):
            return self.norm(self.conv(x, graph)).relu(), vectors
        if hasattr(self.conv, "over_shared"):
            out = self.conv.over_shared(x, graph)
        else:
            out = self.conv(x.t(), graph.graph(x.shape[1] // graph.sites)).t()
        return self.norm(out[None])[0].relu_(), vectors


class _EquivariantLayer(nn.Module):
    conv: Any

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, vectors: Tensor | None, graph: Graph | SharedGeometry) -> tuple[Tensor, Tensor]:
        apply = self.conv if isinstance(graph, Graph) else self.conv.over_shared
        out: tuple[Tensor, Tensor] = apply(x, vectors, graph)
        return out


class _Head(nn.ModuleList):
    def __init__(self, widths: Sequence[tuple[int, int]], width: int | None = None) -> None:
        """Outputs beyond the target's ``width`` are its noise."""
        layers = [nn.Linear(*pair) for pair in widths]
        if width is not None:
            layers[-1].bias.data[width:] += INITIAL_NOISE
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self):
            x = layer(x if number == 0 else x.relu())
        return x

    def of_columns(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self):
            x = linear(layer, x if number == 0 else x.relu_())
        return x


class _VectorHead(_Head):
    """Vectors as sums of an atom's vectors, each times a factor computed from the atom's scalars."""

    factors: Tensor
    offsets: Tensor

    def __init__(self, widths: Sequence[tuple[int, int]], limits: Sequence[tuple[float, float]]) -> None:
        channels, (last, width) = widths[0][0], widths[-1]
        super().__init__((*widths[:-1], (last, channels * (width // 3))))
        self.number = width // 3
        low, high = torch.tensor(limits, dtype=torch.float64).T
        # A target's components are scaled by limits of their own, after which they no longer rotate like a vector. So
        # the head's values are in a unit that all components share, and `scaled` then scales them like the target.
        self.register_buffer("factors", (high - low).mean() / (high - low), persistent=False)
        self.register_buffer("offsets", -low / (high - low), persistent=False)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:  # type: ignore[override]
        """Return vectors [N, 3 n], to be scaled by `scaled`, from scalars [N, F] and vectors [N, 3, F]."""
        gates = super().forward(x).view(len(x), -1, self.number)
        return torch.einsum("ncf,nfk->nkc", vectors, gates).reshape(len(x), -1)

    def over_shared(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Do the same from scalars [F, N] and vectors [3, F, N]; return [3 n, N]."""
        gates = self.of_columns(x).view(len(x), self.number, -1)
        return (vectors[:, :, None] * gates).sum(1).transpose(0, 1).flatten(0, 1)

    def scaled(self, values: Tensor) -> Tensor:
        """Scale vectors as the data set scales their components."""
        return values * self.factors + self.offsets


@dataclass(frozen=True)
class ModuleLayout(ParameterLayout):
    """The layout of a module's numbers; initial weights are the module's own.

    Attributes
    ----------
    make : callable
        Makes the module; initial weights are drawn from torch's global generator.
    """

    make: Callable[[], LibraryNetwork]

    @classmethod
    def of_module(cls, make: Callable[[], LibraryNetwork]) -> ModuleLayout:
        """Lay out the module that ``make`` returns: its parameters, and the running statistics of its batch norms."""
        module = make()
        parameters = {name: tuple(p.shape) for name, p in module.named().items()}
        buffers = {name: tuple(b.shape) for name, b in module.named_buffers() if ".norm.running_" in name}
        return cls(**vars(ParameterLayout.of_shapes(parameters, buffers)), make=make)

    def initial_parameters(self, seed: int) -> Tensor:
        """Draw a member's initial weights, float32 [P], from its own seed, as the library draws them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.flat(self.make().named())
