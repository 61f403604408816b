"""The named parameters and buffers of one member, each in one flat vector.

A stack of E members is then two tensors, ``parameters [E, P]`` and ``buffers [E, Q]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.losses import INITIAL_NOISE
from hydragnn_hpc.member.engine.sizes import Extent, NetworkSizes

ALIGNMENT = 64
"""P is a multiple of this many numbers, so that every member's vector starts on a cache line, and so that vector
instructions handle each of its numbers alike wherever the member is in the stack."""


@dataclass(frozen=True)
class ParameterLayout:
    """Positions of a member's parameters and buffers in its flat vectors.

    Attributes
    ----------
    parameters, buffers : mapping of str to (int, tuple of int)
        Name -> (offset, shape), in PyTorch Geometric's names for PNA.
    parameter_size, buffer_size : int
        P and Q. At least one number of P is padding; padding is zero, and stays so.
    noise : mapping of str to int
        Name of a bias -> the first of its numbers that belongs to noise (`INITIAL_NOISE`).
    """

    parameters: Mapping[str, Extent]
    buffers: Mapping[str, Extent]
    parameter_size: int
    buffer_size: int
    noise: Mapping[str, int]

    @classmethod
    def of(cls, sizes: NetworkSizes) -> ParameterLayout:
        """Lay out the parameters of a network one after the other."""
        layout = cls.of_shapes(sizes.parameter_shapes(), sizes.buffer_shapes())
        noise = {f"heads.{t.name}.{len(t.hidden)}.bias": t.width for t in sizes.tasks if t.outputs > t.width}
        return replace(layout, noise=noise)

    @staticmethod
    def of_shapes(
        parameter_shapes: Mapping[str, tuple[int, ...]], buffer_shapes: Mapping[str, tuple[int, ...]]
    ) -> ParameterLayout:
        """Lay out parameters and buffers of these names and shapes one after the other."""
        parameters, used = _place(parameter_shapes)
        buffers, buffer_size = _place(buffer_shapes)
        return ParameterLayout(parameters, buffers, (used // ALIGNMENT + 1) * ALIGNMENT, buffer_size, {})

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of ``flat`` [..., P] by name, [..., *shape]."""
        return _views(flat, self.parameters, self.parameter_size)

    def named_buffers(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of ``flat`` [..., Q] by name, [..., *shape]."""
        return _views(flat, self.buffers, self.buffer_size)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Put named parameters into one vector [P].

        Raises
        ------
        UserError
            If a name is missing or a shape differs.
        """
        return _fill(tensors, self.parameters, self.parameter_size)

    def flat_buffers(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Put named buffers into one vector [Q]; errors as for `flat`."""
        return _fill(tensors, self.buffers, self.buffer_size)

    def initial_parameters(self, seed: int) -> Tensor:
        """Draw a member's initial weights, float32 [P], from its own seed.

        Linear layers are initialised as in PyTorch and PyTorch Geometric: weight and bias are uniform within
        1 / sqrt(fan-in) (He et al. 2015 with a = sqrt(5)). Batch norm starts as the identity.
        """
        generator = torch.Generator().manual_seed(seed)
        flat = torch.zeros(self.parameter_size)
        views = self.named(flat)
        for name, view in views.items():
            stem, kind = name.rsplit(".", 1)
            if stem.endswith(".norm"):
                view.fill_(1.0 if kind == "weight" else 0.0)
                continue
            bound = 1.0 / math.sqrt(views[f"{stem}.weight"].shape[1])
            view.copy_((torch.rand(view.shape, generator=generator) * 2 - 1) * bound)
        for name, first in self.noise.items():
            views[name][first:] += INITIAL_NOISE
        return flat

    def initial_buffers(self) -> Tensor:
        """Return running means of 0 and variances of 1, float32 [Q]."""
        flat = torch.zeros(self.buffer_size)
        for name, view in self.named_buffers(flat).items():
            view.fill_(1.0 if name.endswith("running_var") else 0.0)
        return flat


def _place(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Extent], int]:
    places: dict[str, Extent] = {}
    end = 0
    for name, shape in shapes.items():
        places[name] = (end, shape)
        end += math.prod(shape)
    return places, end


def _views(flat: Tensor, places: Mapping[str, Extent], size: int) -> dict[str, Tensor]:
    if flat.shape[-1] != size:
        raise UserError(
            f"a member's vector has {flat.shape[-1]} numbers, expected {size}; does it belong to another network?"
        )
    lead = flat.shape[:-1]
    return {n: flat[..., at : at + math.prod(shape)].view(*lead, *shape) for n, (at, shape) in places.items()}


def _fill(tensors: Mapping[str, Tensor], places: Mapping[str, Extent], size: int) -> Tensor:
    if missing := places.keys() - tensors.keys():
        raise UserError(f"weights lack '{min(missing)}'; do they belong to another network?")
    first = next(iter(tensors.values()))  # some networks have no buffer, but all have weights
    flat = torch.zeros(size, dtype=first.dtype)
    for name, view in _views(flat, places, size).items():
        if tensors[name].shape != view.shape:
            raise UserError(
                f"weights '{name}' have shape {tuple(tensors[name].shape)}, expected {tuple(view.shape)}; "
                "do they belong to another network?"
            )
        view.copy_(tensors[name].detach())
    return flat
