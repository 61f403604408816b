"""The sections of a campaign file: frozen, validated, each key with its default."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from hydragnn_hpc.convolutions import why_not
from hydragnn_hpc.errors import nearest
from hydragnn_hpc.validation import one_line

Positive = Annotated[int, Field(ge=1)]
Widths = tuple[Positive, ...]
LONGEST_NAME = 64
NAME = rf"^[A-Za-z0-9][A-Za-z0-9_.+-]{{0,{LONGEST_NAME - 1}}}$"  # names become folder names
Name = Annotated[str, Field(pattern=NAME)]
LearningRate = Annotated[float, Field(gt=0)]
_BOOLEAN = "in YAML yes, no, on, off, true and false are booleans; write a number, or a name in quotes"
Printable = Annotated[str, Field(pattern=r"^\P{Cc}+$")]
"""Text without control characters."""


def as_name(text: str, fallback: str) -> str:
    """Return ``text`` with the characters that a name cannot have replaced by ``-``; ``fallback`` if none is left."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", text).lstrip("_.+-")[:LONGEST_NAME] or fallback


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans(cls, content: Any) -> Any:
        """Refuse booleans, which pydantic would accept as the numbers 1 and 0."""
        fields = cls.model_fields
        for key, value in content.items() if isinstance(content, dict) else ():
            if type(value) in (int, float, str):  # nearly all values; a large campaign has many
                continue
            kind = fields[key].annotation if key in fields else bool
            parts = value.values() if isinstance(value, dict) and get_origin(kind) is dict else value
            parts = parts if isinstance(parts, Iterable) else [parts]
            if kind is not bool and any(isinstance(part, bool) for part in parts):
                raise ValueError(f"{key}: {_BOOLEAN}")
        return content


class LossSection(Section):
    """A task's loss; a head gives ``outputs`` numbers for each component of its target (`Task.has_noise`)."""

    outputs: ClassVar[int] = 1


class SquaredLoss(LossSection):
    """The mean of d^2, d the difference from the true value, scaled."""

    name: Literal["mse"]


class AbsoluteLoss(LossSection):
    """The mean of |d|."""

    name: Literal["mae"]


class HuberLoss(LossSection):
    """The mean of d^2 / 2 up to ``delta``, which is scaled as the task is, and of delta (|d| - delta / 2) beyond."""

    name: Literal["huber"]
    delta: Annotated[float, Field(gt=0)] = 1.0


class GaussianLoss(LossSection):
    """The mean of (ln v + d^2 / v) / 2, with a variance v that the head gives beside the mean."""

    outputs: ClassVar[int] = 2

    name: Literal["nll"]


LOSSES: dict[str, type[LossSection]] = {
    "mse": SquaredLoss,
    "mae": AbsoluteLoss,
    "huber": HuberLoss,
    "nll": GaussianLoss,
}
"""Losses by name; how they are computed: `member.engine.losses`."""


def _spell_out_loss(value: Any) -> Any:
    spelt_out = {"name": value} if isinstance(value, str) else value
    name = spelt_out.get("name", "mse") if isinstance(spelt_out, dict) else None
    if isinstance(spelt_out, dict) and (not isinstance(name, str) or name not in LOSSES):
        raise ValueError(f"unknown loss '{name}'{nearest(str(name), LOSSES)}")
    return {"name": name, **spelt_out} if isinstance(spelt_out, dict) else value


TaskLoss = Annotated[
    SquaredLoss | AbsoluteLoss | HuberLoss | GaussianLoss,
    Field(discriminator="name"),
    BeforeValidator(_spell_out_loss),
]
TaskWeight = Annotated[float, Field(gt=0)]
TaskReference = Literal["none", "composition", "species", "linear"]


class Task(Section):
    """One predicted property; with a ``reference``, the network learns the residual (`dataset.features.residual`).

    The values of a ``vector`` task are vectors, which rotate with the structure: its width is a multiple of 3.
    """

    level: Literal["graph", "node"]
    field: Printable
    weight: TaskWeight = 1.0
    reference: TaskReference = "none"
    loss: TaskLoss = SquaredLoss(name="mse")
    vector: bool = False

    @property
    def has_noise(self) -> bool:
        """Whether its head also gives the noise of each value: the standard deviation of the data about the mean."""
        return self.loss.outputs == 2


class SpeciesInput(Section):
    """The scaled proton number."""

    name: Literal["species"]


class OneHotInput(Section):
    """For each element of the data set, whether the atom is of it: 1 or 0."""

    name: Literal["one_hot"]


class ElementInput(Section):
    """A property of the atom's element."""

    name: Literal["radius", "electronegativity", "valence_electrons", "period", "group"]


class CompositionInput(Section):
    """The atomic fraction of each element in the sample."""

    name: Literal["composition"]


class ShellsInput(Section):
    """Numbers of atoms of each element in the first ``number`` shells of neighbours around the site."""

    name: Literal["shells"]
    number: Annotated[int, Field(ge=1, le=200)] = 13


class EwaldInput(Section):
    """The electrostatic potential at the site of unit charges on each element, the sample neutral, and its powers."""

    name: Literal["ewald"]
    powers: Annotated[int, Field(ge=1, le=4)] = 1


Input = Annotated[
    SpeciesInput | OneHotInput | ElementInput | CompositionInput | ShellsInput | EwaldInput,
    Field(discriminator="name"),
]
INPUTS: dict[str, type[Section]] = {
    "species": SpeciesInput,
    "one_hot": OneHotInput,
    "radius": ElementInput,
    "electronegativity": ElementInput,
    "valence_electrons": ElementInput,
    "period": ElementInput,
    "group": ElementInput,
    "composition": CompositionInput,
    "shells": ShellsInput,
    "ewald": EwaldInput,
}
"""Node inputs by name; how they are computed: `dataset.features.inputs`."""
SURROUNDINGS = frozenset({"shells", "ewald"})
"""Inputs that depend on the atoms around a site, so that a target may be regressed on them."""


def _spell_out_inputs(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    spelt_out = [{"name": v} if isinstance(v, str) else v for v in value]
    names = [v["name"] for v in spelt_out if isinstance(v, dict) and "name" in v]
    for name in names:
        if not isinstance(name, str) or name not in INPUTS:
            raise ValueError(f"unknown input '{name}'{nearest(str(name), INPUTS)}")
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is named twice; remove one")
    return spelt_out


Inputs = Annotated[tuple[Input, ...], Field(min_length=1), BeforeValidator(_spell_out_inputs)]


class Start(Section):
    """The finished members that members start from: each from the best weights of the replica with its number.

    ``folder``, called ``from`` in files, is that campaign's, and ``variant`` one of its variants. ``parts`` are the
    trunk and the heads, by their tasks, that are taken over; those of ``freeze`` are not trained. ``learning_rate``
    replaces the optimizer's. ``sha256`` identifies the source (`campaign_hash.source_hash`); a run fills it in.
    """

    folder: Printable = Field(alias="from")
    variant: Name
    parts: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    freeze: tuple[str, ...] = ()
    learning_rate: LearningRate | None = None
    sha256: Printable | None = None

    @model_serializer(mode="wrap")
    def _by_key(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = plain(self)
        return {"from": content.pop("folder"), **content}

    def parts_for(self, tasks: Iterable[str]) -> list[str]:
        """Return the parts that a variant with these tasks takes over: ``trunk``, and the tasks of heads."""
        return [part for part in ("trunk", *tasks) if self.parts == "all" or part in self.parts]


class Variant(Section):
    """A set of tasks trained together, and the settings in which the variant differs from the campaign.

    ``weights``, ``losses`` and ``references`` replace the tasks' own; ``model`` and ``training`` hold the keys of these
    sections that differ, ``inputs`` the whole list, and ``start`` the members that its members start from.
    """

    name: Name
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    weights: dict[str, TaskWeight] = Field(default_factory=dict)
    losses: dict[str, TaskLoss] = Field(default_factory=dict)
    references: dict[str, TaskReference] = Field(default_factory=dict)
    inputs: Inputs | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    start: Start | None = None

    @model_serializer(mode="wrap")
    def _without_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in plain(self).items() if value}

    def own(self, task: str) -> dict[str, Any]:
        """Return the variant's own settings of a task."""
        settings: dict[str, dict[str, Any]] = {
            "weight": self.weights,
            "loss": self.losses,
            "reference": self.references,
        }
        return {key: of_tasks[task] for key, of_tasks in settings.items() if task in of_tasks}

    @property
    def differs(self) -> bool:
        """Whether it has settings of its own, apart from weights."""
        return bool(self.losses or self.references or self.inputs or self.model or self.training or self.start)


class Edges(Section):
    """Features of edges: ``number`` functions of an edge's length, times an envelope (`member.engine.edges`)."""

    number: Annotated[int, Field(ge=2, le=1000)] = 20
    basis: Literal["gaussian", "bessel"] = "gaussian"
    envelope: Literal["none", "polynomial"] = "none"


class Model(Section):
    """The architecture: a trunk of message-passing layers shared by all tasks, a head for each."""

    convolution: str = "PNA"
    edges: Edges | None = None
    layers: Positive = 6
    channels: Positive = 20
    pooling: Literal["mean", "sum", "max"] = "mean"
    graph_head: Widths = (50, 25)
    node_head: Widths = (50, 25)

    @model_validator(mode="after")
    def _can_be_built(self) -> Model:
        if reason := why_not(self.convolution, self.edges is not None):
            raise ValueError(reason)
        return self


class AdamOptimizer(Section):
    """Adam (Kingma & Ba 2015); ``weight_decay`` is added to the gradient."""

    name: Literal["Adam"]
    learning_rate: LearningRate = 1.0e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class AdamWOptimizer(Section):
    """AdamW (Loshchilov & Hutter 2019): Adam with ``weight_decay`` decoupled from the gradient; torch's defaults."""

    name: Literal["AdamW"]
    learning_rate: LearningRate = 1.0e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class SgdOptimizer(Section):
    """SGD with ``momentum`` (Polyak 1964, in torch's form); ``weight_decay`` is added to the gradient."""

    name: Literal["SGD"]
    learning_rate: LearningRate = 1.0e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


OptimizerSection = AdamOptimizer | AdamWOptimizer | SgdOptimizer
OPTIMIZERS: dict[str, type[Section]] = {"Adam": AdamOptimizer, "AdamW": AdamWOptimizer, "SGD": SgdOptimizer}
"""Optimisers by name; how they step: `member.engine.optimize`."""


class Plateau(Section):
    """Multiply the learning rate by ``factor`` when the validation loss has not improved for ``patience`` epochs."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=0)] = 5
    minimum: Annotated[float, Field(ge=0)] = 1.0e-5


class EarlyStopping(Section):
    """Stop when the validation loss has not improved for ``patience`` epochs."""

    patience: Positive = 10


class Cosine(Section):
    """Lower the learning rate along half a cosine, to ``minimum`` after ``epochs`` (null: those of the training).

    During the first ``warmup`` epochs it rises in equal steps, to the full rate in the epoch after them.
    """

    epochs: Positive | None = None
    minimum: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0


class Folds(Section):
    """Training and validation set, divided into ``folds``: a replica is validated on one, and trained on the others."""

    folds: Annotated[int, Field(ge=2, le=1000)]


_RESAMPLING = ("none", "bootstrap")


def _checked_resampling(value: Any) -> Any:
    if isinstance(value, dict):
        try:
            return Folds.model_validate(value)
        except ValidationError as error:
            raise ValueError(one_line(error, Folds)) from None
    if isinstance(value, str) and value not in _RESAMPLING:
        raise ValueError(f"unknown resampling '{value}'{nearest(value, (*_RESAMPLING, 'folds'))}")
    if not isinstance(value, str | Folds):
        raise ValueError("give none, bootstrap or {folds: 5}")
    return value


class Training(Section):
    """How a member is trained; ``plateau`` and ``early_stopping`` are off where they are null.

    Members see ``samples`` of the training set, of each composition in proportion (`dataset.staged.subset.nested`).
    Scaling and references are ``fitted_to`` these samples alone, or to all: references and inputs to the training set,
    the scaling of targets to the data set.
    ``resample`` gives each replica training samples of its own, as many as ``samples`` (`member.engine.resample`).
    ``schedule`` says whether the learning rate follows ``plateau`` or ``cosine`` (`member.training.schedule.Schedule`).
    """

    epochs: Annotated[int, Field(ge=0)] = 200
    samples: Literal["all"] | Positive = "all"
    fitted_to: Literal["all", "samples"] = "all"
    resample: Annotated[Literal["none", "bootstrap"] | Folds, BeforeValidator(_checked_resampling)] = "none"
    batch_size: Positive = 64
    optimizer: Annotated[OptimizerSection, Field(discriminator="name")] = AdamOptimizer(name="Adam")
    schedule: Literal["plateau", "cosine"] = "plateau"
    plateau: Plateau | None = Plateau()
    cosine: Cosine = Cosine()
    early_stopping: EarlyStopping | None = EarlyStopping()
    engine: Literal["auto", "fused", "torch"] = "auto"

    def split_sizes(self, n_train: int, n_validation: int) -> tuple[int, int]:
        """Return the sizes of a replica's training and validation sets; with folds, those of equal folds."""
        if not isinstance(self.resample, Folds):
            return n_train, n_validation
        n_fold = -(-(n_train + n_validation) // self.resample.folds)
        return n_train + n_validation - n_fold, n_fold

    def trained_on(self, n_train: int) -> int:
        """Return how many of a training set's samples are trained on."""
        return n_train if self.samples == "all" else self.samples

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_optimizer(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name = value.get("name", "Adam")
        if not isinstance(name, str) or name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer '{name}'{nearest(str(name), OPTIMIZERS)}")
        return {"name": name, **value}

    @model_validator(mode="after")
    def _cosine_fits(self) -> Training:
        epochs, rate = self.cosine.epochs or self.epochs, self.optimizer.learning_rate
        if self.schedule == "cosine" and self.cosine.warmup > epochs:
            raise ValueError(f"cosine.warmup={self.cosine.warmup} is longer than its {epochs} epochs; shorten it")
        if self.schedule == "cosine" and self.cosine.minimum > rate:
            raise ValueError(f"cosine.minimum={self.cosine.minimum:g} is above the learning rate {rate:g}; lower it")
        return self


class Launch(Section):
    """How members are distributed; ``slots_per_device``, ``attempts`` and the intervals do not change any result."""

    slots_per_device: Positive = 1
    stack: Literal["auto"] | Positive = "auto"
    attempts: Positive = 2
    threads: Positive = 1
    device: Literal["auto", "cpu", "cuda", "xpu"] = "auto"
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    silence_seconds: Annotated[float, Field(gt=0)] = 600.0
