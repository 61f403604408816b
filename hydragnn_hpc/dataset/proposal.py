"""A campaign file that fits a data set: what is chosen follows from the data, and each choice states its reason.

What helps was measured on the FePt data (tests/benchmarks/RESULTS-accuracy.md): inputs that describe an atom's
surroundings, residuals of a least-squares fit on them, a cosine schedule.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from hydragnn_hpc import yaml_files
from hydragnn_hpc.compositions import species_counts
from hydragnn_hpc.config import parse_campaign
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.features import baselines
from hydragnn_hpc.dataset.read.units import is_energy
from hydragnn_hpc.dataset.remarks import turning, values
from hydragnn_hpc.dataset.remarks.geometries import distances
from hydragnn_hpc.dataset.remarks.view import DataView
from hydragnn_hpc.dataset.staged import match
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.summary import DatasetSummary

_NAMES = {
    "mixing_enthalpy": "H",
    "charge_transfer": "C",
    "magnetic_moment": "M",
    "charge": "Q",
}
_WIDTH = 116
_LARGE = 500  # atoms; the potential of a structure is computed for all pairs
_REFERENCE_SAMPLES, _MOST = 19_536, 4  # training samples of the measured recipe; its epochs at most this many times
_EQUIVARIANT = {"convolution": "PaiNN", "edges": {"number": 20}, "layers": 3, "pooling": "mean"}
_WHY_EQUIVARIANT = (
    "Vectors turn with the structure, which values of PaiNN do; it is slower than PNA, so that fewer layers are"
    " proposed (three, as in its publication)."
)
_COLUMNS, _SAMPLES_A_COLUMN = 16, 10  # of a linear fit: columns for each element, and samples for each of those
_SAMPLES_A_STEP = 20  # steps an epoch, at least, where the batch can be small enough


@dataclass(frozen=True)
class Data:
    """What the choices depend on.

    Attributes
    ----------
    manifest : Manifest
    summary : DatasetSummary
    distances : bool
        Whether geometries differ in the distances between atoms.
    turning : dict
        Why a target turns with the structure, by name.
    misdeclared : set of str
        Energies that are per atom and declared per structure, or the other way round.
    """

    manifest: Manifest
    summary: DatasetSummary
    distances: bool
    turning: dict[str, str]
    misdeclared: set[str | None]

    @property
    def n_train(self) -> int:
        """Samples of the training set."""
        return self.manifest.split[0]


@dataclass
class Proposal:
    """The content of a campaign file, key by key, and the reason for each value.

    Attributes
    ----------
    content : dict
    why : dict
        By key, dotted where it is within a section: lines that precede it as comments.
    """

    content: dict[str, Any] = field(default_factory=dict)
    why: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, value: Any, *reasons: str) -> None:
        """Set a key, and say why."""
        self.content[key] = value
        self.why[key] = [reason for reason in reasons if reason]

    def text(self, head: str) -> str:
        """Return it as YAML with comments."""
        lines = _comment(head)
        for key, value in self.content.items():
            lines += [line for reason in self.why.get(key, ()) for line in _comment(reason)]
            if key not in ("tasks", "training"):
                lines.append(f"{key}: {yaml_files.flow(value)}")
                continue
            lines.append(f"{key}:")
            lines += [f"  {yaml_files.flow(name)}: {yaml_files.flow(inner)}" for name, inner in value.items()]
        return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def read(dataset: Path) -> Data:
    """Read a data set, and determine what the choices depend on.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    manifest, arrays = store.read(dataset)
    _, counts = species_counts(arrays["atomic_numbers"], arrays["atom_offsets"])
    view = DataView(arrays, manifest.targets, manifest.source, manifest.neighbours, counts)
    return Data(
        manifest,
        baselines.summarise(arrays, manifest),
        distances=any(distances(view)),
        turning=turning.reasons(view),
        misdeclared={target for _, target in values.per_atom_or_per_cell(view)},
    )


def propose(data: Data, name: str, dataset: str, purpose: str) -> Proposal:
    """Return the campaign for a data set.

    Parameters
    ----------
    data : Data
    name, dataset : str
        The campaign's name, and the path of its data set as the file is to state it.
    purpose : {"accuracy", "speed", "paper"}

    Raises
    ------
    UserError
        If the data set has no target that can be learned.
    """
    made = Proposal()
    made.add("name", name)
    of_crystals = data.manifest.source.format == "lsms" and data.manifest.neighbours.boundary == "open"
    hint = (
        "Neighbours end at the cell's boundary, as the paper's do; with 'data prepare --boundary periodic --cell ...',"
        " errors were half as large."
    )
    made.add("dataset", dataset, hint * (of_crystals and purpose != "paper"))
    PURPOSES[purpose](made, data)
    campaign = parse_campaign(made.content, "the proposed campaign")
    match.check(campaign, data.manifest)
    return made


def _tasks(data: Data, vectors: bool = False) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the tasks that can be learned, without references, and why others are left out.

    With ``vectors``, targets of three components that turn with the structure are among them.
    """
    tasks: dict[str, dict[str, Any]] = {}
    left_out = []
    for name, target in data.manifest.targets.items():
        if any(low == high for low, high in zip(target.minimum, target.maximum, strict=True)):
            left_out.append(f"Left out: {name}, which is constant.")
        elif name in data.turning and not (vectors and len(target.minimum) == 3):
            left_out.append(
                f"Left out: {name}, which turns with the structure ({data.turning[name]}): a task whose values are"
                " scalars cannot learn it."
            )
        else:
            key = next(k for k in (_NAMES.get(name, name[0].upper()), name, f"{name}_2") if k not in tasks)
            vector = {"vector": True} if name in data.turning else {}
            tasks[key] = {"level": target.level, "field": name, **vector}
    if not tasks:
        raise UserError(f"no target of the data set can be learned: {' '.join(left_out)}")
    return tasks, left_out


def _variant(tasks: list[str]) -> str:
    return ("" if all(len(task) == 1 for task in tasks) else "+").join(tasks)


def _for_paper(made: Proposal, data: Data) -> None:
    """The paper's campaign: every set of tasks, twelve replicas, the species as input."""
    tasks, left_out = _tasks(data)
    names = list(tasks)
    sizes = range(len(names), 0, -1) if len(names) <= 3 else (len(names), 1)
    variants = [_variant(list(some)) for size in sizes for some in combinations(names, size)]
    made.add("tasks", tasks, *left_out)
    made.add("variants", variants, "Tasks together, and separately: does learning together help?")
    made.add("replicas", 12)
    model = {"convolution": "PNA", "layers": 6, "channels": 20, "pooling": "mean", "graph_head": [50, 25]}
    made.add("model", {**model, "node_head": [50, 25]}, "The paper's network (Lupo Pasini et al. 2022, section 4.1).")
    training = {
        "epochs": 200,
        "batch_size": min(64, data.n_train),
        "optimizer": {"name": "Adam", "learning_rate": 1e-3},
        "plateau": {"factor": 0.5, "patience": 5, "minimum": 1e-5},
        "early_stopping": {"patience": 30},
    }
    made.add("training", training)


def _for_accuracy(made: Proposal, data: Data) -> None:
    _recipe(made, data, {"channels": 30}, epochs=150)


def _for_speed(made: Proposal, data: Data) -> None:
    _recipe(made, data, {"channels": 20, "layers": 4}, epochs=50)


PURPOSES: dict[str, Callable[[Proposal, Data], None]] = {
    "accuracy": _for_accuracy,
    "speed": _for_speed,
    "paper": _for_paper,
}


def _recipe(made: Proposal, data: Data, model: dict[str, Any], epochs: int) -> None:
    """The measured recipe, as far as it applies to the data."""
    inputs, why_inputs = _inputs(data)
    made.add("inputs", inputs, *why_inputs)
    every, left_out = _tasks(data, vectors=True)
    tasks = {task: settings for task, settings in every.items() if "vector" not in settings}
    turning = [task for task in every if task not in tasks]
    made.add("tasks", every, *_add_references(data, tasks), *left_out)
    pooling, why_pooling = _pooling(data, tasks)
    shared = next(iter(pooling.values()), None)
    apart = [task for task, its in pooling.items() if its != shared]
    variants: list[Any] = [_variant([task for task in tasks if task not in apart])] if tasks else []
    if apart:
        own = {"pooling": pooling[apart[0]]}
        variants.append({"name": _variant(apart), "tasks": apart, "model": own})
    if turning:
        variants.append({"name": _variant(turning), "tasks": turning, "model": _EQUIVARIANT})
    why_apart = "Tasks together, as far as they need the same pooling." if apart else ""
    made.add("variants", variants, why_apart, _WHY_EQUIVARIANT * bool(turning))
    made.add("replicas", 4, "The mean of a few models is better than one, and their spread says how sure they are.")
    if shared:
        model = {**model, "pooling": shared}
    why_edges = ""
    if data.distances:
        model = {**model, "edges": {"number": 20, "basis": "bessel", "envelope": "polynomial"}}
        why_edges = f"{data.summary.geometries:,} geometries differ in the distances between atoms, which edges show."
    made.add("model", model, why_pooling, why_edges)
    made.add("training", *_training(data, epochs))
    made.add("launch", {"stack": 4}, "One worker trains the replicas of a variant together, which is fastest.")


def _inputs(data: Data) -> tuple[list[Any], list[str]]:
    """Return the inputs that describe an atom and its surroundings, and why."""
    elements, manifest = len(data.summary.elements), data.manifest
    inputs: list[Any] = ["species" if elements <= 2 else "one_hot"]
    why = ["What a model knows of an atom: its element, and its surroundings."]
    if elements > 2:
        why.append(f"one_hot: {elements} elements have no natural order, as one number would suggest.")
    if elements > 1 and manifest.source.compositions > 1:
        inputs.append("composition")
    inputs.append({"name": "shells", "number": 13})
    if elements > 1:
        partly = manifest.neighbours.boundary == "mixed"
        large = data.summary.atoms.maximum > _LARGE
        if partly or large:
            reason = "the boundary is periodic along some vectors only" if partly else "it is slow in large structures"
            why.append(f"Without ewald, the electrostatic potential: {reason}.")
        else:
            inputs.append({"name": "ewald", "powers": 3})
    return inputs, why


def _add_references(data: Data, tasks: dict[str, dict[str, Any]]) -> list[str]:
    """Add reference and weight to all tasks; returns why.

    A linear fit has about `_COLUMNS` columns per element, at graph level for each element. With few samples for each
    column it fits their noise, and the network cannot undo that.
    """
    elements, compositions = len(data.summary.elements), data.manifest.source.compositions
    atoms = data.manifest.distribution.atoms.mean if data.manifest.distribution else data.summary.atoms.minimum
    needed = _SAMPLES_A_COLUMN * _COLUMNS * elements**2
    linear = {"graph": data.n_train >= needed, "node": data.n_train * atoms >= needed}
    enough = 4 * compositions <= data.n_train
    levels = {task["level"] for task in tasks.values()}
    for task in tasks.values():
        task["reference"] = "linear" if enough and linear[task["level"]] else "species"
        if task["level"] == "graph" and task["reference"] == "linear" and len(levels) > 1:
            task["weight"] = 0.2
    used = {task["reference"] for task in tasks.values()}
    return [
        "linear: the network learns what a least-squares fit on the inputs, per composition, leaves."
        * ("linear" in used),
        (
            f"species: it learns what a fit on the elements leaves; {data.n_train:,} training samples of"
            f" {compositions:,} compositions are too few for a fit on all inputs."
        )
        * ("species" in used),
        "Graph-level residuals are the smallest: a weight of 0.2 beside node-level tasks."
        * any("weight" in task for task in tasks.values()),
    ]


def _pooling(data: Data, tasks: dict[str, dict[str, Any]]) -> tuple[dict[str, str], str]:
    """Return the pooling of each graph-level task, where structures differ in size, and why."""
    atoms = data.summary.atoms
    if atoms.minimum == atoms.maximum:
        return {}, ""
    graph = {task: settings["field"] for task, settings in tasks.items() if settings["level"] == "graph"}
    found = {task: "sum" if _grows(data, field) else "mean" for task, field in graph.items()}
    reasons = [
        f"{', '.join(some)}: {why}"
        for how, why in (("sum", "grows with the number of atoms, so sum"), ("mean", "does not grow, so mean"))
        if (some := [task for task, its in found.items() if its == how])
    ]
    return found, f"Structures have {atoms.minimum:,} to {atoms.maximum:,} atoms. {'; '.join(reasons)}." * bool(found)


def _grows(data: Data, name: str) -> bool:
    """Whether a target grows with the number of atoms: as it is declared, unless the values say otherwise."""
    unit = data.manifest.targets[name].unit
    if is_energy(unit.removesuffix("/atom")):
        return unit.endswith("/atom") == (name in data.misdeclared)
    return data.summary.targets[name].form == "per cell"


def _training(data: Data, epochs: int) -> tuple[dict[str, Any], str]:
    """Return the schedule, longer where an epoch is short, and why."""
    batch_size = 64
    while batch_size > 8 and data.n_train < _SAMPLES_A_STEP * batch_size:
        batch_size //= 2
    longer = min(_MOST, max(1.0, (_REFERENCE_SAMPLES / data.n_train) ** 0.5))
    epochs = 10 * round(epochs * longer / 10)
    training = {
        "epochs": epochs,
        "batch_size": min(batch_size, data.n_train),
        "optimizer": {"name": "Adam", "learning_rate": 3e-3},
        "schedule": "cosine",
        "early_stopping": None,
    }
    return training, (
        f"{epochs} epochs of {data.n_train:,} samples, while the learning rate falls along a cosine; early stopping"
        " would end them while it is still high."
    )
