"""A problem for each engine that runs on a GPU, and training steps on it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.captured import steps_of, why_not_captured
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.steps import EpochPlan, StackState
from hydragnn_hpc.member.library.engine import LibraryEngine
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.sections import OptimizerSection, SgdOptimizer
from tests.member.contract.problem import CUTOFF, TASKS, Problem, random_neighbours, random_samples, with_missing

GPU = torch.device("cuda:0")
EDGES = EdgeBasis(5, CUTOFF)
SAMPLES = 14
"""Samples of a problem."""
STACKS = (3, 3, 2, 2)
"""Members of the stack in each epoch."""
DESCENT = SgdOptimizer(name="SGD", momentum=0.0)
SIZES = (6, 3)
"""Samples of the two batches of an epoch."""


def problem(atoms: tuple[int, ...] = (9,), missing: float = 0.0, **network: object) -> Problem:
    """Random samples over geometries of ``atoms`` atoms, with a share ``missing`` of the values missing."""
    rng = np.random.default_rng(2)
    data = random_samples(rng, [random_neighbours(rng, n, 2 * n) for n in atoms], SAMPLES)
    return Problem(with_missing(data, rng, missing) if missing else data, **network)


Make = Callable[[torch.device], tuple[Problem, Engine]]


def _torch(atoms: tuple[int, ...], missing: float = 0.0, **network: object) -> Make:
    def make(device: torch.device) -> tuple[Problem, Engine]:
        made = problem(atoms, missing, **network)
        capture = not why_not_captured(device)
        return made, TorchEngine(made.sizes, made.data, device, together=True, capture=capture)

    return make


def _triton(atoms: tuple[int, ...], **network: object) -> Make:
    plain = _torch(atoms, **network)

    def make(device: torch.device) -> tuple[Problem, Engine]:
        if device.type == "cpu":  # what other devices are compared with
            return plain(device)
        from hydragnn_hpc.member.triton_engine.engine import TritonEngine

        made = problem(atoms, **network)
        return made, TritonEngine(made.sizes, made.data, device, capture=not why_not_captured(device))

    return make


def _library(convolution: str, atoms: tuple[int, ...] = (5, 9, 3), **network: object) -> Make:
    def make(device: torch.device) -> tuple[Problem, Engine]:
        made = problem(atoms, **network)
        return made, LibraryEngine(made.sizes, convolution, made.data, device)

    return make


PROBLEMS: dict[str, Make] = {  # by engine, and what is special about the data
    "torch": _torch((9,)),
    "torch, missing values": _torch((9,), missing=0.3),
    "torch, edge lengths": _torch((9,), edges=EDGES, pooling="max"),
    "torch, geometries that vary": _torch((5, 1, 9)),
    "torch, geometries and edge lengths that vary": _torch((5, 1, 9), edges=EDGES, pooling="max"),
    "library, GIN": _library("GIN"),
    "library, GAT over one geometry": _library("GAT", (9,), edges=EDGES),
    "library, MFC": _library("MFC"),
    "library, PaiNN": _library("PaiNN", edges=EDGES),
}
if find_spec("triton"):  # without it, tests/member/triton_engine fails
    # One layer and two tasks, because the interpreter is slow.
    PROBLEMS["triton"] = _triton((2,), channels=(4,), tasks=TASKS[:2])
    PROBLEMS["triton, geometries and edge lengths that vary"] = _triton(
        (3, 1), channels=(4,), edges=EDGES, tasks=TASKS[:2]
    )


class Stack:
    """A stack of members, trained step by step.

    By default with gradient descent: where a gradient is zero but for rounding, as that of a bias before a batch norm,
    Adam's step would be as large as any, in a direction that differs between devices.
    """

    def __init__(
        self, make: Make, device: torch.device, members: int = STACKS[0], optimizer: OptimizerSection = DESCENT
    ) -> None:
        self.problem, self.engine = make(device)
        self.state, self.steps = StackState.untrained(self.engine, range(members), optimizer), steps_of(self.engine)
        self.epochs = 0

    def keep(self, members: int) -> None:
        """Shrink to ``members`` members, if there are more."""
        state = self.state
        if members < len(state.parameters):
            kept = torch.arange(members, device=self.engine.device)
            tensors = state.parameters[kept], state.buffers[kept]
            self.state = StackState.new(self.engine, *tensors, state.optimizer.select(kept))

    def plan(self) -> EpochPlan:
        """Return an epoch with a batch of each size."""
        rng = np.random.default_rng(self.epochs)
        self.epochs += 1
        order = np.stack([rng.permutation(SAMPLES)[: sum(SIZES)] for _ in range(len(self.state.parameters))])
        return EpochPlan.of(order, SIZES[0], self.state.optimizer, np.full(len(order), 1e-3))

    def train(self, plan: EpochPlan) -> None:
        """Take the steps of an epoch."""
        for _ in self.steps.run(self.state, plan):
            pass

    def epoch(self, plan: EpochPlan) -> list[Tensor]:
        """Train, and predict after every step; return everything that was computed, on the device."""
        computed, state = [], self.state
        for _ in self.steps.run(state, plan):
            # Without momentum, the velocity is the gradient, which the update overwrites.
            computed += [t.clone() for t in (state.losses, state.optimizer.state["velocity"], state.buffers)]
            computed += self.engine.predict(state.parameters, state.buffers, np.arange(SAMPLES)).values()
        return computed


def check_close(actual: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Check that numbers agree, each to ``tolerance`` of itself or to a tenth of that of the largest."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    message = f"{what}: {{}}".format if what else None
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=0.1 * tolerance * largest, msg=message)
