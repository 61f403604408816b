"""Names of weights here and in HydraGNN, whose convolution PNA is PyTorch Geometric's in both.

HydraGNN puts at least one fully connected layer, shared by all graph-level outputs, between pooling and heads. A
network here has none: from HydraGNN, shared layers are copied into the head of each graph-level task; to HydraGNN, the
identity is that layer, which changes nothing, since pooled features are not negative after the last ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hydragnn_hpc.errors import UserError

_LINEARS = ("pre_nns.0.0", "post_nns.0.0", "lin")
_NORM = ("weight", "bias", "running_mean", "running_var")
_DEGREES = ("avg_deg_lin", "avg_deg_log")
# Names of other versions, as version 3 has them: of a model saved in parallel, of version 2, of version 4 and later.
_OTHER_NAMES = (
    (r"^module\.", ""),
    (r"^convs\.(\d+)\.", r"graph_convs.\1.module_0."),
    (r"^batch_norms\.(\d+)\.", r"feature_layers.\1."),
    (r"\.branch-0\.", "."),
)

Weights = dict[str, np.ndarray]
Tasks = Sequence[tuple[str, str]]
"""Name and level of each task, in the order of the outputs."""


def from_hydragnn(state: Weights, tasks: Tasks, layers: int, shared: int, where: str) -> tuple[Weights, list[float]]:
    """Return the weights here, and PNA's average degrees (empty where the checkpoint does not hold them).

    Parameters
    ----------
    state : dict
        HydraGNN's, of any version.
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
    left = {}
    for name, value in state.items():
        for pattern, replacement in _OTHER_NAMES:
            name = re.sub(pattern, replacement, name)
        if not np.isfinite(value).all():
            raise UserError(f"{where}: '{name}' holds values that are not finite; the training diverged: give another")
        left[name] = value
    found: Weights = {}
    degrees: list[float] = []

    def move(theirs: str, ours: str) -> None:
        if theirs not in left:
            raise UserError(f"{where}: has no '{theirs}'; do configuration and checkpoint belong together?")
        found[ours] = left[theirs]
        used.add(theirs)

    used: set[str] = set()
    for layer in range(layers):
        conv, norm = f"graph_convs.{layer}.module_0.", f"feature_layers.{layer}.module."
        for name in (f"{linear}.{kind}" for linear in _LINEARS for kind in ("weight", "bias")):
            move(conv + name, f"trunk.{layer}.conv.{name}")
        for name in _NORM:
            move(norm + name, f"trunk.{layer}.norm.{name}")
        held = [f"{conv}aggr_module.{name}" for name in _DEGREES]
        degrees = degrees or [float(left[name].ravel()[0]) for name in held if name in left]
        used |= {f"{norm}num_batches_tracked", *held}
    for number, (task, level) in enumerate(tasks):
        head = f"heads_NN.{number}." + ("mlp.0." if level == "node" else "")
        stems = [f"graph_shared.{2 * k}" for k in range(shared)] if level == "graph" else []
        linears = sum(re.fullmatch(rf"{re.escape(head)}\d+\.weight", name) is not None for name in left)
        stems += [f"{head}{2 * k}" for k in range(linears)]
        for k, stem in enumerate(stems):
            for kind in ("weight", "bias"):
                move(f"{stem}.{kind}", f"heads.{task}.{k}.{kind}")
    if not any(level == "graph" for _, level in tasks):
        used |= {name for name in left if name.startswith("graph_shared.")}
    if rest := sorted(left.keys() - used):
        raise UserError(
            f"{where}: {len(rest)} tensors, '{rest[0]}' among them, belong to no layer of the configured network; check"
            " that the configuration is the model's"
        )
    return found, degrees if len(degrees) == 2 else []


def to_hydragnn(weights: Weights, tasks: Tasks, layers: int, average_degree: Sequence[float]) -> Weights:
    """Return the weights under the names of HydraGNN 3, without the prefix of a model saved in parallel."""
    state: Weights = {}
    for layer in range(layers):
        conv, norm = f"graph_convs.{layer}.module_0.", f"feature_layers.{layer}.module."
        for name in (f"{linear}.{kind}" for linear in _LINEARS for kind in ("weight", "bias")):
            state[conv + name] = weights[f"trunk.{layer}.conv.{name}"]
        for name, average in zip(_DEGREES, average_degree, strict=True):
            state[f"{conv}aggr_module.{name}"] = np.array([average], np.float32)
        state |= {norm + name: weights[f"trunk.{layer}.norm.{name}"] for name in _NORM}
        state[f"{norm}num_batches_tracked"] = np.array(0)
    channels = len(weights[f"trunk.{layers - 1}.norm.weight"])
    if any(level == "graph" for _, level in tasks):
        state["graph_shared.0.weight"] = np.eye(channels, dtype=np.float32)
        state["graph_shared.0.bias"] = np.zeros(channels, np.float32)
    for number, (task, level) in enumerate(tasks):
        head = f"heads_NN.{number}." + ("mlp.0." if level == "node" else "")
        for name, value in weights.items():
            if match := re.fullmatch(rf"heads\.{re.escape(task)}\.(\d+)\.(weight|bias)", name):
                state[f"{head}{2 * int(match[1])}.{match[2]}"] = value
    return state
