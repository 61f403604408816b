"""A HydraGNN configuration as a campaign: what campaigns also have is carried over, and the rest is named."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.convolutions import CONVOLUTIONS
from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.proposal import Proposal
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.exchange.json_keys import ARCHITECTURE, TRAINING, HeadKey, Key, Keys, read_json
from hydragnn_hpc.exchange.unused import name_the_rest, refuse_other_values
from hydragnn_hpc.fields import PAPER_TASKS
from hydragnn_hpc.sections import LONGEST_NAME, OPTIMIZERS, as_name

_CONVOLUTIONS = {**{name: name for name in CONVOLUTIONS}, "PAINN": "PaiNN"}
_POOLINGS = {"mean": "mean", "add": "sum", "max": "max"}
# By level and column of LSMS text.
_LSMS_FIELDS = {("graph", 0): "mixing_enthalpy", ("node", 5): "charge_transfer", ("node", 6): "magnetic_moment"}
LOSSES = {"mse": "mse", "mae": "mae", "GaussianNLLLoss": "nll"}
"""A campaign's name of each loss, by HydraGNN's."""
_PROTONS = re.compile("proton|atomic_?num|^z$|species", re.IGNORECASE)  # names of the proton number
_MOST_SHARED = 100  # layers
_SHARED = (
    "HydraGNN's shared graph layers ({n} of width {width}) are the first of the graph-level head here; each graph-level"
    " task has its own."
)


@dataclass(frozen=True)
class OutputSettings:
    """One output of a HydraGNN model: ``index`` is that of its feature within ``level``, graph or node."""

    name: str
    level: str
    index: int
    weight: float


@dataclass(frozen=True)
class NetworkSettings:
    """The network of a configuration.

    Attributes
    ----------
    model : dict
        The campaign's section of that name; the shared graph layers lead its graph-level head.
    shared : int
        Number of shared graph layers; 0 without graph-level outputs.
    radius : float
        In the unit of the data's positions, which HydraGNN does not record.
    periodic : bool
    """

    model: dict[str, Any]
    shared: int
    radius: float
    periodic: bool


def open_configuration(path: Path) -> Keys:
    """Read a configuration of any version of HydraGNN; a network with one branch becomes one without branches.

    Raises
    ------
    UserError
        If it cannot be read, is not such a configuration, or has several branches.
    """
    content = read_json(path)
    network = content.get("NeuralNetwork")
    architecture = network.get("Architecture") if isinstance(network, dict) else None
    if not isinstance(architecture, dict):
        raise UserError(f"{path}: NeuralNetwork.Architecture is missing; give a configuration of HydraGNN")
    heads: dict[str, Any] = architecture["output_heads"] if isinstance(architecture.get("output_heads"), dict) else {}
    for level, branches in heads.items():
        if isinstance(branches, list):
            if len(branches) != 1 or not isinstance(branches[0], dict):
                raise UserError(
                    f"{path}: {Key.HEADS}.{level} has {len(branches)} branches; keep only the one to import"
                )
            heads[level] = branches[0].get("architecture")
    return Keys(content, str(path))


def take_features(keys: Keys) -> dict[str, list[str]]:
    """Return the names of the features by level, graph and node; empty lists if the file does not name them."""
    paths = {"graph": Key.GRAPH_FEATURES, "node": Key.NODE_FEATURES}
    return {level: keys.take_list(path, str, []) for level, path in paths.items()}


def take_outputs(keys: Keys, features: dict[str, list[str]]) -> list[OutputSettings]:
    """Return the outputs in order; an unnamed one takes the name of its feature.

    Raises
    ------
    UserError
        If the lists that describe them do not fit together.
    """
    levels = keys.take_list(Key.TYPE, str)
    indices = keys.take_list(Key.OUTPUT_INDEX, int)
    names = keys.take_list(Key.OUTPUT_NAMES, str, [])
    weights = keys.take_list(Key.TASK_WEIGHTS, float, [1.0] * len(levels))
    if not levels or any(level not in features for level in levels):
        raise keys.error(Key.TYPE, levels, "an output is of level graph or node; correct it")
    if not names:
        names = [_at(features[level], k) or f"{level}_{k}" for level, k in zip(levels, indices, strict=False)]
    for path, values in (
        (Key.OUTPUT_INDEX, indices),
        (Key.OUTPUT_NAMES, names),
        (Key.TASK_WEIGHTS, weights),
    ):
        if len(values) != len(levels):
            count = counted(len(values), "entry", "entries")
            raise keys.error(path, values, f"{count} for {counted(len(levels), 'output')}; give one for each")
    if any(weight <= 0 for weight in weights):
        raise keys.error(Key.TASK_WEIGHTS, weights, "a task's weight is positive; leave that output out")
    return [OutputSettings(*fields) for fields in zip(names, levels, indices, weights, strict=True)]


def take_network(keys: Keys, levels: set[str]) -> NetworkSettings:
    """Return the network for outputs of these ``levels``.

    Raises
    ------
    UserError
        If a campaign cannot have such a network; names the key.
    """
    refuse_other_values(keys)
    convolution = _convolution(keys)
    model: dict[str, Any] = {"convolution": convolution}
    if CONVOLUTIONS[convolution].edges == "required":
        number = keys.take(f"{ARCHITECTURE}.num_gaussians", int, None) or keys.take(
            f"{ARCHITECTURE}.num_radial", int, None
        )
        model["edges"] = {"number": number or 20}
    model |= {
        "layers": _size(keys, Key.LAYERS),
        "channels": _size(keys, Key.CHANNELS),
        "pooling": _looked_up(keys, f"{ARCHITECTURE}.graph_pooling", _POOLINGS, "mean"),
    }
    heads, shared = Key.HEADS, 0
    if "graph" in levels or keys.has(f"{heads}.graph"):
        shared_path = f"{heads}.graph.{HeadKey.SHARED_LAYERS}"
        shared = keys.take(shared_path, int)
        if not 0 <= shared <= _MOST_SHARED:
            raise keys.error(shared_path, shared, f"expected 0 to {_MOST_SHARED}; correct it")
        width = _size(keys, f"{heads}.graph.{HeadKey.SHARED_WIDTH}")
        model["graph_head"] = [width] * max(shared, 1) + _head(keys, f"{heads}.graph")
        shared = max(shared, 1)  # HydraGNN always makes the first
    if "node" in levels or keys.has(f"{heads}.node"):
        kind = keys.take(f"{heads}.node.{HeadKey.TYPE}", str, "mlp")
        if kind != "mlp":
            raise keys.error(f"{heads}.node.{HeadKey.TYPE}", kind, "all atoms share one head here; set mlp")
        model["node_head"] = _head(keys, f"{heads}.node")
    radius = keys.take(Key.RADIUS, float)
    if not 0 < radius < math.inf:
        raise keys.error(Key.RADIUS, radius, "expected a positive length; correct it")
    return NetworkSettings(model, shared, radius, keys.take(Key.PERIODIC, bool, False))


def _convolution(keys: Keys) -> str:
    if not keys.has(Key.CONVOLUTION):
        return _looked_up(keys, Key.CONVOLUTION_BEFORE_4, _CONVOLUTIONS)
    keys.left.pop(Key.CONVOLUTION_BEFORE_4, None)
    return _looked_up(keys, Key.CONVOLUTION, _CONVOLUTIONS)


def _looked_up(keys: Keys, path: str, table: dict[str, str], default: str = "") -> str:
    """Return a campaign's name for the value at ``path``."""
    value = keys.take(path, str, default) if default else keys.take(path, str)
    if value not in table:
        raise keys.error(path, value, f"not available here; set one of: {', '.join(table)}")
    return table[value]


def _size(keys: Keys, path: str) -> int:
    value: int = keys.take(path, int)
    if value < 1:
        raise keys.error(path, value, "expected at least 1; correct it")
    return value


def _head(keys: Keys, path: str) -> list[int]:
    widths_path = f"{path}.{HeadKey.WIDTHS}"
    widths = keys.take_list(widths_path, int)
    if any(width < 1 for width in widths):
        raise keys.error(widths_path, widths, "a layer has a width of at least 1; correct it")
    number = keys.take(f"{path}.{HeadKey.LAYERS}", int, len(widths))
    if number != len(widths):
        raise keys.error(widths_path, widths, f"{len(widths)} widths for {HeadKey.LAYERS}={number}; give as many")
    return widths


def _at(values: list[Any], index: int) -> Any:
    return values[index] if 0 <= index < len(values) else None


def campaign_file(path: Path) -> tuple[str, list[str]]:
    """Return a configuration as the text of a campaign file, and a line for each key that is not carried over.

    Raises
    ------
    UserError
        If it cannot be read, or a campaign cannot have such a network or training.
    """
    keys = open_configuration(path)
    features = take_features(keys)
    outputs = take_outputs(keys, features)
    network = take_network(keys, {output.level for output in outputs})
    proposal = Proposal()
    name = as_name(keys.take(Key.NAME, str, path.stem), "hydragnn")
    proposal.add("name", name)
    proposal.add("dataset", f"{name}.bp", *_preparation(keys, network, name, outputs))
    fields = _fields(keys, outputs)
    tasks = _tasks(outputs, fields, _looked_up(keys, Key.LOSS, LOSSES, "mse"))
    proposal.add("tasks", tasks)
    proposal.add("variants", [variant_of(list(tasks))], "Tasks can also be trained separately: list more variants.")
    proposal.add("replicas", 1, "More replicas make an ensemble.")
    shared = _SHARED.format(n=network.shared, width=network.model["graph_head"][0]) if network.shared else ""
    other = f"Layers of {network.model['convolution']} may differ in details from HydraGNN's."
    proposal.add("model", network.model, shared, other * (network.model["convolution"] != "PNA"))
    proposal.add("training", _training(keys))
    check_inputs(keys, features["node"])
    if not keys.left.get(f"{TRAINING}.continue"):
        keys.left.pop(f"{TRAINING}.startfrom", None)
    parse_campaign(proposal.content, str(path))
    unused = name_the_rest(keys)
    header = f"Imported from {path.name}, a configuration of HydraGNN."
    text = proposal.text(header)
    if unused:
        text += "\n# Not carried over:\n" + "".join(f"#   {line}\n" for line in unused)
    return text, unused


def _tasks(outputs: list[OutputSettings], fields: list[str], loss: str) -> dict[str, dict[str, Any]]:
    own_loss = {} if loss == "mse" else {"loss": loss}
    tasks: dict[str, dict[str, Any]] = {}
    for name, output, field in zip(task_names(fields), outputs, fields, strict=True):
        weight = {} if output.weight == 1 else {"weight": float(output.weight)}
        tasks[name] = {"level": output.level, "field": field, **weight, **own_loss}
    return tasks


def task_names(fields: list[str]) -> list[str]:
    """Return the name of a task for each field: the paper's, or one like the field's; all are different."""
    plain = [
        PAPER_TASKS.get(field, re.sub(r"[^A-Za-z0-9_.-]", "-", field).lstrip("_.-")[:LONGEST_NAME] or "output")
        for field in fields
    ]
    names: list[str] = []
    for name in plain:
        numbered = (f"{name[: LONGEST_NAME - 4]}_{number}" for number in count(1))
        names.append(name if name not in names else next(n for n in numbered if n not in (*names, *plain)))
    return names


def variant_of(tasks: list[str]) -> str | dict[str, Any]:
    """Return the variant of all tasks, as a campaign file spells it."""
    name = ("" if all(len(task) == 1 for task in tasks) else "+").join(tasks)
    return name if len(name) <= LONGEST_NAME else {"name": "all", "tasks": tasks}


def _fields(keys: Keys, outputs: list[OutputSettings]) -> list[str]:
    """Return the target of each output: for LSMS text by its column, otherwise the output's name."""
    form = keys.take("Dataset.format", str, "")
    columns = {level: keys.take_list(f"Dataset.{level}_features.column_index", int, []) for level in ("graph", "node")}
    for level in columns:
        dims = keys.take_list(f"Dataset.{level}_features.dim", int, [])
        if form == "LSMS" and any(dim != 1 for dim in dims):
            raise keys.error(f"Dataset.{level}_features.dim", dims, "targets of LSMS text have one component; set 1")
    if form != "LSMS":
        return [_plain(output.name) for output in outputs]
    fields = []
    for output in outputs:
        column = _at(columns[output.level], output.index)
        if (output.level, column) not in _LSMS_FIELDS:
            raise UserError(
                f"{keys.where}: output '{output.name}' is column {column} of LSMS text; targets there are columns 5"
                " and 6 of an atom (charge, moment) and 0 of the first line (energy): leave that output out"
            )
        fields.append(_LSMS_FIELDS[output.level, column])
    return fields


def _plain(name: str) -> str:
    """Return the name of the target that belongs to an output of this name."""
    return re.sub(r"^(?=\d|_)", "t", re.sub(r"\W", "_", name, flags=re.ASCII))[:LONGEST_NAME] or "target"


def _preparation(keys: Keys, network: NetworkSettings, name: str, outputs: list[OutputSettings]) -> list[str]:
    """Return how the data set is made, as comments."""
    lsms = keys.left.get("Dataset.format") == "LSMS"
    source = next((str(keys.left.pop(p)) for p in list(keys.left) if p.startswith("Dataset.path")), "SOURCE")
    share = keys.take(Key.TRAINING_SHARE, float, 0.7)
    if not 0 < share < 1:
        raise keys.error(Key.TRAINING_SHARE, share, "give a share between 0 and 1")
    rest = (1 - share) / 2
    by = "composition" if keys.take("Dataset.compositional_stratified_splitting", bool, False) else "random"
    unit = keys.take(Key.LENGTH_UNIT, str, "bohr" if lsms else "UNIT")
    boundary = "periodic" if network.periodic else "open"
    command = f"hydragnn-hpc data prepare {source} {name}.bp --cutoff {network.radius:g}{unit} --boundary {boundary}"
    command += f" --fractions {share:g},{rest:.6g},{rest:.6g} --split-by {by}"
    if lsms:
        about = (
            "Give the original LSMS text, not HydraGNN's folder of enthalpies: the mixing enthalpy (per cell) is"
            " derived here. Positions and radius are in bohr."
        )
        if network.periodic:
            command += " --cell 'A B C bohr'"
            about += " A, B and C are the cell's edge lengths, which LSMS text does not hold."
    else:
        command += "".join(f" --target {_plain(output.name)}={output.level}:KEY:UNIT" for output in outputs)
        about = "A target's KEY and UNIT are the file's."
        if unit == "UNIT":
            about = f"The cutoff's UNIT is that of the positions, which HydraGNN does not record. {about}"
    return [f"Made by: {command}", about]


def check_inputs(keys: Keys, names: list[str]) -> None:
    """Take the inputs, and refuse any but the proton number.

    Raises
    ------
    UserError
        If there are others; ``names`` are those of the node features, if the file names them.
    """
    path = Key.INPUTS
    inputs = keys.take_list(path, int, [0])
    given = [_at(names, k) or "" for k in inputs]
    if len(inputs) != 1 or not (_PROTONS.search(given[0]) or (not names and inputs == [0])):
        raise keys.error(
            path,
            inputs,
            f"inputs are computed from the structure here, not read ({given}); give only the proton number",
        )


def _training(keys: Keys) -> dict[str, Any]:
    """Return the section ``training``; the plateau's numbers are those of HydraGNN's scripts."""
    kind = keys.take(Key.OPTIMIZER, str, keys.take(f"{TRAINING}.optimizer", str, "AdamW"))
    rate = keys.take(Key.LEARNING_RATE, float, keys.take(f"{TRAINING}.learning_rate", float, 1e-3))
    if kind not in OPTIMIZERS:
        raise keys.error(Key.OPTIMIZER, kind, f"not available here; set one of: {', '.join(OPTIMIZERS)}")
    momentum = {"momentum": 0.0} if kind == "SGD" else {}
    stops = keys.take(f"{TRAINING}.EarlyStopping", bool, False)
    patience = keys.take(f"{TRAINING}.patience", int, 10)
    return {
        "epochs": keys.take(Key.EPOCHS, int),
        "batch_size": keys.take(Key.BATCH_SIZE, int, 32),
        "optimizer": {"name": kind, "learning_rate": float(rate), **momentum},
        "plateau": {"factor": 0.5, "patience": 5, "minimum": 1.0e-5},
        "early_stopping": {"patience": patience} if stops else None,
    }
