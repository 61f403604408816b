"""Sizes and constants of a network, and the names and shapes of its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy.typing as npt

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.losses import Loss, MeanSquaredError

Array = npt.NDArray[Any]
Extent = tuple[int, tuple[int, ...]]
"""Offset into a member's flat vector, and shape."""

POOLINGS = ("mean", "sum", "max")
LEVELS = ("node", "graph")


@dataclass(frozen=True)
class TaskSizes:
    """One head: ``level`` (node or graph), ``width`` of the property, ``hidden`` widths, ``weight`` of its ``loss``.

    ``width`` is that of the target, `outputs` that of the head. ``limits`` are those that each component is scaled by
    where the values are vectors; empty where they are scalars.
    """

    name: str
    level: str
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
    pooling : str
        ``mean``, ``sum`` or ``max``, for graph-level tasks.
    momentum, epsilon : float
        Of batch normalisation.
    edges : EdgeBasis or None
        Of the edges' features; None where edges have none.
    """

    inputs: int
    channels: tuple[int, ...]
    tasks: tuple[TaskSizes, ...]
    average_degree: tuple[float, float]
    pooling: str = "mean"
    momentum: float = 0.1
    epsilon: float = 1e-5
    edges: EdgeBasis | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise UserError(f"pooling '{self.pooling}' is unknown; choose one of: {', '.join(POOLINGS)}")
        for task in self.tasks:
            if task.level not in LEVELS:
                raise UserError(f"task '{task.name}': level '{task.level}' is unknown; choose node or graph")
        if not self.tasks or not self.channels:
            raise UserError("a network needs at least one layer and one task; add them to the campaign")

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Widths (in, out) of each layer."""
        return tuple(zip((self.inputs, *self.channels[:-1]), self.channels, strict=True))

    def linears(self, task: TaskSizes) -> tuple[tuple[int, int], ...]:
        """Return the widths (in, out) of each fully connected layer of a head."""
        widths = (self.channels[-1], *task.hidden, task.outputs)
        return tuple(pairwise(widths))

    def convolution(self, layer: int) -> str:
        """Return the prefix of the names of a convolution's parameters.

        With edge features the names are those of the library engine, so that either reads the other's files.
        """
        return f"trunk.{layer}.conv.conv" if self.edges else f"trunk.{layer}.conv"

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter of a PNA network by name; in the trunk, PyTorch Geometric's names."""
        shapes: dict[str, tuple[int, ...]] = {}
        for number, (fan_in, out) in enumerate(self.layers):
            linears = {"edge_encoder": (fan_in, self.edges.number)} if self.edges else {}
            linears["pre_nns.0.0"] = (fan_in, (3 if self.edges else 2) * fan_in)
            linears |= {"post_nns.0.0": (out, 17 * fan_in), "lin": (out, out)}
            for name, shape in linears.items():
                shapes[f"{self.convolution(number)}.{name}.weight"] = shape
                shapes[f"{self.convolution(number)}.{name}.bias"] = shape[:1]
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
