"""A campaign's configuration: read once from YAML, validated, frozen, and hashed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from hydragnn_hpc import sweeps
from hydragnn_hpc.convolutions import CONVOLUTIONS
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import nearest
from hydragnn_hpc.sections import (
    SURROUNDINGS,
    Folds,
    Inputs,
    Launch,
    Model,
    Name,
    Printable,
    Section,
    SpeciesInput,
    Start,
    Task,
    Training,
    Variant,
)
from hydragnn_hpc.sweeps import Sweep
from hydragnn_hpc.validation import one_line

_Section = TypeVar("_Section", bound=Section)

WITHOUT_EFFECT = ("slots_per_device", "attempts", "checkpoint_seconds", "silence_seconds")
"""Launch settings that may change between two runs of one campaign."""

_SUFFIXES = ("_std", "_std_spread", "_std_noise", "_std_calibrated", "_low", "_high")
_PREFIXES = ("std_", "unit_")
"""What files of results add to a task's name."""


class Campaign(Section):
    """One campaign: data set, tasks, variants, replicas, seed, model, training, launch.

    The points of its ``sweep`` are among its ``variants``.
    """

    name: Name
    dataset: Printable
    inputs: Inputs = (SpeciesInput(name="species"),)
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    sweep: Sweep | None = None
    variants: Annotated[tuple[Variant, ...], Field(validate_default=True)] = ()
    replicas: Annotated[int, Field(ge=1, le=100_000)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: Model = Model()
    training: Training = Training()
    start: Start | None = None
    launch: Launch = Launch()

    @field_validator("tasks")
    @classmethod
    def _distinct(cls, tasks: dict[Name, Task]) -> dict[Name, Task]:
        if "sample" in tasks:
            raise ValueError("'sample' has another meaning in files of predictions; rename the task")
        # Extended XYZ adds target_ to a name that it needs for something else.
        plain = {re.sub("^(target_)+", "", name): name for name in tasks}
        for own, name in plain.items():
            for other in (*(own + suffix for suffix in _SUFFIXES), *(prefix + own for prefix in _PREFIXES)):
                if other in plain:
                    raise ValueError(
                        f"'{plain[other]}' is also what files of results call a value of '{name}'; rename one of them"
                    )
        return tasks

    @field_validator("variants", mode="before")
    @classmethod
    def _spell_out(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        tasks, sweep = list(info.data.get("tasks") or {}), info.data.get("sweep")
        listed = [_named_after_tasks(v, tasks) if isinstance(v, str) else v for v in value]
        if sweep is None:
            return listed
        variants = [Variant.model_validate(v) for v in listed]
        by_name = {v.name: v for v in variants}
        bases = {of: by_name[of].model_dump(mode="json") if of in by_name else _named_after_tasks(of, tasks)
                 for of in sweep.of}  # fmt: skip
        made = [Variant.model_validate(v) for v in sweeps.variants(sweep, bases)]
        for point in made:  # the configuration in a campaign's folder lists the points
            if by_name.get(point.name, point) != point:
                raise ValueError(
                    f"'{point.name}' is also a point of the sweep, with other settings; rename the variant"
                )
        return variants + [point for point in made if point.name not in by_name]

    @model_validator(mode="after")
    def _consistent(self) -> Campaign:
        if not self.variants:
            raise ValueError("variants: list at least one, or give a sweep")
        for name, times in Counter(v.name for v in self.variants).items():
            if times > 1:
                raise ValueError(f"variants: '{name}' is named twice; give each variant a name of its own")
        for variant in self.variants:
            for task in (*variant.tasks, *variant.weights, *variant.losses, *variant.references):
                if task not in self.tasks:
                    raise ValueError(f"variant '{variant.name}': unknown task '{task}'{nearest(task, self.tasks)}")
            for task, times in Counter(variant.tasks).items():
                if times > 1:
                    raise ValueError(f"variant '{variant.name}': task '{task}' is named twice; remove one")
        self._check_references()
        if not all(variant.differs for variant in self.variants):
            self._check_folds()
            self._check_epochs()
        for variant in self.variants:
            if variant.differs or self.start or any(self.tasks[task].vector for task in variant.tasks):
                try:
                    self._check_rate(variant)
                    own = self.of_variant(variant)
                    own._check_references()
                    own._check_folds()
                    own._check_epochs()
                    own._check_start(list(self.tasks))
                    own._check_vectors()
                except ValueError as error:
                    raise ValueError(f"variant '{variant.name}': {error}") from None
        self._check_halving()
        return self

    def _check_references(self) -> None:
        if SURROUNDINGS.isdisjoint(entry.name for entry in self.inputs):
            for name, declared in self.tasks.items():
                if declared.reference == "linear":
                    raise ValueError(
                        f"tasks.{name}.reference=linear: add shells or ewald to inputs, or set composition"
                    )

    def _check_folds(self) -> None:
        resample = self.training.resample
        if resample != "none" and self.training.fitted_to == "samples":
            raise ValueError(
                "training.fitted_to=samples: replicas that resample (training.resample) share what is fitted to the"
                " whole training set; set fitted_to=all"
            )
        if isinstance(resample, Folds) and self.replicas < resample.folds:
            raise ValueError(
                f"training.resample.folds={resample.folds}: {counted(self.replicas, 'replica')} would leave folds that"
                f" none is validated on; set replicas={resample.folds} or more"
            )

    def _check_halving(self) -> None:
        if self.sweep is None or self.sweep.halving is None:
            return
        last, points = self.sweep.halving.at[-1], {point.name for point in self.sweep.points}
        for variant in self.variants:
            if variant.name in points and self.epochs(variant) <= last:
                raise ValueError(
                    f"sweep.halving.at: the last rung, {last}, is not below the {self.epochs(variant)} epochs of"
                    f" '{variant.name}'; lower it"
                )
            if variant.name in points and not self.can_train_further(variant):
                raise ValueError(
                    f"sweep.halving: the cosine of '{variant.name}' spans all epochs, so that rungs would compare"
                    " members in the middle of it; set training.schedule=plateau or training.cosine.epochs"
                )

    def _check_epochs(self) -> None:
        if self.start is None and self.training.epochs == 0:
            raise ValueError("training.epochs=0: nothing is trained; set 1 or more, or give a start")

    def _check_start(self, tasks: list[str]) -> None:
        """Check what members start from; ``tasks`` are those of all variants."""
        if self.start is None:
            return
        for key in ("parts", "freeze"):
            for part in getattr(self.start, key) if getattr(self.start, key) != "all" else ():
                if part not in ("trunk", *tasks):
                    raise ValueError(f"start.{key}: unknown part '{part}'{nearest(part, ('trunk', *tasks))}")
        for part in self.start.freeze:
            if part not in self.start.parts_for(tasks):
                raise ValueError(f"start.freeze: '{part}' is not among start.parts, and would never be trained; add it")
        if {"trunk", *self.tasks} <= set(self.start.freeze) and self.training.epochs:
            raise ValueError("start.freeze: no part is left to train; set training.epochs=0, or leave one out")

    def _check_rate(self, variant: Variant) -> None:
        start, optimizer = variant.start or self.start, variant.training.get("optimizer")
        rate = start.learning_rate if start else None
        if rate is not None and isinstance(optimizer, dict) and "learning_rate" in optimizer:
            raise ValueError(
                f"start.learning_rate={rate:g} replaces its own training.optimizer.learning_rate; leave one out"
            )

    def _check_vectors(self) -> None:
        """Check the tasks of a campaign of one variant."""
        for name, task in self.tasks.items():
            if not task.vector:
                continue
            if not CONVOLUTIONS[self.model.convolution].equivariant:
                able = ", ".join(n for n, c in CONVOLUTIONS.items() if c.equivariant)
                raise ValueError(
                    f"tasks.{name}.vector: the values of {self.model.convolution} do not rotate with the structure; set"
                    f" model.convolution={able} and model.edges"
                )
            if task.reference != "none":
                raise ValueError(f"tasks.{name}.reference={task.reference}: vectors have no reference; set none")
            if task.has_noise:
                raise ValueError(
                    f"tasks.{name}.loss={task.loss.name}: the noise of a vector would depend on the axes; set mse,"
                    " mae or huber"
                )
            if task.level == "graph" and self.model.pooling == "max":
                raise ValueError(f"tasks.{name}.vector: model.pooling=max is not equivariant; set mean or sum")

    def variant(self, name: str) -> Variant:
        """Return the variant with that name."""
        return next(v for v in self.variants if v.name == name)

    def of_variant(self, variant: Variant) -> Campaign:
        """Return the campaign that trains this variant alone: its tasks, its own settings in place of shared ones.

        Raises
        ------
        ValueError
            If the variant's settings and the campaign's do not fit together, naming the key.
        """
        tasks = {name: self.tasks[name] for name in variant.tasks}
        if variant.weights or variant.losses or variant.references:
            tasks = {name: task.model_copy(update=variant.own(name)) for name, task in tasks.items()}
        training, start = _with_own(self.training, variant.training, "training"), variant.start or self.start
        if start is not None and start.learning_rate is not None:
            training = _with_own(training, {"optimizer": {"learning_rate": start.learning_rate}}, "training")
            start = start.model_copy(update={"learning_rate": None})
        plain = Variant(name=variant.name, tasks=variant.tasks) if variant.differs or variant.weights else variant
        return self.model_copy(
            update={
                "sweep": None,
                "variants": (plain,),
                "tasks": tasks,
                "inputs": variant.inputs or self.inputs,
                "model": _with_own(self.model, variant.model, "model"),
                "training": training,
                "start": start,
            }
        )

    def with_noise(self, variant: str) -> tuple[str, ...]:
        """Return the tasks of a variant whose noise its members predict."""
        return tuple(name for name, task in self.of_variant(self.variant(variant)).tasks.items() if task.has_noise)

    def epochs(self, variant: Variant) -> int:
        """Return the most epochs that a member of the variant is trained for."""
        return _with_own(self.training, variant.training, "training").epochs

    def can_train_further(self, variant: Variant) -> bool:
        """Whether adding epochs leaves the earlier ones unchanged, as it does unless a cosine spans all of them."""
        training = _with_own(self.training, variant.training, "training")
        return training.schedule != "cosine" or training.cosine.epochs is not None

    def seed_of(self, variant: Variant, replica: int) -> int:
        """Return a member's own seed (63 bits): :func:`member_seed` of the variant's name.

        A variant with settings of its own has the seeds of the variant that is named after the same tasks: members
        with different settings then start alike and see samples in the same order.
        """
        name = variant.name
        if variant.differs:
            joined, tasks = "".join(variant.tasks), list(variant.tasks)
            name = joined if _tasks_in(joined, list(self.tasks)) == tasks else "+".join(tasks)
        return member_seed(self.seed, name, replica)

    def stacks(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the stacks, each as (variant, replicas); they depend on the configuration alone.

        The first replicas of every variant come first, so that a campaign's table soon has all its rows. Members of an
        ``auto`` stack are listed one by one: a run on GPUs joins them.
        """
        size = 1 if self.launch.stack == "auto" else self.launch.stack
        return [
            (v.name, tuple(range(first, min(first + size, self.replicas))))
            for first in range(0, self.replicas, size)
            for v in self.variants
        ]

    def effective(self) -> Campaign:
        """Return the campaign with every key that has no effect on results at its default.

        Such keys are some launch settings, the schedule that is not chosen, heads of a level that no variant predicts,
        and settings of a variant that repeat the campaign's or belong to a task that it does not train.
        """
        training, cosine = self.training, self.training.cosine
        cosine = cosine.model_copy(update={"epochs": None}) if cosine.epochs == training.epochs else cosine
        levels = {self.tasks[task].level for variant in self.variants for task in variant.tasks}
        unused = ("graph_head", "pooling") * ("graph" not in levels) + ("node_head",) * ("node" not in levels)
        return self.model_copy(
            update={
                "sweep": self.sweep if self.sweep and self.sweep.halving else None,
                "variants": tuple(self._canonical(variant) for variant in self.variants),
                "model": _at_default(self.model, unused),
                "training": _at_default(
                    training.model_copy(update={"cosine": cosine}),
                    ("plateau",) if training.schedule == "cosine" else ("cosine",),
                ),
                # A stack of one is what 'auto' is on a CPU.
                "launch": _at_default(self.launch, (*WITHOUT_EFFECT, *["stack"] * (self.launch.stack == 1))),
                "start": _without_folder(self.start),
            }
        )

    def _canonical(self, variant: Variant) -> Variant:
        """Return the variant with only those of its settings that differ from the campaign's."""

        def differing(settings: dict[str, Any], key: str) -> dict[str, Any]:
            return {t: v for t, v in settings.items() if t in variant.tasks and v != getattr(self.tasks[t], key)}

        own: dict[str, Any] = {
            "weights": differing(variant.weights, "weight"),
            "losses": differing(variant.losses, "loss"),
            "references": differing(variant.references, "reference"),
        }
        start = _without_folder(variant.start)
        own["start"] = None if start == _without_folder(self.start) else start
        if variant.differs:
            trained = self.of_variant(variant).effective()
            own["inputs"] = None if trained.inputs == self.inputs else trained.inputs
            own |= {key: _difference(getattr(self, key), getattr(trained, key)) for key in ("model", "training")}
        return variant.model_copy(update=own)


def member_seed(seed: int, variant: str, replica: int) -> int:
    """Return a member's own seed (63 bits) from the campaign's seed, its variant's name and its replica's number.

    The hash is BLAKE2b, so that it is the same on every machine and in every version of Python.
    """
    digest = hashlib.blake2b(f"{seed}|{variant}|{replica}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _without_folder(start: Start | None) -> Start | None:
    """Return the start without its folder, whose place has no effect on results."""
    return None if start is None else start.model_copy(update={"folder": "."})


def _at_default(section: _Section, keys: Iterable[str]) -> _Section:
    """Return the section with ``keys`` at their defaults."""
    return section.model_copy(update={key: type(section).model_fields[key].default for key in keys})


def _with_own(section: _Section, own: dict[str, Any], key: str) -> _Section:
    """Return the section with a variant's ``own`` keys in place of the shared ones.

    Raises
    ------
    ValueError
        If a key is unknown or a value does not fit.
    """
    if not own:
        return section
    try:
        valid: _Section = _validated(section, json.dumps(own))
        return valid
    except ValidationError as error:
        line = one_line(error, type(section))
        raise ValueError(f"{key}: {line}") from None


@lru_cache(maxsize=1 << 16)
def _validated(section: _Section, own: str) -> _Section:
    """Return the section with ``own`` keys, from JSON; cached, since checks repeat it for thousands of variants."""
    return type(section).model_validate(_merged(section.model_dump(mode="json"), json.loads(own)))


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Merge key by key; a section with another ``name``, such as another optimizer, is replaced."""
    merged = dict(shared)
    for key, value in own.items():
        before = shared.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            same = value.get("name", before.get("name")) == before.get("name")
            merged[key] = _merged(before, value) if same else value
        else:
            merged[key] = value
    return merged


def _difference(shared: Section, own: Section) -> dict[str, Any]:
    before, after = (section.model_dump(mode="json") for section in (shared, own))
    return {key: value for key, value in after.items() if value != before[key]}


def _named_after_tasks(name: str, tasks: list[str]) -> dict[str, Any]:
    return {"name": name, "tasks": _tasks_in(name, tasks)}


def _tasks_in(name: str, tasks: list[str]) -> list[str]:
    """Split a variant's name into task names: at '+', else into known names, each the longest that fits."""
    if "+" in name:
        return name.split("+")
    names: list[str] = []
    rest = name
    while rest:
        match = max((t for t in tasks if rest.startswith(t)), key=len, default=None)
        if match is None:
            return [name]
        names.append(match)
        rest = rest[len(match) :]
    return names
