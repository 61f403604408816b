"""Which engine trains a variant, and why."""

from __future__ import annotations

import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.captured import why_not_captured
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.losses import loss_of
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.fused.kernels import unavailable
from hydragnn_hpc.member.fused.plan import LOSSES
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.member.triton_engine.available import unavailable as why_no_kernels
from hydragnn_hpc.sections import Model, Variant


def network_sizes(
    campaign: Campaign, variant: Variant, data: TrainingData, average_degree: tuple[float, float]
) -> NetworkSizes:
    """Return the sizes of a variant's network; the campaign is the variant's own (`Campaign.of_variant`)."""
    model = campaign.model
    tasks = tuple(
        TaskSizes(
            name,
            campaign.tasks[name].level,
            data.targets[name].shape[1],
            model.graph_head if campaign.tasks[name].level == "graph" else model.node_head,
            campaign.tasks[name].weight,
            loss_of(campaign.tasks[name].loss),
            data.limits.get(name, ()),
        )
        for name in variant.tasks
    )
    channels = (model.channels,) * model.layers
    edges = EdgeBasis(cutoff=data.graphs.cutoff, **model.edges.model_dump()) if model.edges else None
    return NetworkSizes(data.inputs.shape[1], channels, tasks, average_degree, model.pooling, edges=edges)


def choose(
    campaign: Campaign, variant: Variant, data: TrainingData, device: torch.device, capture: bool = True
) -> tuple[Engine, str]:
    """Return the engine for a variant, and the reason for the choice.

    ``training.engine: auto`` chooses the fused engine wherever it can run, and Triton's kernels on a GPU where they
    can; ``fused`` requires the fused engine, ``torch`` excludes both.

    Parameters
    ----------
    campaign : Campaign
        The variant's own (`Campaign.of_variant`).
    variant : Variant
    data : TrainingData
    device : torch.device
    capture : bool, optional
        Whether steps may be captured as CUDA or XPU graphs.

    Raises
    ------
    UserError
        If ``fused`` is required and cannot run.
    """
    sizes = network_sizes(campaign, variant, data, data.average_degree())
    requested = campaign.training.engine
    reason = why_not_fused(campaign.model, sizes, device)
    if requested == "torch" and campaign.model.convolution == "PNA":
        reason = "training.engine=torch"
    if not reason:
        geometry = "one shared geometry" if data.graphs.shared_geometry else "geometries that vary"
        return FusedEngine(sizes, data), f"fused: {geometry}, on the CPU"
    if requested == "fused":
        raise UserError(f"training.engine=fused cannot be used: {reason}; set training.engine=auto")
    kernels = False
    if campaign.model.convolution == "PNA" and device.type != "cpu":
        if requested != "torch":
            without = why_no_kernels(device, sizes, data)
            kernels = not without
            reason += f"; Triton's kernels are not used: {without}" if without else ", and Triton's kernels work on it"
        if uncaptured := why_not_captured(device):
            reason += f"; steps are not captured: {uncaptured}"
    engine = general_engine(campaign.model, sizes, data, device, capture, kernels=kernels)
    return engine, f"{engine.name}: {reason}"


def general_engine(
    model: Model, sizes: NetworkSizes, data: TrainingData, device: torch.device, capture: bool = True,
    *, kernels: bool = False,
) -> Engine:  # fmt: skip
    """Return the engine for any samples on any device: triton, torch, or library for what these do not implement.

    ``capture`` is whether steps may be captured as CUDA or XPU graphs, ``kernels`` whether PNA may be
    computed in Triton's kernels.
    """
    if model.convolution == "PNA":
        capture = capture and not why_not_captured(device)
        if not kernels:
            return TorchEngine(sizes, data, device, capture=capture)
        from hydragnn_hpc.member.triton_engine.engine import TritonEngine  # Triton may be missing

        return TritonEngine(sizes, data, device, capture=capture)
    # Imported here: PyTorch Geometric takes seconds to load, and PNA does not need it.
    from hydragnn_hpc.member.library.engine import LibraryEngine

    return LibraryEngine(sizes, model.convolution, data, device)


def why_not_fused(model: Model, sizes: NetworkSizes, device: torch.device) -> str:
    """Return why the fused engine cannot train such a network on this device, ``""`` if it can."""
    if model.convolution != "PNA":
        return f"{model.convolution}, on PyTorch Geometric's layers"
    if device.type != "cpu":
        return f"the device is {device.type}"
    for task in sizes.tasks:
        if task.loss.name not in LOSSES:
            return f"task '{task.name}' has the loss {task.loss.name}"
    return unavailable()
