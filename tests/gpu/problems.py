"""A problem for each engine that runs on a GPU, and training steps on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.library.engine import LibraryEngine
from hydragnn_hpc.member.torch_engine.captured import why_not_captured
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.benchmarks.cases import new_stack
from tests.member.contract.problem import CUTOFF, TASKS, Problem, random_neighbours, random_samples, with_missing

GPU = torch.device("cuda:0")
EDGES = EdgeBasis(5, CUTOFF)
SAMPLES = 14
"""Samples of a problem."""
STACKS = (3, 3, 2)
"""Members of the stack in each epoch."""
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
        # Kernels that are compiled for a real device are compared with plain torch on the CPU.
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
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
    """A stack of members, trained step by step."""

    def __init__(self, make: Make, device: torch.device, members: int = STACKS[0]) -> None:
        self.problem, self.engine = make(device)
        self.parameters, self.gradients, self.buffers, self.optimizer = new_stack(self.engine, range(members))
        self.steps = 0

    def keep(self, members: int) -> None:
        """Shrink to ``members`` members, if there are more."""
        if members == len(self.parameters):
            return
        kept = torch.arange(members, device=self.engine.device)
        for name in ("parameters", "buffers", "gradients"):
            setattr(self, name, getattr(self, name)[kept].clone())
        self.optimizer = self.optimizer.select(kept)

    def plan(self) -> Tensor:
        """Return the optimiser's factors of an epoch."""
        return self.optimizer.plan(len(SIZES), np.full(len(self.parameters), 1e-2))

    def epoch(self, factors: Tensor) -> list[Tensor]:
        """Train and predict with a batch of each size; return everything that was computed, on the device."""
        return [t for samples, factor in zip(SIZES, factors, strict=True) for t in self.step(samples, factor)]

    def step(self, samples: int, factors: Tensor) -> list[Tensor]:
        """Take a step and predict; return everything that was computed, on the device."""
        rng = np.random.default_rng(self.steps)
        self.steps += 1
        index = np.stack([rng.permutation(SAMPLES)[:samples] for _ in range(len(self.parameters))])
        losses = self.engine.step(self.parameters, self.gradients, self.buffers, index).clone()
        computed = [losses, self.gradients.clone(), self.buffers.clone()]
        self.engine.update(self.optimizer, self.parameters, self.gradients, factors)
        return [*computed, *self.engine.predict(self.parameters, self.buffers, np.arange(SAMPLES)).values()]
