"""Names of weights here and in HydraGNN; in both, PNA is PyTorch Geometric's convolution.

HydraGNN puts at least one fully connected layer, shared by all graph-level outputs, between pooling and heads. A
network here has none: from HydraGNN, shared layers are copied into the head of each graph-level task; to HydraGNN, the
identity is that layer, which changes nothing, since pooled features are not negative after the last ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from hydragnn_hpc.errors import UserError

_AFFINE = ("weight", "bias")
_CONVOLUTION = tuple(f"{linear}.{kind}" for linear in ("pre_nns.0.0", "post_nns.0.0", "lin") for kind in _AFFINE)
_NORM = (*_AFFINE, "running_mean", "running_var")
_DEGREES = ("avg_deg_lin", "avg_deg_log")
# Replacements that turn other names into those of version 3.
_TO_VERSION_3 = (
    (r"^module\.", ""),  # of a model that was trained in parallel
    (r"^convs\.(\d+)\.", r"graph_convs.\1.module_0."),  # version 2
    (r"^batch_norms\.(\d+)\.", r"feature_layers.\1."),  # version 2
    (r"\.branch-0\.", "."),  # version 4 and later
)

Weights = dict[str, np.ndarray]
Tasks = Sequence[tuple[str, str]]
"""Name and level of each task, in the order of the outputs."""


def from_hydragnn(state: Weights, tasks: Tasks, layers: int, shared: int, where: str) -> tuple[Weights, list[float]]:
    """Return the weights here, and PNA's average degrees (empty where the checkpoint does not hold them).

    Parameters
    ----------
    state : dict
        HydraGNN's weights, of version 2 or later.
    tasks : sequence of (str, str)
    layers, shared : int
        Number of convolutions, and of shared graph layers.
    where : str
        The file, for errors.

    Raises
    ------
    UserError
        If a tensor is missing or left over, or a value is not finite.
    """
    theirs: Weights = {}
    for name, value in state.items():
        for pattern, replacement in _TO_VERSION_3:
            name = re.sub(pattern, replacement, name)
        if not np.isfinite(value).all():
            raise UserError(f"{where}: '{name}' holds values that are not finite; the training diverged: give another")
        theirs[name] = value
    ours: Weights = {}
    degrees: list[float] = []
    used: set[str] = set()

    def move(their_name: str, our_name: str) -> None:
        if their_name not in theirs:
            raise UserError(f"{where}: has no '{their_name}'; do configuration and checkpoint belong together?")
        ours[our_name] = theirs[their_name]
        used.add(their_name)

    for layer in range(layers):
        for their_name, our_name in _trunk_names(layer):
            move(their_name, our_name)
        of_degrees = _degree_names(layer)
        degrees = degrees or [float(theirs[name].ravel()[0]) for name in of_degrees if name in theirs]
        used |= {_counter_name(layer), *of_degrees}
    for number, (task, level) in enumerate(tasks):
        head = _head_prefix(number, level)
        linears = [f"graph_shared.{2 * k}" for k in range(shared)] if level == "graph" else []
        own = sum(re.fullmatch(rf"{re.escape(head)}\d+\.weight", name) is not None for name in theirs)
        linears += [f"{head}{2 * k}" for k in range(own)]
        for k, linear in enumerate(linears):
            for kind in _AFFINE:
                move(f"{linear}.{kind}", f"heads.{task}.{k}.{kind}")
    if not any(level == "graph" for _, level in tasks):
        used |= {name for name in theirs if name.startswith("graph_shared.")}
    if rest := sorted(theirs.keys() - used):
        raise UserError(
            f"{where}: {len(rest)} tensors, '{rest[0]}' among them, belong to no layer of the configured network; check"
            " that the configuration is the model's"
        )
    return ours, degrees if len(degrees) == len(_DEGREES) else []


def to_hydragnn(weights: Weights, tasks: Tasks, layers: int, average_degree: Sequence[float]) -> Weights:
    """Return the weights under the names of HydraGNN 3, without the prefix of a model saved in parallel."""
    state: Weights = {}
    for layer in range(layers):
        state |= {their_name: weights[our_name] for their_name, our_name in _trunk_names(layer)}
        for name, average in zip(_degree_names(layer), average_degree, strict=True):
            state[name] = np.array([average], np.float32)
        state[_counter_name(layer)] = np.array(0)
    channels = len(weights[f"trunk.{layers - 1}.norm.weight"])
    if any(level == "graph" for _, level in tasks):
        state["graph_shared.0.weight"] = np.eye(channels, dtype=np.float32)
        state["graph_shared.0.bias"] = np.zeros(channels, np.float32)
    for number, (task, level) in enumerate(tasks):
        for name, value in weights.items():
            if match := re.fullmatch(rf"heads\.{re.escape(task)}\.(\d+)\.(weight|bias)", name):
                state[f"{_head_prefix(number, level)}{2 * int(match[1])}.{match[2]}"] = value
    return state


def _trunk_names(layer: int) -> Iterator[tuple[str, str]]:
    """Yield HydraGNN's name and ours of each array of a layer of the trunk."""
    for name in _CONVOLUTION:
        yield f"graph_convs.{layer}.module_0.{name}", f"trunk.{layer}.conv.{name}"
    for name in _NORM:
        yield f"feature_layers.{layer}.module.{name}", f"trunk.{layer}.norm.{name}"


def _degree_names(layer: int) -> list[str]:
    return [f"graph_convs.{layer}.module_0.aggr_module.{name}" for name in _DEGREES]


def _counter_name(layer: int) -> str:
    """Return the name of the number of batches that a batch norm has seen, which is not needed here."""
    return f"feature_layers.{layer}.module.num_batches_tracked"


def _head_prefix(number: int, level: str) -> str:
    """Return what precedes the layers of a head; every second one, from 0, is linear."""
    return f"heads_NN.{number}." + ("mlp.0." if level == "node" else "")
