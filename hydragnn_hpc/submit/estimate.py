"""How long a stack trains where nothing has been measured: from the data set, the network, and a processor's speed.

Where this host is like the nodes, a trial trains a few batches with the engine itself (`member.pace`). Elsewhere the
engines' rates are those of one core of the machine of tests/benchmarks/RESULTS-speed.md, fitted to its table of
engines. They are within some ten per cent there, and within a factor of about two on other processors. GPUs have not
been measured: where one trains, the time of a core stands in for it, and the estimate says so. An estimate only chooses
the time that a job asks for: a job that was given too little is continued by another.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from itertools import pairwise

from pydantic import ValidationError

from hydragnn_hpc import commands
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.counts import counted
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.pace import PaceAnswer, PaceQuestion
from hydragnn_hpc.sections import Variant
from hydragnn_hpc.submit.site import Site


@dataclass(frozen=True)
class Rate:
    """Seconds that an engine takes on one core per channel of a layer, forward and backward.

    ``atom`` and ``edge`` are the times of one atom and one edge, without the products with weights.
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
"""By engine; see `member.choose`. The fused engine's second rate is for geometries that vary, its third for geometries
that vary with 20 edge features."""
WEIGHT_SECONDS = 6 / 1.8e11
"""For each weight and atom: two operations forward and four backward, at a core's rate of matrix products."""
VALIDATION = 1 / 3
"""A forward pass, as a share of a step."""
TRIAL_SECONDS = 60.0
"""Time limit of the trial; it takes a few seconds."""


@dataclass(frozen=True)
class Estimate:
    """The time of the longest stack in seconds, and the basis of the estimate in words.

    ``for_core`` marks the time of a CPU core that stands in for that of a GPU, which is unknown.
    """

    seconds: float
    basis: str
    for_core: bool = False


def estimate(campaign: Campaign, manifest: Manifest, site: Site, trial_seconds: float = TRIAL_SECONDS) -> Estimate:
    """Estimate the time of the longest stack of a campaign on a machine's nodes, its worker's start included.

    All epochs are counted, although early stopping may omit some. A trial of this host takes at most ``trial_seconds``.
    """
    variant = max(campaign.variants, key=lambda v: _benchmarked_seconds(campaign, v, manifest, site))
    own = campaign.of_variant(variant)
    members = 1 if campaign.launch.stack == "auto" else min(campaign.launch.stack, campaign.replicas)
    pace, speed = None, "the speed of one core of the benchmarks' processor"
    if _is_like_the_nodes(site):
        pace, problem = measure(own, manifest, members, trial_seconds)
        speed = "this host's speed in a short trial" if pace else f"{speed} (this host's is not known: {problem})"
    pace = pace or _benchmarked(own, manifest, engine_of(own, site))
    atoms, edges = _sizes(manifest)
    n_train, n_validation = _samples(own, manifest)
    size = f"{counted(round(atoms), 'atom')} and {counted(round(edges), 'edge')}"
    data = f"{counted(n_train, 'training sample')} of {size}"
    basis = f"{data}, {counted(own.training.epochs, 'epoch')}, the {pace.engine} engine and {speed}"
    return Estimate(seconds_of(pace, (n_train, n_validation), own.training.epochs, members), basis, _on_gpu(own, site))


def seconds_of(pace: PaceAnswer, samples: tuple[int, int], epochs: int, members: int) -> float:
    """Return the time of a stack: its worker's start, and in every epoch training and evaluation of the samples."""
    train, validation = samples
    return pace.start + epochs * members * (train * pace.training + validation * pace.evaluation)


def measure(campaign: Campaign, manifest: Manifest, members: int, seconds: float) -> tuple[PaceAnswer | None, str]:
    """Measure how fast this host trains a stack; return (the answer, "") or (None, why there is none).

    The campaign is a variant's own (`Campaign.of_variant`).
    """
    question = PaceQuestion(campaign=campaign.model_dump(mode="json"), manifest=manifest, members=members)
    command = [sys.executable, "-P", "-m", "hydragnn_hpc.member.pace"]
    try:
        answer = commands.run(command, seconds, question.model_dump_json(by_alias=True))
        return PaceAnswer.model_validate_json(answer.output), ""
    except ValidationError:
        return None, answer.last_words or f"the trial ended with exit code {answer.code}"
    except commands.SilentError as error:
        return None, str(error)


def _benchmarked(campaign: Campaign, manifest: Manifest, engine: str) -> PaceAnswer:
    """Return the pace of an engine on one core of the machine of `RATES`."""
    name = engine
    if engine == "fused" and manifest.sizes["G"] > 1:
        name = "fused varying, lengths" if campaign.model.edges else "fused varying"
    seconds = sample_seconds(campaign, manifest, RATES[name])
    return PaceAnswer(engine=engine, start=0.0, training=seconds, evaluation=VALIDATION * seconds)


def _benchmarked_seconds(campaign: Campaign, variant: Variant, manifest: Manifest, site: Site) -> float:
    """Return how long a variant would train on the machine of `RATES`, by which variants are compared."""
    own = campaign.of_variant(variant)
    steps = own.training.epochs * _samples(own, manifest)[0]
    return steps * _benchmarked(own, manifest, engine_of(own, site)).training


def epoch_seconds(campaign: Campaign, manifest: Manifest, site: Site) -> float:
    """Return the time of a member's epoch on one core of the machine of `RATES`; the campaign is a variant's own."""
    n_train, n_validation = _samples(campaign, manifest)
    pace = _benchmarked(campaign, manifest, engine_of(campaign, site))
    return n_train * pace.training + n_validation * pace.evaluation


def _samples(campaign: Campaign, manifest: Manifest) -> tuple[int, int]:
    """Return how many samples a member of a variant is trained and validated on."""
    n_train, n_validation = campaign.training.split_sizes(*manifest.split[:2])
    return campaign.training.trained_on(n_train), n_validation


def sample_seconds(campaign: Campaign, manifest: Manifest, rate: Rate) -> float:
    """Return the time of one training sample, in seconds; the campaign is a variant's own."""
    atoms, edges = _sizes(manifest)
    model = campaign.model
    weights = model.layers * 6 * model.channels**2
    for task in campaign.tasks.values():
        if task.level == "node":
            widths = (model.channels, *model.node_head, manifest.targets[task.field].width)
            weights += sum(a * b for a, b in pairwise(widths))
    channels = model.layers * model.channels
    return channels * (atoms * rate.atom + edges * rate.edge) + atoms * weights * WEIGHT_SECONDS


def engine_of(campaign: Campaign, site: Site) -> str:
    """Return the engine that `member.choose` chooses, as far as that follows from campaign and machine."""
    if campaign.model.convolution != "PNA":
        return "library"
    return "torch" if _on_gpu(campaign, site) or campaign.training.engine == "torch" else "fused"


def _on_gpu(campaign: Campaign, site: Site) -> bool:
    device = campaign.launch.device
    return device not in ("auto", "cpu") or (device == "auto" and site.gpus_per_node > 0)


def _sizes(manifest: Manifest) -> tuple[float, float]:
    """Return the mean numbers of atoms and directed edges of a sample."""
    sizes = manifest.sizes
    atoms = sizes["A"] / sizes["S"]
    return atoms, atoms * sizes["E"] / sizes["B"]


def _is_like_the_nodes(site: Site) -> bool:
    return not site.scheduler.submit or (not site.gpus_per_node and os.cpu_count() == site.cores_per_node)
