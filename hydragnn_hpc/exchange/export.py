"""Trained members as models of HydraGNN 3: for each a folder with its checkpoint and its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog

from hydragnn_hpc.atomic import new_folder, write_json
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.exchange.json_keys import ARCHITECTURE, HeadKey, Key, nested
from hydragnn_hpc.exchange.models import CONFIGURATION, STATE
from hydragnn_hpc.exchange.names import to_hydragnn
from hydragnn_hpc.ledger import read_frozen
from hydragnn_hpc.member import tensor_files
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.prediction.ensemble import finished_members
from hydragnn_hpc.records.model import ModelFacts

_COUNTED = 10**6  # atoms of the histogram of degrees; float32 holds every count
# Settings of other layers than PNA, which HydraGNN 3 requires all the same.
_UNSET = (
    "edge_dim", "initial_bias", "num_before_skip", "num_after_skip", "num_radial", "basis_emb_size", "int_emb_size",
    "out_emb_size", "envelope_exponent", "num_spherical", "num_gaussians", "num_filters",
)  # fmt: skip


def export(out: Path, folder: Path, variants: list[str]) -> list[str]:
    """Write the finished members of some variants (all, where none are named); return the names of the models.

    Raises
    ------
    UserError
        If a variant has no finished member, or HydraGNN 3 has no such network.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; give the name of a new folder")
    campaign_folder = CampaignFolder(out)
    campaign = read_frozen(campaign_folder).campaign
    finished = finished_members(campaign_folder, campaign, variants)
    for name in finished:
        _refuse_other(campaign.of_variant(campaign.variant(name)), name)
    models = []
    with new_folder(folder) as made:
        for name, members in finished.items():
            own = campaign.of_variant(campaign.variant(name))
            for member in members:
                facts, weights = tensor_files.read_weights(campaign_folder.member(name, member.replica))
                model = f"{name}-{member.replica:02d}"
                (made / model).mkdir()
                _scale_by_one_range(facts, weights)
                tasks = [(task, facts.tasks[task].level) for task in own.tasks]
                state = to_hydragnn(weights, tasks, own.model.layers, facts.average_degree)
                tensor_files.write_state(made / model / f"{model}.pk", STATE, state)
                write_json(made / model / CONFIGURATION, configuration(own, facts))
                models.append(model)
    return models


def _refuse_other(campaign: Campaign, variant: str) -> None:
    """Refuse a variant whose network HydraGNN 3 cannot have."""
    model, levels = campaign.model, {task.level for task in campaign.tasks.values()}
    reasons = (
        (model.convolution != "PNA", f"model.convolution={model.convolution}: only PNA has HydraGNN's weights"),
        (model.edges is not None, "model.edges: HydraGNN's edges have other features"),
        (model.pooling != "mean" and "graph" in levels, f"model.pooling={model.pooling}: HydraGNN 3 takes the mean"),
        ([i.name for i in campaign.inputs] != ["species"], "inputs: HydraGNN computes none beyond the species"),
        (not model.graph_head and "graph" in levels, "model.graph_head=[]: HydraGNN's heads have a hidden layer"),
        (not model.node_head and "node" in levels, "model.node_head=[]: HydraGNN's heads have a hidden layer"),
        (campaign.training.fitted_to != "all", "training.fitted_to=samples: HydraGNN scales by all samples"),
        *(
            refusal
            for name, task in campaign.tasks.items()
            for refusal in (
                (task.reference != "none", f"tasks.{name}.reference={task.reference}: HydraGNN adds no reference"),
                (task.has_noise, f"tasks.{name}.loss={task.loss.name}: HydraGNN 3 predicts no variance"),
            )
        ),
    )
    for applies, reason in reasons:
        if applies:
            raise UserError(f"variant '{variant}' cannot be exported: {reason}; export others with --variant")


def _scale_by_one_range(facts: ModelFacts, weights: dict[str, np.ndarray]) -> None:
    """Scale the components of each vector task by one range, as HydraGNN does: change its last layer in ``weights``."""
    for name, task in facts.tasks.items():
        low, high = np.array(task.minimum), np.array(task.maximum)
        span = (high.max() - low.min()) or 1.0
        if task.width > 1:
            last = max(int(k.split(".")[-2]) for k in weights if k.rsplit(".", 2)[0] == f"heads.{name}")
            stem, factor = f"heads.{name}.{last}.", (high - low) / span
            weights[stem + "weight"] = (weights[stem + "weight"] * factor[:, None]).astype(np.float32)
            shifted = weights[stem + "bias"] * factor + (low - low.min()) / span
            weights[stem + "bias"] = shifted.astype(np.float32)


def degree_histogram(average: list[float], most: int) -> list[int]:
    """Return counts of degrees up to ``most`` that have these averages (mean degree, mean of log(degree + 1)).

    A model does not hold the counts of its data set, and HydraGNN takes only the averages from them.
    """
    degree = np.arange(most + 1)
    conditions = np.stack([np.ones(most + 1), degree, np.log(degree + 1)])
    # Of all distributions with these averages, the one of least variance.
    solution = linprog((degree - average[0]) ** 2, A_eq=conditions, b_eq=[1.0, *average], bounds=(0, 1))
    share = solution.x if solution.status == 0 else np.eye(most + 1)[min(round(average[0]), most)]
    return [int(n) for n in np.rint(share * _COUNTED)]


def configuration(campaign: Campaign, facts: ModelFacts) -> dict[str, Any]:
    """Return the configuration that HydraGNN 3 would have saved with such a model, also under later versions' names."""
    model, near, optimizer = campaign.model, facts.neighbours, campaign.training.optimizer
    tasks = {name: facts.tasks[name] for name in campaign.tasks}
    levels = [task.level for task in tasks.values()]
    by_level = {level: [name for name in tasks if tasks[name].level == level] for level in ("graph", "node")}
    node_features = ["num_of_protons", *by_level["node"]]
    heads: dict[str, dict[str, Any]] = {
        "graph": {HeadKey.SHARED_LAYERS: 1, HeadKey.SHARED_WIDTH: model.channels, **_head(model.graph_head)},
        "node": {**_head(model.node_head), HeadKey.TYPE: "mlp"},
    }
    return nested({
        "Verbosity.level": 0,
        Key.NAME: campaign.name,
        Key.LENGTH_UNIT: "bohr",
        Key.NODE_FEATURES: node_features,
        Key.GRAPH_FEATURES: by_level["graph"],
        Key.CONVOLUTION_BEFORE_4: "PNA",
        Key.CONVOLUTION: "PNA",
        Key.RADIUS: near.cutoff_bohr,
        # Where it is not known, as many as fit within the cutoff at 1 bohr from one another: it limits nothing.
        Key.MAX_NEIGHBOURS: near.most or int((2 * near.cutoff_bohr + 1) ** 3),
        Key.PERIODIC: near.boundary == "periodic",
        Key.CHANNELS: model.channels,
        Key.LAYERS: model.layers,
        Key.HEADS: {level: heads[level] for level in dict.fromkeys(levels)},
        Key.TASK_WEIGHTS: [campaign.tasks[name].weight for name in tasks],
        Key.INPUT_WIDTH: facts.inputs,
        Key.OUTPUT_WIDTHS: [task.width for task in tasks.values()],
        Key.OUTPUT_LEVELS: levels,
        Key.NUM_NODES: 1,
        Key.DEGREES: degree_histogram(facts.average_degree, near.most or int(np.ceil(facts.average_degree[0])) + 1),
        Key.ACTIVATION: "relu",
        Key.FREEZE: False,
        Key.EQUIVARIANCE: False,
        Key.SYNC_BATCH_NORM: False,
        **{f"{ARCHITECTURE}.{name}": None for name in _UNSET},
        Key.INPUTS: [0],
        Key.OUTPUT_NAMES: list(tasks),
        Key.OUTPUT_INDEX: [
            (node_features if task.level == "node" else by_level["graph"]).index(name) for name, task in tasks.items()
        ],
        Key.TYPE: levels,
        Key.DENORMALIZE: True,
        Key.INPUT_RANGES: [[float(facts.species.minimum), float(facts.species.maximum)]],
        Key.OUTPUT_RANGES: [[min(task.minimum), max(task.maximum)] for task in tasks.values()],
        Key.EPOCHS: campaign.training.epochs,
        Key.BATCH_SIZE: campaign.training.batch_size,
        Key.TRAINING_SHARE: 0.7,  # which a model does not hold
        Key.LOSS: "mse",
        Key.OPTIMIZER: optimizer.name,
        Key.LEARNING_RATE: optimizer.learning_rate,
    })  # fmt: skip


def _head(widths: Sequence[int]) -> dict[str, Any]:
    return {HeadKey.LAYERS: len(widths), HeadKey.WIDTHS: list(widths)}
