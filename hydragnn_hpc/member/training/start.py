"""A member's weights before its first epoch where it starts from another's, and the parts of it that are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.training.checkpoint import TrainedModel, read_model
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.sections import Start
from hydragnn_hpc.starts import check_unchanged


def read_source(start: Start, replica: int) -> TrainedModel:
    """Read the model of the source's member with the same number.

    Raises
    ------
    UserError
        If it cannot be read, or the source is no longer the one that the campaign began with.
    """
    remedy = "restore it, or start from another campaign"
    model = read_model(CampaignFolder(Path(start.folder)).member(start.variant, replica), remedy)
    check_unchanged(start)  # after reading: a campaign's file changes before its members do
    return model


def with_degree(data: TrainingData, start: Start | None) -> TrainingData:
    """Return the data with the mean degree that PNA's trunk was trained with, which is the same for all replicas."""
    if start is None or "trunk" not in start.named(()):
        return data
    linear, logarithmic = read_source(start, 0).facts.average_degree
    return replace(data, source_degree=(linear, logarithmic))


def initialise(
    layout: ParameterLayout, start: Start, replica: int, tensors: tuple[torch.Tensor, torch.Tensor], parts: list[str]
) -> None:
    """Copy the source's weights of some ``parts`` into a member's parameters ``[P]`` and buffers ``[Q]``.

    Raises
    ------
    UserError
        If one is missing there, or has another shape.
    """
    weights = read_source(start, replica).weights
    for views in (layout.named(tensors[0]), layout.named_buffers(tensors[1])):
        for name in _of_parts(views, parts):
            given = weights.get(name)
            if given is None or given.shape != views[name].shape:
                actual = "missing" if given is None else f"of shape {tuple(given.shape)}"
                raise UserError(
                    f"start.from={start.folder}: '{name}' of {start.variant}/{replica:02d} is {actual}, expected"
                    f" {tuple(views[name].shape)}; set start.parts"
                )
            views[name].copy_(given)


def _of_parts(names: Mapping[str, object], parts: list[str]) -> list[str]:
    prefixes = tuple("trunk." if part == "trunk" else f"heads.{part}." for part in parts)
    return [name for name in names if name.startswith(prefixes)]


@dataclass(frozen=True)
class FrozenParts:
    """Ranges of a member's numbers that training leaves as they are, with the running statistics of batch norms.

    Attributes
    ----------
    parameters, buffers : list of (int, int)
        Half-open ranges of columns.
    """

    parameters: list[tuple[int, int]]
    buffers: list[tuple[int, int]]

    @classmethod
    def of(cls, layout: ParameterLayout, parts: list[str]) -> FrozenParts:
        """Return the ranges of some parts."""
        return cls(_ranges(layout.parameters, parts), _ranges(layout.buffers, parts))

    def copies(self, parameters: torch.Tensor, buffers: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the frozen columns of ``[E, P]`` and ``[E, Q]``, each with a copy of what they hold."""
        views = [parameters[:, a:b] for a, b in self.parameters] + [buffers[:, a:b] for a, b in self.buffers]
        return [(view, view.clone()) for view in views]


def _ranges(places: Mapping[str, tuple[int, tuple[int, ...]]], parts: list[str]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for name in _of_parts(places, parts):
        at, shape = places[name]
        end = at + torch.Size(shape).numel()
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((at, end))
    return ranges
