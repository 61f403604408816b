"""A campaign's configuration: read once from YAML, validated, frozen, and hashed."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from hydragnn_hpc import yaml_files
from hydragnn_hpc.errors import UserError, nearest, refuse_control_characters
from hydragnn_hpc.sections import (
    INPUTS,
    Input,
    Launch,
    Model,
    Name,
    Section,
    SpeciesInput,
    Task,
    Text,
    Training,
    Variant,
)
from hydragnn_hpc.validation import one_line
from hydragnn_hpc.yaml_files import YAML_ERRORS

_Section = TypeVar("_Section", bound=BaseModel)

HASH_SCHEMA = 1
"""Increased when a default or the meaning of a key changes: earlier folders then belong to other campaigns."""

WITHOUT_EFFECT = ("slots_per_device", "attempts", "checkpoint_seconds", "silence_seconds")
"""Launch settings that may change between two runs of one campaign."""


class Campaign(Section):
    """One campaign: data set, tasks, variants, replicas, seed, model, training, launch."""

    name: Name
    dataset: Text
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)] = (SpeciesInput(name="species"),)
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    replicas: Annotated[int, Field(ge=1, le=100_000)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: Model = Model()
    training: Training = Training()
    launch: Launch = Launch()

    @field_validator("inputs", mode="before")
    @classmethod
    def _name_inputs(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        spelt_out = [{"name": v} if isinstance(v, str) else v for v in value]
        names = [v["name"] for v in spelt_out if isinstance(v, dict) and "name" in v]
        for name in names:
            if not isinstance(name, str) or name not in INPUTS:
                raise ValueError(f"unknown input '{name}'{nearest(str(name), INPUTS)}")
            if names.count(name) > 1:
                raise ValueError(f"'{name}' is named twice")
        return spelt_out

    @field_validator("variants", mode="before")
    @classmethod
    def _spell_out(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        tasks = list(info.data.get("tasks") or {})
        return [{"name": v, "tasks": _tasks_in(v, tasks)} if isinstance(v, str) else v for v in value]

    @model_validator(mode="after")
    def _consistent(self) -> Campaign:
        for name, times in Counter(v.name for v in self.variants).items():
            if times > 1:
                raise ValueError(f"variants: '{name}' is named twice; give each variant a name of its own")
        for variant in self.variants:
            for task in (*variant.tasks, *variant.weights):
                if task not in self.tasks:
                    raise ValueError(f"variant '{variant.name}': unknown task '{task}'{nearest(task, self.tasks)}")
            if len(set(variant.tasks)) < len(variant.tasks):
                raise ValueError(f"variant '{variant.name}': a task is named twice")
        if {entry.name for entry in self.inputs} <= {"species", "composition"}:
            for name, declared in self.tasks.items():
                if declared.reference == "linear":
                    raise ValueError(
                        f"tasks.{name}.reference=linear: add shells or ewald to inputs, or set composition"
                    )
        return self

    def variant(self, name: str) -> Variant:
        """Return the variant with that name."""
        return next(v for v in self.variants if v.name == name)

    def weight(self, variant: Variant, task: str) -> float:
        """Return a task's weight in a variant's loss: the variant's own, else the task's."""
        return variant.weights.get(task, self.tasks[task].weight)

    def stacks(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the stacks, each as (variant, replicas); they depend on the configuration alone.

        The first replicas of every variant come first, so that a campaign's table soon has all its rows.
        """
        size = self.launch.stack
        return [
            (v.name, tuple(range(first, min(first + size, self.replicas))))
            for first in range(0, self.replicas, size)
            for v in self.variants
        ]

    def effective(self) -> Campaign:
        """Return the campaign with every key that has no effect on results at its default.

        Such keys are some launch settings, the schedule that is not chosen, heads of a level that no variant predicts,
        and weights of a variant that repeat the task's or belong to a task that it does not train.
        """
        training, cosine = self.training, self.training.cosine
        cosine = cosine.model_copy(update={"epochs": None}) if cosine.epochs == training.epochs else cosine
        levels = {self.tasks[task].level for variant in self.variants for task in variant.tasks}
        unused = ("graph_head", "pooling") * ("graph" not in levels) + ("node_head",) * ("node" not in levels)
        variants = []
        for variant in self.variants:
            own = {t: w for t, w in variant.weights.items() if t in variant.tasks and w != self.tasks[t].weight}
            variants.append(variant.model_copy(update={"weights": own}))
        return self.model_copy(
            update={
                "variants": tuple(variants),
                "model": _at_default(self.model, unused),
                "training": _at_default(
                    training.model_copy(update={"cosine": cosine}),
                    ("plateau",) if training.schedule == "cosine" else ("cosine",),
                ),
                "launch": _at_default(self.launch, WITHOUT_EFFECT),
            }
        )


def member_seed(seed: int, variant: str, replica: int) -> int:
    """Return a member's own seed (63 bits) from the campaign's seed, its variant's name and its replica's number.

    The hash is BLAKE2b, so that it is the same on every machine and in every version of Python.
    """
    digest = hashlib.blake2b(f"{seed}|{variant}|{replica}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def config_hash(campaign: Campaign, dataset_sha256: str) -> str:
    """Return the hash that identifies a campaign, over all settings that affect results and are not at their defaults.

    The data set enters by its checksum, not by its path.
    """
    settings = campaign.effective().model_dump(mode="json", exclude={"dataset"}, exclude_defaults=True)
    content = json.dumps([HASH_SCHEMA, settings, dataset_sha256], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def load_campaign(path: Path, overrides: list[str] | None = None) -> Campaign:
    """Read a campaign file, apply ``key.key=value`` overrides, validate.

    The data set's path is relative to the file there, and absolute in the result.

    Raises
    ------
    UserError
        If the file cannot be read or a value does not fit; the error names the known key nearest to an unknown one.
    """
    try:
        content = yaml_files.read(path)
    except FileNotFoundError as error:
        raise UserError(f"no such campaign file: {path}") from error
    except (OSError, *YAML_ERRORS) as error:
        raise UserError(f"cannot read campaign file {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"campaign file {path} holds no settings; start from jobs/campaigns/quickstart.yaml")
    for override in overrides or []:
        _apply(content, override)
    campaign = parse_campaign(content, str(path))
    try:
        dataset = (path.parent / Path(campaign.dataset).expanduser()).resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: dataset={campaign.dataset!r}: {error}; give the path of a data set") from error
    refuse_control_characters(str(dataset), f"{path}: the data set's path")
    return campaign.model_copy(update={"dataset": str(dataset)})


def parse_campaign(content: dict[str, Any], where: str) -> Campaign:
    """Validate plain data into a :class:`Campaign`; ``where`` is named in errors.

    Raises
    ------
    UserError
        On the first value that does not fit.
    """
    try:
        return Campaign.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {one_line(error, Campaign)}") from error


def _at_default(section: _Section, keys: Iterable[str]) -> _Section:
    """Return the section with ``keys`` at their defaults."""
    return section.model_copy(update={key: type(section).model_fields[key].default for key in keys})


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


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip("."):
        raise UserError(f"--set {override}: expected key=value, for instance training.epochs=3")
    try:
        value = yaml_files.parse(text)
    except YAML_ERRORS as error:
        raise UserError(f"--set {override}: the value is not YAML: {error}") from error
    # YAML reads 1e-3 (no dot) as text; a user of --set means the number, unless it is quoted.
    _set(content, key.split("."), _number(value) if value == text.strip() else value, override)


def _set(section: dict[str, Any], parts: list[str], value: Any, override: str) -> None:
    # Task names may contain dots.
    n = next((n for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in section), 1)
    key, rest = ".".join(parts[:n]), parts[n:]
    if not rest:
        section[key] = value
        return
    inner = section.setdefault(key, {})
    if not isinstance(inner, dict):
        raise UserError(f"--set {override}: '{key}' is a single value, it has no '{'.'.join(rest)}' in it")
    _set(inner, rest, value, override)


def _number(text: str) -> str | float:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
