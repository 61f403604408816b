"""Members that start from another campaign's: their weights before the first epoch, and the parts that are frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import Extent
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.training.checkpoint import TrainedModel, read_model
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.sections import Start
from hydragnn_hpc.starts import check_unchanged


def read_source(start: Start, replica: int) -> TrainedModel:
    """Read the model of the source's member with the same replica number.

    Raises
    ------
    UserError
        If the model cannot be read, or the source is no longer the one that the campaign began with.
    """
    remedy = "restore it, or start from another campaign"
    model = read_model(CampaignFolder(Path(start.folder)).member(start.variant, replica), remedy)
    check_unchanged(start)  # after reading: a campaign's file changes before its members do
    return model


def with_degree(data: TrainingData, start: Start | None) -> TrainingData:
    """Return the data with the average degree that the source's trunk was trained with, if members take it over."""
    if start is None or "trunk" not in start.parts_for(()):
        return data
    linear, logarithmic = read_source(start, 0).facts.average_degree  # the same for all replicas
    return replace(data, source_degree=(linear, logarithmic))


def initialise(
    layout: ParameterLayout, start: Start, replica: int, tensors: tuple[torch.Tensor, torch.Tensor], parts: list[str]
) -> None:
    """Copy the source's weights of ``parts`` into a member's ``tensors``: parameters ``[P]`` and buffers ``[Q]``.

    Raises
    ------
    UserError
        If the source lacks one of these weights, or its shape differs.
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
    # The name of a task may contain dots; after it come the number of a layer and the kind of its numbers.
    heads = {f"heads.{part}" for part in parts}
    return [n for n in names if n.rsplit(".", 2)[0] in heads or ("trunk" in parts and n.startswith("trunk."))]


@dataclass(frozen=True)
class FrozenParts:
    """Ranges of a member's parameters and buffers that training leaves unchanged.

    Attributes
    ----------
    parameters, buffers : list of (int, int)
        Half-open ranges of columns.
    """

    parameters: list[tuple[int, int]]
    buffers: list[tuple[int, int]]

    @classmethod
    def of(cls, layout: ParameterLayout, parts: list[str]) -> FrozenParts:
        """Return the ranges of ``parts``: ``trunk``, or tasks, for their heads."""
        return cls(_ranges(layout.parameters, parts), _ranges(layout.buffers, parts))

    def copies(self, parameters: torch.Tensor, buffers: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the frozen columns of ``[E, P]`` and ``[E, Q]``, each with a copy of what they hold."""
        views = [parameters[:, a:b] for a, b in self.parameters] + [buffers[:, a:b] for a, b in self.buffers]
        return [(view, view.clone()) for view in views]


def _ranges(places: Mapping[str, Extent], parts: list[str]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for name in _of_parts(places, parts):
        at, shape = places[name]
        end = at + math.prod(shape)
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((at, end))
    return ranges
