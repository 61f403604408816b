"""How long a stack trains where nothing has been measured: from the data set, the network, and a processor's speed.

The rates of the engines are those of one core of the machine of tests/benchmarks/RESULTS-speed.md, fitted to its table
of engines. They err by some ten per cent there; on other machines, and on GPUs, which have not been measured, by far
more. An estimate only chooses the time that a job asks for: a job that was given too little is continued by another.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.sections import Variant
from hydragnn_hpc.submit.site import Site


@dataclass(frozen=True)
class Rate:
    """Seconds that an engine trains on one core, forward and backward, per channel of a layer.

    ``atom`` and ``edge`` are what each takes besides the products with weights.
    """

    atom: float
    edge: float


RATES = {
    "fused": Rate(8e-9, 1.25e-10),
    "fused varying": Rate(1.5e-8, 9.5e-10),
    "fused varying, lengths": Rate(1.5e-8, 4e-9),
    "torch": Rate(1.3e-7, 5.1e-9),
    "library": Rate(2.5e-7, 5.3e-8),
}
"""By engine; see `member.choose`. The fused engine's second rate is for geometries that vary, its third for 20 edge
features besides."""
WEIGHT_SECONDS = 6 / 1.8e11
"""For each weight and atom: two operations forward and four backward, at a core's rate of matrix products."""
VALIDATION = 1 / 3
"""A forward pass, as a share of a step."""
AGGREGATION_SECONDS = 0.010
"""What `calibrate` takes for the machine of `RATES`: where it measured 17 ms, the torch engine took 1.6 times
and the fused engine 2.7 times as long as there."""


@dataclass(frozen=True)
class Estimate:
    """The time of the longest stack in seconds, and in words what it is estimated from."""

    seconds: float
    basis: str


def estimate(campaign: Campaign, manifest: Manifest, site: Site) -> Estimate:
    """Estimate the time of the longest stack of a campaign on a machine's nodes.

    All epochs are counted, although early stopping may leave some out.
    """
    seconds, epochs, engine = max(_of_variant(campaign, variant, manifest, site) for variant in campaign.variants)
    train, validation, _ = manifest.split
    samples = train + VALIDATION * validation
    members = min(campaign.launch.stack, campaign.replicas)
    factor, speed = (calibrate(), "this host's speed") if _is_like_the_nodes(site) else (1.0, "a usual core's speed")
    if site.gpus_per_node:
        speed += " (no GPU has been measured)"
    atoms, edges = _sizes(manifest)
    data = f"{train} training samples of {atoms:.0f} atoms and {edges:.0f} edges"
    basis = f"{data}, {epochs} epochs, the {engine} engine and {speed}"
    return Estimate(seconds * samples * members * factor, basis)


def _of_variant(campaign: Campaign, variant: Variant, manifest: Manifest, site: Site) -> tuple[float, int, str]:
    """Return the time of one sample in all epochs, their number, and the engine."""
    own = campaign.of_variant(variant)
    engine, epochs = _engine(own, manifest, site), own.training.epochs
    name = engine
    if engine == "fused" and manifest.sizes["G"] > 1:
        name = "fused varying, lengths" if own.model.edges else "fused varying"
    return sample_seconds(own, own.variants[0], manifest, RATES[name]) * epochs, epochs, engine


def sample_seconds(campaign: Campaign, variant: Variant, manifest: Manifest, rate: Rate) -> float:
    """Return the time of one training sample."""
    atoms, edges = _sizes(manifest)
    model = campaign.model
    weights = model.layers * 6 * model.channels**2
    for name in variant.tasks:
        task = campaign.tasks[name]
        if task.level == "node":
            widths = (model.channels, *model.node_head, manifest.targets[task.field].width)
            weights += sum(a * b for a, b in pairwise(widths))
    channels = model.layers * model.channels
    return channels * (atoms * rate.atom + edges * rate.edge) + atoms * weights * WEIGHT_SECONDS


def calibrate() -> float:
    """Return how many times as long as on the machine of `RATES` this host takes to aggregate over edges."""
    features = np.ones((8_192, 20), np.float32)
    neighbours = np.random.default_rng(0).integers(0, len(features), 16 * len(features))
    times = []
    for _ in range(9):
        start = time.process_time()
        np.add.reduceat(features[neighbours], np.arange(0, len(neighbours), 16), axis=0)
        times.append(time.process_time() - start)
    return min(times) / AGGREGATION_SECONDS


def _engine(campaign: Campaign, manifest: Manifest, site: Site) -> str:
    """Return the engine that `member.choose` takes, so far as that follows from the manifest."""
    if campaign.model.convolution != "PNA":
        return "library"
    missing = any(manifest.targets[task.field].missing for task in campaign.tasks.values())
    on_cpu = campaign.launch.device == "cpu" or (campaign.launch.device == "auto" and not site.gpus_per_node)
    return "fused" if on_cpu and not missing and campaign.training.engine != "torch" else "torch"


def _sizes(manifest: Manifest) -> tuple[float, float]:
    """Return the mean numbers of atoms and directed edges of a sample."""
    sizes = manifest.sizes
    atoms = sizes["A"] / sizes["S"]
    return atoms, atoms * sizes["E"] / sizes["B"]


def _is_like_the_nodes(site: Site) -> bool:
    return not site.scheduler.submit or (not site.gpus_per_node and os.cpu_count() == site.cores_per_node)
