"""A campaign file that fits a data set: choices follow from the data, and the file states the reason for each.

Measurements on the FePt data (tests/benchmarks/RESULTS-accuracy.md) showed what helps: inputs that describe an atom's
surroundings, residuals of a least-squares fit on them, and a cosine schedule.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, combinations, count
from pathlib import Path
from typing import Any

from hydragnn_hpc import yaml_files
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.compositions import species_counts
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.features import baselines
from hydragnn_hpc.dataset.read.units import is_energy
from hydragnn_hpc.dataset.remarks import rotation, values
from hydragnn_hpc.dataset.remarks.geometries import distances
from hydragnn_hpc.dataset.remarks.view import DataView
from hydragnn_hpc.dataset.staged import match
from hydragnn_hpc.errors import UserError, spelt_out
from hydragnn_hpc.fields import PAPER_TASKS
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.summary import DatasetSummary

_NAMES = {**PAPER_TASKS, "charge": "Q"}
_WIDTH = 116
_LARGE = 500  # atoms; the electrostatic potential is computed for all pairs
_REFERENCE_SAMPLES = 19_536  # training samples of the measured recipe
_LONGEST = 4  # fewer samples are given more epochs, up to this multiple
_EQUIVARIANT = {"convolution": "PaiNN", "edges": {"number": 20}, "layers": 3, "pooling": "mean"}
_WHY_EQUIVARIANT = (
    "Vectors rotate with the structure, and so do those that PaiNN predicts; since it is slower than PNA, it has fewer"
    " layers (three, as in its publication)."
)
_COLUMNS, _SAMPLES_PER_COLUMN = 16, 10  # of a linear fit: columns per element, and samples needed for each of them
_STEPS_PER_EPOCH = 20  # at least, if a batch of 8 permits


@dataclass(frozen=True)
class DataFacts:
    """Facts that the choices depend on.

    Attributes
    ----------
    manifest : Manifest
    summary : DatasetSummary
    distances_differ : bool
        Whether geometries differ in the distances between atoms.
    rotating : dict
        The targets that rotate with the structure, by name, and the evidence for it.
    misdeclared : set of str
        Energies that are per atom but declared per structure, or the other way round.
    """

    manifest: Manifest
    summary: DatasetSummary
    distances_differ: bool
    rotating: dict[str, str]
    misdeclared: set[str]

    @property
    def n_train(self) -> int:
        """Number of training samples."""
        return self.manifest.split[0]


@dataclass
class Proposal:
    """The content of a campaign file, and the reason for each value.

    Attributes
    ----------
    content : dict
    why : dict
        By key: the comments that precede it, a paragraph each.
    """

    content: dict[str, Any] = field(default_factory=dict)
    why: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, value: Any, *reasons: str) -> None:
        """Set a key, and state the reasons, without the empty ones."""
        self.content[key] = value
        self.why[key] = [reason for reason in reasons if reason]

    def text(self, header: str) -> str:
        """Return it as YAML with comments."""
        lines = _comment(header)
        for key, value in self.content.items():
            lines += [line for reason in self.why.get(key, ()) for line in _comment(reason)]
            if key not in ("tasks", "training"):
                lines.append(f"{key}: {yaml_files.flow(value)}")
                continue
            lines.append(f"{key}:")
            lines += [f"  {yaml_files.flow(name)}: {yaml_files.flow(inner)}" for name, inner in value.items()]
        return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(spelt_out(text), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def read(dataset: Path) -> DataFacts:
    """Read a data set, and determine the facts that the choices depend on.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    manifest, arrays = store.read(dataset)
    _, counts = species_counts(arrays["atomic_numbers"], arrays["atom_offsets"])
    view = DataView(arrays, manifest.targets, manifest.source, manifest.neighbours, counts)
    return DataFacts(
        manifest,
        baselines.summarise(arrays, manifest),
        distances_differ=any(distances(view)),
        rotating=rotation.reasons(view),
        misdeclared={target for _, target in values.per_atom_or_per_cell(view) if target is not None},
    )


def propose(data: DataFacts, name: str, dataset: str, purpose: str) -> Proposal:
    """Return the campaign for a data set.

    Parameters
    ----------
    data : DataFacts
    name, dataset : str
        The campaign's name, and the path of its data set to be stated in the file.
    purpose : {"accuracy", "speed", "paper"}

    Raises
    ------
    UserError
        If the data set has no target that can be learned.
    """
    proposal = Proposal()
    proposal.add("name", name)
    of_crystals = data.manifest.source.format == "lsms" and data.manifest.neighbours.boundary == "open"
    hint = (
        "Neighbours end at the boundary of the cell, as in the paper; with 'data prepare --boundary periodic --cell"
        " ...', errors on its data were half as large."
    )
    proposal.add("dataset", dataset, hint if of_crystals and purpose != "paper" else "")
    PURPOSES[purpose](proposal, data)
    campaign = parse_campaign(proposal.content, "the proposed campaign")
    match.check(campaign, data.manifest)
    return proposal


def _tasks(data: DataFacts, vectors: bool = False) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the tasks that can be learned, without references, and why other targets are left out.

    With ``vectors``, targets of three components that rotate with the structure are tasks, too.
    """
    tasks: dict[str, dict[str, Any]] = {}
    left_out = []
    for name, target in data.manifest.targets.items():
        if any(low == high for low, high in zip(target.minimum, target.maximum, strict=True)):
            component = ", a component of which" if target.width > 1 else ", which"
            left_out.append(f"Left out: {name}{component} is constant.")
        elif name in data.rotating and not (vectors and len(target.minimum) == 3):
            left_out.append(
                f"Left out: {name}, which rotates with the structure ({data.rotating[name]}): a task of scalar values"
                " cannot learn it."
            )
        else:
            names = chain([_NAMES.get(name, name[0].upper()), name], (f"{name}_{k}" for k in count(2)))
            task = next(t for t in names if t not in tasks)
            vector = {"vector": True} if name in data.rotating else {}
            tasks[task] = {"level": target.level, "field": name, **vector}
    if not tasks:
        raise UserError(f"no target of the data set can be learned: {' '.join(left_out)}")
    return tasks, left_out


def _separator(tasks: Iterable[str]) -> str:
    """Return what separates tasks in the names of variants: nothing, if each task is a letter."""
    return "" if all(len(task) == 1 for task in tasks) else "+"


def _for_paper(proposal: Proposal, data: DataFacts) -> None:
    """Add the paper's campaign: every set of tasks, twelve replicas, the species as input."""
    tasks, left_out = _tasks(data)
    names = list(tasks)
    sizes = range(len(names), 0, -1) if len(names) <= 3 else (len(names), 1)
    variants = [_separator(names).join(subset) for size in sizes for subset in combinations(names, size)]
    proposal.add("tasks", tasks, *left_out)
    proposal.add("variants", variants, "Tasks together and separately: does multi-task learning help?")
    proposal.add("replicas", 12)
    model = {"convolution": "PNA", "layers": 6, "channels": 20, "pooling": "mean", "graph_head": [50, 25]}
    model |= {"node_head": [50, 25]}
    proposal.add("model", model, "The paper's network (Lupo Pasini et al. 2022, section 4.1).")
    training = {
        "epochs": 200,
        "batch_size": min(64, data.n_train),
        "optimizer": {"name": "Adam", "learning_rate": 1e-3},
        "plateau": {"factor": 0.5, "patience": 5, "minimum": 1e-5},
        "early_stopping": {"patience": 30},
    }
    proposal.add("training", training)


def _for_accuracy(proposal: Proposal, data: DataFacts) -> None:
    _add_recipe(proposal, data, {"channels": 30}, epochs=150)


def _for_speed(proposal: Proposal, data: DataFacts) -> None:
    _add_recipe(proposal, data, {"channels": 20, "layers": 4}, epochs=50)


PURPOSES: dict[str, Callable[[Proposal, DataFacts], None]] = {
    "accuracy": _for_accuracy,
    "speed": _for_speed,
    "paper": _for_paper,
}


def _add_recipe(proposal: Proposal, data: DataFacts, model: dict[str, Any], epochs: int) -> None:
    """Add the measured recipe, as far as it applies to the data."""
    inputs, why_inputs = _inputs(data)
    proposal.add("inputs", inputs, *why_inputs)
    tasks, left_out = _tasks(data, vectors=True)
    scalar = {task: settings for task, settings in tasks.items() if "vector" not in settings}
    proposal.add("tasks", tasks, *_add_references(data, scalar), *left_out)
    pooling, why_pooling = _pooling(data, scalar)
    shared = next(iter(pooling.values()), None)
    _add_variants(proposal, list(scalar), [task for task in tasks if task not in scalar], pooling)
    proposal.add("replicas", 4, "The mean of a few models is better than one, and their spread shows its uncertainty.")
    if shared:
        model = {**model, "pooling": shared}
    why_edges = ""
    if data.distances_differ:
        model = {**model, "edges": {"number": 20, "basis": "bessel", "envelope": "polynomial"}}
        why_edges = f"edges: {data.summary.geometries:,} geometries differ in the distances between atoms."
    proposal.add("model", model, why_pooling, why_edges)
    proposal.add("training", *_training(data, epochs))
    proposal.add("launch", {"stack": 4}, "One worker trains the replicas of a variant together, which is fastest.")


def _add_variants(proposal: Proposal, scalar: list[str], vectors: list[str], pooling: dict[str, str]) -> None:
    """Add a variant for all tasks with the pooling of the first, and variants for other pooling and for vectors."""
    shared = next(iter(pooling.values()), None)
    apart = [task for task, own in pooling.items() if own != shared]
    separator = _separator([*scalar, *vectors])
    variants: list[Any] = [separator.join(task for task in scalar if task not in apart)] if scalar else []
    if apart:
        variants.append({"name": separator.join(apart), "tasks": apart, "model": {"pooling": pooling[apart[0]]}})
    if vectors:
        variants.append({"name": separator.join(vectors), "tasks": vectors, "model": _EQUIVARIANT})
    why_apart = "Tasks are learned together if they need the same pooling." if apart else ""
    proposal.add("variants", variants, why_apart, _WHY_EQUIVARIANT if vectors else "")


def _inputs(data: DataFacts) -> tuple[list[Any], list[str]]:
    """Return the inputs that describe an atom and its surroundings, and the reasons."""
    elements, manifest = len(data.summary.elements), data.manifest
    inputs: list[Any] = ["species" if elements <= 2 else "one_hot"]
    why = ["The inputs describe an atom by its element and its surroundings."]
    if elements > 2:
        why.append(f"one_hot: {elements} elements have no natural order, which a single number would imply.")
    if elements > 1 and manifest.source.compositions > 1:
        inputs.append("composition")
    inputs.append({"name": "shells", "number": 13})
    if elements > 1:
        partly = manifest.neighbours.boundary == "mixed"
        large = data.summary.atoms.maximum > _LARGE
        if partly or large:
            reason = "the boundary is periodic in some directions only" if partly else "it is slow for large structures"
            why.append(f"ewald, the electrostatic potential, is left out: {reason}.")
        else:
            inputs.append({"name": "ewald", "powers": 3})
    return inputs, why


def _add_references(data: DataFacts, tasks: dict[str, dict[str, Any]]) -> list[str]:
    """Add a reference and a weight to each task; return the reasons.

    A linear fit has about `_COLUMNS` columns per element, and at graph level as many for each pair of elements. With
    few samples for each column it fits their noise, which the network cannot undo.
    """
    elements, compositions = len(data.summary.elements), data.manifest.source.compositions
    atoms = data.manifest.distribution.atoms.mean if data.manifest.distribution else data.summary.atoms.minimum
    needed = _SAMPLES_PER_COLUMN * _COLUMNS * elements**2
    linear = {"graph": data.n_train >= needed, "node": data.n_train * atoms >= needed}
    enough = 4 * compositions <= data.n_train
    levels = {task["level"] for task in tasks.values()}
    for task in tasks.values():
        task["reference"] = "linear" if enough and linear[task["level"]] else "species"
        if task["level"] == "graph" and task["reference"] == "linear" and len(levels) > 1:
            task["weight"] = 0.2
    used = {task["reference"] for task in tasks.values()}
    why_linear = "reference linear: the network learns the residual of a least-squares fit on the inputs."
    why_species = (
        f"reference species: the network learns the residual of a fit on the elements; {data.n_train:,} training"
        f" samples of {compositions:,} compositions are too few for a fit on all inputs."
    )
    why_weight = "weight 0.2: residuals at graph level are smaller than those at node level."
    weighted = any("weight" in task for task in tasks.values())
    reasons = ((why_linear, "linear" in used), (why_species, "species" in used), (why_weight, weighted))
    return [reason for reason, applies in reasons if applies]


def _pooling(data: DataFacts, tasks: dict[str, dict[str, Any]]) -> tuple[dict[str, str], str]:
    """Return the pooling of each graph-level task if structures differ in size, and the reason."""
    atoms = data.summary.atoms
    fields = {task: settings["field"] for task, settings in tasks.items() if settings["level"] == "graph"}
    if atoms.minimum == atoms.maximum or not fields:
        return {}, ""
    pooling = {task: "sum" if _is_extensive(data, field) else "mean" for task, field in fields.items()}
    reasons = [
        f"{', '.join(alike)}: {why}"
        for how, why in (("sum", "extensive, hence sum"), ("mean", "intensive, hence mean"))
        if (alike := [task for task, own in pooling.items() if own == how])
    ]
    return pooling, f"Structures have {atoms.minimum:,} to {atoms.maximum:,} atoms. {'; '.join(reasons)}."


def _is_extensive(data: DataFacts, name: str) -> bool:
    """Whether a target grows with the number of atoms: as declared, unless the values contradict it."""
    unit = data.manifest.targets[name].unit
    if is_energy(unit.removesuffix("/atom")):
        return unit.endswith("/atom") == (name in data.misdeclared)
    return data.summary.targets[name].form == "per cell"


def _training(data: DataFacts, epochs: int) -> tuple[dict[str, Any], str]:
    """Return the training settings, with more epochs where there are few samples, and the reason."""
    batch_size = 64
    while batch_size > 8 and data.n_train < _STEPS_PER_EPOCH * batch_size:
        batch_size //= 2
    longer = min(_LONGEST, max(1.0, (_REFERENCE_SAMPLES / data.n_train) ** 0.5))
    epochs = 10 * round(epochs * longer / 10)
    training = {
        "epochs": epochs,
        "batch_size": min(batch_size, data.n_train),
        "optimizer": {"name": "Adam", "learning_rate": 3e-3},
        "schedule": "cosine",
        "early_stopping": None,
    }
    return training, (
        f"{epochs} epochs of {data.n_train:,} samples, in which the learning rate falls along a cosine; early stopping"
        " would end training while it is still high."
    )
