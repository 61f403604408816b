"""How fast this host trains a stack: a trial of a worker's engine, on random data with the sizes of a data set.

``python -m hydragnn_hpc.member.pace`` reads a `PaceQuestion` and prints a `PaceAnswer`, as JSON. It takes a few
seconds, most of them for torch to load.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.device import set_arithmetic
from hydragnn_hpc.member.engine.captured import steps_of
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.steps import EpochPlan, StackState
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData, vector_limits
from hydragnn_hpc.member.training.evaluate import ValidationSet
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.pace import PaceAnswer, PaceQuestion

_SECONDS = 0.5  # of training, and as much of evaluation
_BATCHES = 4  # of different samples
_INPUTS = 8  # a usual number of inputs; only the first layer depends on it
_SPREAD = (0.7, 0.9, 1.1, 1.3)  # degrees relative to their mean: engines treat sites of each degree together


def random_data(campaign: Campaign, manifest: Manifest) -> TrainingData:
    """Return a few batches of structures of the data set's mean sizes, with random inputs and targets.

    They share a geometry, or lack target values, if those of the data set do.
    """
    rng, sizes = np.random.default_rng(0), manifest.sizes
    samples = _BATCHES * campaign.training.batch_size
    sites = max(1, round(sizes["A"] / sizes["S"]))
    geometries = 1 if sizes["G"] == 1 else samples
    degrees = np.maximum(1, np.resize(_SPREAD, sites) * sizes["E"] / sizes["B"]).round().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(degrees)])
    # The next sites in a ring, so that neighbours are near in memory, as in real structures.
    ring = np.arange(offsets[-1]) - np.repeat(offsets[:-1], degrees) + np.repeat(np.arange(sites), degrees) + 1
    neighbours = np.tile((ring % sites).astype(np.int32), geometries)
    graphs = SampleGraphs(
        np.arange(samples + 1) * sites,
        np.arange(samples, dtype=np.int32) if geometries > 1 else np.zeros(samples, np.int32),
        np.arange(geometries + 1) * sites,
        np.concatenate([[0], np.cumsum(np.tile(degrees, geometries))]),
        neighbours,
        rng.normal(size=(len(neighbours), 3)),
        manifest.neighbours.cutoff_bohr,
    )
    fields = {name: manifest.targets[task.field] for name, task in campaign.tasks.items()}
    rows = {"node": samples * sites, "graph": samples}
    targets = {n: rng.random((rows[f.level], f.width), np.float32) for n, f in fields.items()}
    for name, field in fields.items():
        if field.missing:
            targets[name][0] = np.nan
    return TrainingData(
        graphs,
        rng.random((samples * sites, _INPUTS), np.float32),
        targets,
        {name: field.level for name, field in fields.items()},
        Split(np.arange(samples), np.arange(samples), np.arange(0)),
        limits=vector_limits(campaign, fields),
    )


def measure(campaign: Campaign, manifest: Manifest, members: int) -> PaceAnswer:
    """Train and evaluate a stack for about a second; ``campaign`` is a variant's own (`Campaign.of_variant`)."""
    data = random_data(campaign, manifest)
    engine, _ = choose(campaign, campaign.variants[0], data, torch.device("cpu"))
    state = StackState.untrained(engine, range(members), campaign.training.optimizer)
    step = _training(engine, state, campaign.training.batch_size)
    step()
    start = _age()
    validation = data.split.validation
    evaluation = ValidationSet(engine, data, validation)

    def evaluate() -> None:
        evaluation.losses(state.parameters, state.buffers)

    return PaceAnswer(
        engine=engine.name,
        start=start,
        training=_median_seconds(step) / (campaign.training.batch_size * members),
        evaluation=_median_seconds(evaluate) / (len(validation) * members),
    )


def _training(engine: Engine, state: StackState, size: int) -> Callable[[], None]:
    """Return a function that trains one batch of ``size`` samples."""
    members, steps, rng = len(state.parameters), steps_of(engine), np.random.default_rng(0)

    def step() -> None:
        index = np.stack([rng.permutation(_BATCHES * size)[:size] for _ in range(members)])
        for _ in steps.run(state, EpochPlan.of(index, size, state.optimizer, np.full(members, 1e-3))):
            pass

    return step


def _median_seconds(run: Callable[[], object]) -> float:
    """Return the median time of at least three calls."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < _SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _age() -> float:
    """Return the seconds since this process was started."""
    started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # in clock ticks since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Answer the question on standard input."""
    question = PaceQuestion.model_validate_json(sys.stdin.buffer.read())  # UTF-8 in any locale
    campaign = parse_campaign(question.campaign, "the campaign")
    set_arithmetic(campaign.launch.threads)
    print(measure(campaign, question.manifest, question.members).model_dump_json())


if __name__ == "__main__":
    main()
