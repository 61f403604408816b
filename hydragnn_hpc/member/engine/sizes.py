"""Sizes and constants of a network, and the names and shapes of its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy.typing as npt

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.losses import Loss, MeanSquaredError
from hydragnn_hpc.records.base import Level

Array = npt.NDArray[Any]
Extent = tuple[int, tuple[int, ...]]
"""Offset into a member's flat vector, and shape."""

PoolingName = Literal["mean", "sum", "max"]
POOLINGS: tuple[PoolingName, ...] = get_args(PoolingName)

AGGREGATES = 4
"""Of PNA: mean, minimum, maximum and standard deviation over neighbours."""
SCALERS = 4
"""Of PNA: see `hydragnn_hpc.member.engine.degrees`."""


@dataclass(frozen=True)
class TaskSizes:
    """A task and its head.

    Attributes
    ----------
    name : str
    level : {"node", "graph"}
    width : int
        Width d of the target; that of the head is `outputs`.
    hidden : tuple of int
        Widths of the head's hidden layers.
    weight : float
        Of the task in the weighted loss.
    loss : Loss
    limits : tuple of (float, float)
        The minimum and maximum by which each component of a vector task was scaled; empty for other tasks.
    """

    name: str
    level: Level
    width: int
    hidden: tuple[int, ...] = (50, 25)
    weight: float = 1.0
    loss: Loss = field(default_factory=MeanSquaredError)
    limits: tuple[tuple[float, float], ...] = ()

    @property
    def outputs(self) -> int:
        """Width of the head's output: the target's mean and, for some losses, as many columns of noise (`Loss`)."""
        return self.width * self.loss.outputs


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes and constants of a network.

    Attributes
    ----------
    inputs : int
        Width F0 of the node inputs.
    channels : tuple of int
        Width of the output of each layer of the trunk.
    tasks : tuple of TaskSizes
    average_degree : (float, float)
        PNA's mean degree, and mean of log(degree + 1), over the atoms of the training set.
    pooling : {"mean", "sum", "max"}
        How graph-level tasks combine the features of atoms.
    momentum, epsilon : float
        Of batch normalisation.
    edges : EdgeBasis or None
        The features of edges; None where edges have none.
    """

    inputs: int
    channels: tuple[int, ...]
    tasks: tuple[TaskSizes, ...]
    average_degree: tuple[float, float]
    pooling: PoolingName = "mean"
    momentum: float = 0.1
    epsilon: float = 1e-5
    edges: EdgeBasis | None = None

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Widths (in, out) of each layer of the trunk."""
        return tuple(zip((self.inputs, *self.channels[:-1]), self.channels, strict=True))

    def linears(self, task: TaskSizes) -> tuple[tuple[int, int], ...]:
        """Return the widths (in, out) of each fully connected layer of a head."""
        widths = (self.channels[-1], *task.hidden, task.outputs)
        return tuple(pairwise(widths))

    def convolution_prefix(self, layer: int) -> str:
        """Return the prefix of the names of a convolution's parameters, without the last dot.

        With edge features the names are those of the library engine, so that either reads the other's files.
        """
        return f"trunk.{layer}.conv.conv" if self.edges else f"trunk.{layer}.conv"

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter of a PNA network by name; in the trunk, PyTorch Geometric's names."""
        shapes: dict[str, tuple[int, ...]] = {}
        for number, (fan_in, out) in enumerate(self.layers):
            linears = {"edge_encoder": (fan_in, self.edges.number)} if self.edges else {}
            # The message is of an atom, its neighbour and, with edge features, the edge.
            linears["pre_nns.0.0"] = (fan_in, (3 if self.edges else 2) * fan_in)
            linears |= {"post_nns.0.0": (out, (1 + SCALERS * AGGREGATES) * fan_in), "lin": (out, out)}
            for name, shape in linears.items():
                shapes[f"{self.convolution_prefix(number)}.{name}.weight"] = shape
                shapes[f"{self.convolution_prefix(number)}.{name}.bias"] = shape[:1]
            shapes[f"trunk.{number}.norm.weight"] = shapes[f"trunk.{number}.norm.bias"] = (out,)
        for task in self.tasks:
            for number, (fan_in, out) in enumerate(self.linears(task)):
                shapes[f"heads.{task.name}.{number}.weight"] = (out, fan_in)
                shapes[f"heads.{task.name}.{number}.bias"] = (out,)
        return shapes

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every buffer by name."""
        return {
            f"trunk.{number}.norm.{name}": (out,)
            for number, out in enumerate(self.channels)
            for name in ("running_mean", "running_var")
        }
