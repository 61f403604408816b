"""Keys of HydraGNN's configurations that a campaign cannot carry, and why."""

from __future__ import annotations

from typing import Any

from hydragnn_hpc.errors import spelt_out
from hydragnn_hpc.exchange.json_keys import ARCHITECTURE, TRAINING, VARIABLES, Key, Keys, shown

_FROM_DATA = "follows from the data set here"
_OTHER_LAYER = "a setting of other layers, or one that is fixed here"

# Why a key is not carried over, by its path or that of a section; the longest path counts. A value of null, false or 0
# requests nothing, and is not named.
REASONS: dict[str, str] = {
    "Verbosity": "concerns printing only",
    "Visualization": "the report draws its own figures",
    "Dataset.path": "one source holds all samples; the split is made here",
    "Dataset.normalize_features": "targets are always scaled to [0, 1]; predictions are in the targets' units",
    "Dataset.node_features.unit": "units are given to data prepare, with --target",
    "Dataset.graph_features.unit": "units are given to data prepare, with --target",
    "Dataset.rotational_invariance": "positions are not rotated: predictions rotate with the structure anyway",
    "Dataset.Descriptors": "edges have functions of their lengths as features: see model.edges",
    "NeuralNetwork.Profile": "there is no profiler here",
    "NeuralNetwork.ds_config": "settings of DeepSpeed, which is not used here",
    Key.DENORMALIZE: "predictions are in the targets' units",
    f"{VARIABLES}.subsample_percentage": "set training.samples to a number of samples",
    **dict.fromkeys((
        Key.INPUT_RANGES, Key.OUTPUT_RANGES, Key.INPUT_WIDTH, Key.OUTPUT_WIDTHS, Key.OUTPUT_LEVELS, Key.NUM_NODES,
        Key.DEGREES, f"{VARIABLES}.output_dim", f"{VARIABLES}.minmax_node_feature", f"{VARIABLES}.minmax_graph_feature",
    ), _FROM_DATA),
    **{f"{ARCHITECTURE}.{name}": _OTHER_LAYER for name in (
        "edge_dim", "num_filters", "num_gaussians", "envelope_exponent", "num_after_skip", "num_before_skip",
        "basis_emb_size", "int_emb_size", "out_emb_size", "num_radial", "num_spherical", "radial_type",
        "distance_transform", "correlation", "max_ell", "node_max_ell", "avg_num_neighbors", "global_attn_heads",
        "pe_dim", "equivariant_attn_lmax", "equivariant_attn_num_radial", "equivariant_attn_feedforward_multiplier",
        "equivariant_attn_allow_scalar_only", "equivariant_attn_require_tensor_coupling",
        "equivariant_attn_chunk_size", "equivariant_attn_coupling_mode", "graph_attr_conditioning_mode",
    )},
    Key.MAX_NEIGHBOURS: "all neighbours within the cutoff count",
    f"{ARCHITECTURE}.edge_features": "set model.edges, such as {number: 20}: functions of the length, not the length",
    f"{ARCHITECTURE}.initial_bias": "heads start from PyTorch's default biases",
    Key.SYNC_BATCH_NORM: "a model is on one device",
    f"{TRAINING}.Checkpoint": "the weights of the best validation loss are always kept",
    f"{TRAINING}.checkpoint_warmup": "the weights of the best validation loss are always kept",
    f"{TRAINING}.CheckRemainingTime": "a campaign always stops before its time limit, and resumes",
    f"{TRAINING}.continue": "use 'hydragnn-hpc import model' for a trained model",
    f"{TRAINING}.startfrom": "use 'hydragnn-hpc import model' for a trained model",
    f"{TRAINING}.epoch_start": "a campaign resumes by itself",
    f"{TRAINING}.conv_checkpointing": "activations are kept in memory",
    f"{TRAINING}.precision": "training is in fp32",
    f"{TRAINING}.global_attn_redraw_interval": _OTHER_LAYER,
}  # fmt: skip
# With any other value the network, its loss or its training would differ, and no campaign is written. The first value
# is the one to set.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    Key.ACTIVATION: ("relu",),
    f"{ARCHITECTURE}.global_attn_engine": ("", "none", "None"),
    f"{ARCHITECTURE}.global_attn_type": ("", "none", "None"),
    f"{ARCHITECTURE}.use_graph_attr_conditioning": (False,),
    f"{ARCHITECTURE}.enable_interatomic_potential": (False,),
    Key.EQUIVARIANCE: (False,),
    Key.FREEZE: (False,),
    f"{ARCHITECTURE}.energy_weight": (0,),
    f"{ARCHITECTURE}.energy_peratom_weight": (0,),
    f"{ARCHITECTURE}.force_weight": (0,),
    f"{TRAINING}.Optimizer.use_zero_redundancy": (False,),
}


def refuse_other_values(keys: Keys) -> None:
    """Remove the keys of which a campaign allows certain values only.

    Raises
    ------
    UserError
        If one of them has another value.
    """
    for path, allowed in _ALLOWED.items():
        value = keys.left.pop(path, None)
        if value is not None and value not in allowed:
            raise keys.error(path, value, f"campaigns do not have this; set {shown(allowed[0])} to import the rest")


def name_the_rest(keys: Keys) -> list[str]:
    """Return a line for each key that is left: its value, and why it is not carried over.

    Those are all unknown keys, and known ones that request something.
    """
    lines = []
    for path, value in keys.left.items():
        listed = [prefix for prefix in REASONS if path == prefix or path.startswith(f"{prefix}.")]
        if not listed:
            lines.append(f"{path}={shown(value)}: a key unknown here; it has no effect")
        elif value not in (None, False):  # 0 equals False
            lines.append(f"{path}={shown(value)}: {REASONS[max(listed, key=len)]}")
    return [spelt_out(line) for line in lines]
