"""Sweeps: variants that differ in the settings which a campaign file lists, as a grid or as random points."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from hydragnn_hpc.errors import nearest
from hydragnn_hpc.sections import NAME, Name, Positive, Printable, Section
from hydragnn_hpc.validation import one_line

MOST_POINTS = 20_000
_TRIES = 20  # draws for each random point, before the space is considered exhausted
_DIGITS = 3  # significant digits of a random number: enough to search with, and short enough for a name
_BY_TASK = {"weight": "weights", "loss": "losses", "reference": "references"}


class Range(Section):
    """Numbers from ``minimum`` to ``maximum``, whole if both are; uniform, or with ``log`` uniform in the logarithm."""

    minimum: int | float
    maximum: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum={self.minimum} is not below maximum={self.maximum}")
        if self.log and self.minimum <= 0:
            raise ValueError(f"minimum={self.minimum}: a logarithmic range begins above 0")
        return self

    def draw(self, rng: np.random.Generator) -> int | float:
        """Return a random number of the range."""
        low, high = float(self.minimum), float(self.maximum)
        whole = isinstance(self.minimum, int) and isinstance(self.maximum, int)
        if whole:  # every number stands for the interval that rounds to it, the first and the last included
            low, high = low - 0.5, high + 0.5
        u = float(rng.random())
        value = math.exp(math.log(low) + u * math.log(high / low)) if self.log else low + u * (high - low)
        return round(value) if whole else min(max(float(f"{value:.{_DIGITS}g}"), low), high)


@dataclass(frozen=True)
class Point:
    """A point of a sweep: its variant's name, the variant that it varies, and the values of the keys."""

    name: str
    of: str
    settings: Mapping[str, Any]


class Halving(Section):
    """Successive halving: at the epochs ``at``, the share ``keep`` of the points goes on, the others end there."""

    keep: float | Printable
    at: Annotated[tuple[Positive, ...], Field(min_length=1)]

    @property
    def share(self) -> Fraction:
        """The share that goes on."""
        return Fraction(str(self.keep))

    @model_validator(mode="after")
    def _in_order(self) -> Halving:
        try:
            inside = 0 < self.share < 1
        except (ValueError, ZeroDivisionError):
            inside = False
        if not inside:
            raise ValueError(f"keep={self.keep}: give a share between 0 and 1, such as 1/3")
        if any(a >= b for a, b in itertools.pairwise(self.at)):
            raise ValueError(f"at={list(self.at)}: give epochs in ascending order")
        return self


class Sweep(Section):
    """Points over the values of some keys, for one variant or several.

    ``of`` names variants or, as a variant's name may, tasks that are trained together. ``over`` holds the values of
    each key, as a list or as a range; keys are those of a campaign file, such as ``model.channels`` or
    ``tasks.H.weight``. All combinations are points, or ``sample`` of them, drawn at random with ``seed``; a larger
    number extends the list. With ``halving``, the points of each variant compete, and only some are trained to the end.
    """

    of: tuple[Name, ...]
    over: dict[str, tuple[Any, ...] | Range]
    sample: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    halving: Halving | None = None

    @field_validator("of", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("over", mode="before")
    @classmethod
    def _lists_and_ranges(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            raise ValueError("give keys and their values, such as {model.channels: [10, 20]}")
        checked: dict[str, Any] = {}
        for key, values in value.items():
            _place(str(key))
            if isinstance(values, dict):
                try:
                    checked[key] = Range.model_validate(values)
                except ValidationError as error:
                    raise ValueError(f"{key}: {one_line(error, Range)}") from None
            elif isinstance(values, Range) or (isinstance(values, list | tuple) and values):
                checked[key] = values
            else:
                raise ValueError(f"{key}: give a list of values, or a range {{minimum: ..., maximum: ...}}")
        for key, other in itertools.permutations(checked, 2):
            if other.startswith(f"{key}."):
                raise ValueError(f"'{other}' is part of '{key}'; give one of them")
        return checked

    @model_validator(mode="after")
    def _of_a_size(self) -> Sweep:
        if not self.of:
            raise ValueError("of: name at least one variant")
        ranges = [key for key, values in self.over.items() if isinstance(values, Range)]
        if ranges and self.sample is None:
            raise ValueError(f"over.{ranges[0]} is a range, which has no grid; set sample to the number of points")
        size = self.sample or math.prod(len(v) for v in self.over.values() if not isinstance(v, Range))
        if size * len(self.of) > MOST_POINTS:
            raise ValueError(f"{size * len(self.of):,} points are more than {MOST_POINTS:,}; set sample to fewer")
        if self.sample is not None and (distinct := len(self.points) // len(self.of)) < self.sample:
            raise ValueError(
                f"sample={self.sample}: only {distinct} distinct points could be drawn; set sample to that"
            )
        return self

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """All points, those of each variant together; a name states the settings, or their hash if that is too long."""
        settings = list(self._settings())
        return tuple(Point(_name(of, chosen), of, chosen) for of in self.of for chosen in settings)

    def _settings(self) -> Iterator[dict[str, Any]]:
        """Yield the values of the keys at each point."""
        if self.sample is None:
            lists = [tuple(values) for values in self.over.values() if not isinstance(values, Range)]
            yield from (dict(zip(self.over, combination, strict=True)) for combination in itertools.product(*lists))
            return
        rng, seen = np.random.default_rng(self.seed), set[str]()
        for _ in range(_TRIES * self.sample):
            drawn = {
                key: values.draw(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
                for key, values in self.over.items()
            }
            label = json.dumps(drawn, sort_keys=True, default=str)
            if label not in seen:
                seen.add(label)
                yield drawn
            if len(seen) == self.sample:
                return


def variants(sweep: Sweep, bases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points as variants, as plain data.

    Parameters
    ----------
    sweep : Sweep
    bases : mapping
        The keys of each variant in ``sweep.of``, by name.

    Raises
    ------
    ValueError
        If a variant cannot have one of the settings, naming the key.
    """
    return [{**_with(bases[point.of], point.settings), "name": point.name} for point in sweep.points]


def _with(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a variant's keys with a point's settings in place of its own."""
    made = copy.deepcopy(dict(base))
    for key, value in settings.items():
        *path, last = _place(key)
        if key.startswith("tasks.") and last not in base["tasks"]:
            raise ValueError(
                f"sweep.over.{key}: variant '{base['name']}' does not train task '{last}'; leave it out of sweep.of"
            )
        inner = made
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ValueError(
                    f"sweep.over.{key}: variant '{base['name']}' gives {part} a single value; leave one out"
                )
        inner[last] = copy.deepcopy(value)
    return made


def _place(key: str) -> Sequence[str]:
    """Return where a variant holds a key of a campaign file."""
    first, *rest = key.split(".")
    if first in ("model", "training") and rest:
        return (first, *rest)
    if first == "inputs" and not rest:
        return (first,)
    if first == "tasks" and len(rest) > 1:
        task, last = ".".join(rest[:-1]), rest[-1]
        if last not in _BY_TASK:
            raise ValueError(f"'{key}': '{last}' of a task cannot be varied{nearest(last, _BY_TASK)}")
        return (_BY_TASK[last], task)
    raise ValueError(
        f"'{key}' cannot be varied; keys are those of model and training, inputs, and the weight, loss and reference of"
        " a task, such as model.channels and tasks.H.weight"
    )


def _name(of: str, settings: Mapping[str, Any]) -> str:
    # Sorted: the order of the keys in the file must not name other variants.
    words = [f"{key.rpartition('.')[2]}{_word(value)}" for key, value in sorted(settings.items())]
    name = "-".join([of, *words])
    last = [key.rpartition(".")[2] for key in settings]
    if len(set(last)) == len(last) and re.fullmatch(NAME, name):
        return name
    digest = hashlib.blake2b(json.dumps(dict(settings), sort_keys=True, default=str).encode(), digest_size=5)
    return f"{of[:50]}-{digest.hexdigest()}"


def _word(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return "-".join(str(part) for part in value.values())
    return str(value)
