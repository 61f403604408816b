"""Trained members as models of HydraGNN 3: for each a folder with its checkpoint and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog

from hydragnn_hpc.atomic import new_folder, write_json
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.exchange.models import CONFIGURATION, STATE
from hydragnn_hpc.exchange.names import to_hydragnn
from hydragnn_hpc.ledger import read_frozen
from hydragnn_hpc.member import tensor_files
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.prediction.ensemble import finished_members
from hydragnn_hpc.records.model import ModelFacts

_COUNTED = 10**6  # atoms of the histogram of degrees; float32 holds every count


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
    names = []
    with new_folder(folder) as made:
        for name, members in finished.items():
            own = campaign.of_variant(campaign.variant(name))
            for member in members:
                facts, weights = tensor_files.read_weights(campaign_folder.member(name, member.replica))
                model = f"{name}-{member.replica:02d}"
                (made / model).mkdir()
                _one_range(facts, weights)
                tasks = [(task, facts.tasks[task].level) for task in own.tasks]
                state = to_hydragnn(weights, tasks, own.model.layers, facts.average_degree)
                tensor_files.write_state(made / model / f"{model}.pk", STATE, state)
                write_json(made / model / CONFIGURATION, configuration(own, facts))
                names.append(model)
    return names


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


def _one_range(facts: ModelFacts, weights: dict[str, np.ndarray]) -> None:
    """Scale the components of each vector task by one range, as HydraGNN does: its last layer changes accordingly."""
    for name, task in facts.tasks.items():
        low, high = np.array(task.minimum), np.array(task.maximum)
        width = (high.max() - low.min()) or 1.0
        if task.width > 1:
            last = max(int(k.split(".")[-2]) for k in weights if k.startswith(f"heads.{name}."))
            stem, factor = f"heads.{name}.{last}.", (high - low) / width
            weights[stem + "weight"] = (weights[stem + "weight"] * factor[:, None]).astype(np.float32)
            shifted = weights[stem + "bias"] * factor + (low - low.min()) / width
            weights[stem + "bias"] = shifted.astype(np.float32)


def degree_histogram(average: list[float], most: int) -> list[int]:
    """Return counts of degrees up to ``most`` that have these averages (mean degree, mean of log(degree + 1)).

    The data set's own counts are not in a model; HydraGNN takes nothing from them but the averages.
    """
    degree = np.arange(most + 1)
    conditions = np.stack([np.ones(most + 1), degree, np.log(degree + 1)])
    # Close to the mean degree: of all with these averages, that with the least spread.
    found = linprog((degree - average[0]) ** 2, A_eq=conditions, b_eq=[1.0, *average], bounds=(0, 1))
    share = found.x if found.status == 0 else np.eye(most + 1)[min(round(average[0]), most)]
    return [int(n) for n in np.rint(share * _COUNTED)]


def configuration(campaign: Campaign, facts: ModelFacts) -> dict[str, Any]:
    """Return the configuration that HydraGNN 3 would have saved with such a model, also under later versions' names."""
    model, near = campaign.model, facts.neighbours
    tasks = [facts.tasks[name] for name in campaign.tasks]
    degrees = degree_histogram(facts.average_degree, near.most or int(np.ceil(facts.average_degree[0])) + 1)
    # Where it is not known, as many as fit within the cutoff at 1 bohr from one another: it limits nothing.
    most = near.most or int((2 * near.cutoff_bohr + 1) ** 3)
    graph = {"num_sharedlayers": 1, "dim_sharedlayers": model.channels}
    heads = {
        "graph": {**graph, "num_headlayers": len(model.graph_head), "dim_headlayers": list(model.graph_head)},
        "node": {"num_headlayers": len(model.node_head), "dim_headlayers": list(model.node_head), "type": "mlp"},
    }
    levels = [task.level for task in tasks]
    unset = (
        "edge_dim", "initial_bias", "num_before_skip", "num_after_skip", "num_radial", "basis_emb_size",
        "int_emb_size", "out_emb_size", "envelope_exponent", "num_spherical", "num_gaussians", "num_filters",
    )  # fmt: skip
    architecture: dict[str, Any] = {
        "model_type": "PNA", "mpnn_type": "PNA", "radius": near.cutoff_bohr, "max_neighbours": most,
        "periodic_boundary_conditions": near.boundary == "periodic", "hidden_dim": model.channels,
        "num_conv_layers": model.layers, "output_heads": {level: heads[level] for level in dict.fromkeys(levels)},
        "task_weights": [campaign.tasks[name].weight for name in campaign.tasks], "input_dim": facts.inputs,
        "output_dim": [task.width for task in tasks], "output_type": levels, "num_nodes": 1, "pna_deg": degrees,
        "activation_function": "relu", "freeze_conv_layers": False, "equivariance": False, "SyncBatchNorm": False,
        **dict.fromkeys(unset),
    }  # fmt: skip
    index = {"graph": 0, "node": 1}
    places = []
    for level in levels:
        places.append(index[level])
        index[level] += 1
    optimizer = campaign.training.optimizer
    return {
        "Verbosity": {"level": 0},
        "Dataset": {
            "name": campaign.name,
            "length_unit": "bohr",
            "node_features": {
                "name": ["num_of_protons", *(n for n, task in facts.tasks.items() if task.level == "node")]
            },
            "graph_features": {"name": [n for n, task in facts.tasks.items() if task.level == "graph"]},
        },
        "NeuralNetwork": {
            "Architecture": architecture,
            "Variables_of_interest": {
                "input_node_features": [0],
                "output_names": list(campaign.tasks),
                "output_index": places,
                "type": levels,
                "denormalize_output": True,
                "x_minmax": [[float(facts.species.minimum), float(facts.species.maximum)]],
                "y_minmax": [[min(task.minimum), max(task.maximum)] for task in tasks],
            },
            "Training": {
                "num_epoch": campaign.training.epochs,
                "batch_size": campaign.training.batch_size,
                "perc_train": 0.7,
                "loss_function_type": "mse",
                "Optimizer": {"type": optimizer.name, "learning_rate": optimizer.learning_rate},
            },
        },
    }
