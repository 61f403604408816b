"""Triton's kernels: their numbers in Triton's interpreter, and the registers they need on devices that are not here.

`tests/member/contract` holds the engine with these kernels to all that every engine promises, in float64.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton.runtime.interpreter

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.member.triton_kernels.available import unavailable
from hydragnn_hpc.member.triton_kernels.engine import TritonEngine
from tests.benchmarks import cases
from tests.benchmarks.gpu_estimate import count
from tests.member.contract.problem import CPU, CUTOFF, Problem, agree, random_neighbours, random_samples

ROOT = Path(__file__).parents[3]
GEOMETRIES = {"one geometry": (9,), "several": (1, 4, 12)}
EDGES = {"": None, "edges": EdgeBasis(5, CUTOFF)}


@pytest.mark.parametrize("atoms", GEOMETRIES)
@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiles_that_cover_a_part_of_the_batch(
    atoms: str, edges: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tiles along rows and features, the last of them not full; atoms without neighbours, repeated pairs."""
    monkeypatch.setattr(operations, "INTERPRETED_TILE", 128)
    monkeypatch.setattr(operations, "WIDEST", 4)
    rng = np.random.default_rng(3)
    data = random_samples(rng, [random_neighbours(rng, n, n) for n in GEOMETRIES[atoms]])
    assert data.graphs.degrees().min() == 0
    problem = Problem(data, members=2, channels=(5,), edges=EDGES[edges])
    index = problem.index(5)
    plain, fast = (kind(problem.sizes, data, CPU, dtype, together=True) for kind in (TorchEngine, TritonEngine))
    agree(problem.step(fast, index, dtype), problem.step(plain, index, dtype), dtype)


def test_every_kernel_fits_into_the_registers_of_each_device() -> None:
    """Compiled without a device: nothing is spilled, and every kernel is measured."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.member.triton_kernels.resources", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    launched = {
        name for name, kernel in vars(kernels).items()
        if isinstance(kernel, triton.runtime.interpreter.InterpretedFunction)
        and f"kernels.{name}[" in inspect.getsource(operations)
    }  # fmt: skip
    assert launched == {"aggregate", "aggregate_back", "edges_back", "adam"}
    measured = {(r["kernel"], r["target"]) for r in found}
    assert measured == {(k, t) for k in launched for t in ("sm_80", "sm_90", "gfx90a", "gfx942")}
    assert not [r for r in found if r["spills"]]
    assert max(r["registers"] for r in found) <= 72 and max(r["shared"] for r in found) <= 1024


def test_there_are_no_kernels_on_a_cpu() -> None:
    assert unavailable(CPU) == "the device is the CPU"


@pytest.mark.parametrize(("case", "share"), [("206", 3), ("periodic", 5)])
def test_a_step_has_half_the_launches_and_moves_a_fraction_of_the_bytes(case: str, share: int) -> None:
    """Counted from the arguments of every operation; those of the kernels are what each array holds, once."""
    plain, one, two = (count(case, *what) for what in (("torch", 1), ("triton", 1), ("triton", 2)))
    assert one.counted.launches == two.counted.launches <= 165 < plain.counted.launches
    assert share * one.counted.memory <= plain.counted.memory
    data = cases.make_samples(case)
    edges = cases.BATCH * int(data.graphs.degrees().sum())
    rows, features = cases.BATCH * len(data.graphs.degrees()), (1, *cases.CHANNELS[1:])
    lists = 8 * (edges + 2 * rows)
    # Forward: messages, four aggregates, ties; backward: all of them, four gradients, one result.
    assert one.by_name["aggregate"] == sum(4 * rows * f * (1 + 4 + 1) + lists for f in features)
    assert one.by_name["aggregate_back"] == sum(4 * rows * f * (1 + 4 + 1 + 4 + 1) + lists for f in features)
    assert one.counted.cache == sum(4 * edges * f * (2 + 9) for f in features)
