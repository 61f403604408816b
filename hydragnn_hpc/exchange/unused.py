"""Keys of HydraGNN's configurations that a campaign cannot carry, and why."""

from __future__ import annotations

from typing import Any

from hydragnn_hpc.exchange.json_keys import Keys, shown

_NETWORK, _TRAINING = "NeuralNetwork.Architecture.", "NeuralNetwork.Training."
_FROM_DATA = "follows from the data set here"
_OTHER_LAYER = "a setting of other layers, or one that is fixed here"

# By path or by leading section; the longest match counts. A value of null, false or 0 requests nothing, and is not
# named.
REASONS = {
    "Verbosity": "concerns printing only",
    "Visualization": "the report draws its own figures",
    "Dataset.path": "one source holds all samples; the split is made here",
    "Dataset.normalize_features": "targets are always scaled to [0, 1]; predictions are in units",
    "Dataset.rotational_invariance": "positions are not rotated: predictions rotate with the structure anyway",
    "Dataset.Descriptors": "edges have functions of their lengths as features: see model.edges",
    "NeuralNetwork.Profile": "there is no profiler here",
    "NeuralNetwork.ds_config": "settings of DeepSpeed, which is not used here",
    "NeuralNetwork.Variables_of_interest.denormalize_output": "predictions are in units",
    "NeuralNetwork.Variables_of_interest.subsample_percentage": "set training.samples to a number of samples",
    "NeuralNetwork.Variables_of_interest.output_dim": _FROM_DATA,
    "NeuralNetwork.Variables_of_interest.x_minmax": _FROM_DATA,
    "NeuralNetwork.Variables_of_interest.y_minmax": _FROM_DATA,
    "NeuralNetwork.Variables_of_interest.minmax_node_feature": _FROM_DATA,
    "NeuralNetwork.Variables_of_interest.minmax_graph_feature": _FROM_DATA,
    **{_NETWORK + key: _FROM_DATA for key in ("input_dim", "output_dim", "output_type", "num_nodes", "pna_deg")},
    **{_NETWORK + key: _OTHER_LAYER for key in (
        "edge_dim", "num_filters", "num_gaussians", "envelope_exponent", "num_after_skip", "num_before_skip",
        "basis_emb_size", "int_emb_size", "out_emb_size", "num_radial", "num_spherical", "radial_type",
        "distance_transform", "correlation", "max_ell", "node_max_ell", "avg_num_neighbors", "global_attn_heads",
        "pe_dim", "equivariant_attn_lmax", "equivariant_attn_num_radial", "equivariant_attn_feedforward_multiplier",
        "equivariant_attn_allow_scalar_only", "equivariant_attn_require_tensor_coupling",
        "equivariant_attn_chunk_size", "equivariant_attn_coupling_mode", "graph_attr_conditioning_mode",
    )},
    _NETWORK + "max_neighbours": "all neighbours within the cutoff count",
    _NETWORK + "edge_features": "set model.edges, such as {number: 20}: functions of the length, not the length itself",
    _NETWORK + "initial_bias": "heads start from PyTorch's default biases",
    _NETWORK + "SyncBatchNorm": "a model is on one device",
    _TRAINING + "Checkpoint": "the weights of the best validation loss are always kept",
    _TRAINING + "checkpoint_warmup": "the weights of the best validation loss are always kept",
    _TRAINING + "CheckRemainingTime": "a campaign always stops before its time limit, and resumes",
    _TRAINING + "continue": "use 'hydragnn-hpc import model' for a trained model",
    _TRAINING + "startfrom": "use 'hydragnn-hpc import model' for a trained model",
    _TRAINING + "epoch_start": "a campaign resumes by itself",
    _TRAINING + "conv_checkpointing": "activations are kept in memory",
    _TRAINING + "precision": "training is in fp32",
    _TRAINING + "global_attn_redraw_interval": _OTHER_LAYER,
}  # fmt: skip
# With any other value the network would differ, and no campaign is written. Campaigns have the first of each.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    _NETWORK + "activation_function": ("relu",),
    _NETWORK + "global_attn_engine": ("", "none", "None"),
    _NETWORK + "global_attn_type": ("", "none", "None"),
    _NETWORK + "use_graph_attr_conditioning": (False,),
    _NETWORK + "enable_interatomic_potential": (False,),
    _NETWORK + "equivariance": (False,),
    _NETWORK + "freeze_conv_layers": (False,),
    _NETWORK + "energy_weight": (0,),
    _NETWORK + "energy_peratom_weight": (0,),
    _NETWORK + "force_weight": (0,),
    _TRAINING + "Optimizer.use_zero_redundancy": (False,),
}


def refuse_other_networks(keys: Keys) -> None:
    """Take the keys for which only one value is possible here.

    Raises
    ------
    UserError
        If a key has another value.
    """
    for path, allowed in _REQUIRED.items():
        value = keys.left.pop(path, None)
        if value is not None and value not in allowed:
            raise keys.error(path, value, f"campaigns have no such network; set {shown(allowed[0])} to import the rest")


def name_the_rest(keys: Keys) -> list[str]:
    """Return a line for each key that is left and requests something: its value, and why it is not carried over."""
    lines = []
    for path, value in keys.left.items():
        known = [start for start in REASONS if path == start or path.startswith(f"{start}.")]
        if not known:
            lines.append(f"{path}={shown(value)}: a key unknown here; it has no effect")
        elif value not in (None, False):  # 0 equals False
            lines.append(f"{path}={shown(value)}: {REASONS[max(known, key=len)]}")
    return lines
