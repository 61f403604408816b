"""Triton's kernels: their numbers in Triton's interpreter, and the registers they need on devices that are not here.

`tests/member/contract` holds the engine of these kernels to all that every engine promises, in float64.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.member.triton_engine import head_kernels, heads, row_kernels, rows, trunk_kernels, trunk_launches
from hydragnn_hpc.member.triton_engine.available import unavailable
from hydragnn_hpc.member.triton_engine.engine import TritonEngine, unsupported
from tests.benchmarks.gpu_estimate import count
from tests.member.contract.problem import (
    CPU,
    CUTOFF,
    TASKS,
    Problem,
    agree,
    graphs_of,
    random_neighbours,
    random_samples,
)

ROOT = Path(__file__).parents[3]
GEOMETRIES = {"one geometry": (9,), "several": (1, 4, 12)}
BASES = {
    "": None, "gaussian": EdgeBasis(5, CUTOFF), "bessel": EdgeBasis(17, CUTOFF, "bessel", "polynomial"),
}  # fmt: skip
NETWORK = NetworkSizes(1, (20, 20), TASKS, (3.5, 1.375))


@pytest.mark.parametrize("atoms", GEOMETRIES)
@pytest.mark.parametrize("edges", BASES)
def test_tiles_that_cover_a_part_of_the_batch(atoms: str, edges: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles along rows, features and samples, the last of them not full; isolated atoms, repeated pairs.

    The first layer has more inputs than channels.
    """
    monkeypatch.setattr(rows, "TILE", 16)
    monkeypatch.setattr(rows, "SEGMENT", 4 if atoms == "several" else 20)
    monkeypatch.setattr(rows, "PLACED", 4)
    monkeypatch.setattr(trunk_launches, "EDGE_TILE", 16)
    monkeypatch.setattr(heads, "ROWS", 16)
    rng = np.random.default_rng(3)
    data = random_samples(rng, [random_neighbours(rng, n, n) for n in GEOMETRIES[atoms]], inputs=19)
    assert data.graphs.degrees().min() == 0
    problem = Problem(data, members=2, channels=(17, 17), edges=BASES[edges])
    index = problem.index(6)
    plain = TorchEngine(problem.sizes, data, CPU, torch.float64)
    agree(problem.step(TritonEngine(problem.sizes, data, CPU, torch.float64), index), problem.step(plain, index))


@pytest.mark.parametrize("atoms", GEOMETRIES)
def test_a_member_has_the_same_bits_in_any_stack(atoms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TILE", 16)
    rng = np.random.default_rng(4)
    data = random_samples(rng, [random_neighbours(rng, n, 2 * n) for n in GEOMETRIES[atoms]])
    problem = Problem(data, members=3, channels=(20,), edges=BASES["gaussian"])
    engine, index = problem.engine("triton", torch.float32), problem.index(6)
    parameters, buffers = problem.stack(engine, torch.float32)
    results = []
    for chosen in ([0, 1, 2], [2, 0]):
        own, gradients, running = parameters[chosen], torch.empty_like(parameters[chosen]), buffers[chosen]
        losses = engine.step(own, gradients, running, index[chosen])
        results.append({e: torch.cat([losses[k], gradients[k], running[k]]) for k, e in enumerate(chosen)})
    together, apart = results
    assert all(torch.equal(together[e], apart[e]) for e in apart)


@pytest.mark.parametrize("atoms", GEOMETRIES)
def test_programs_that_describe_a_large_batch_are_no_larger(atoms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go through its samples block by block, with the same result as at once."""
    rng, sizes, run = np.random.default_rng(7), list[int](), InterpretedFunction.run
    data = random_samples(rng, [random_neighbours(rng, n, 2 * n) for n in GEOMETRIES[atoms]], 5000)
    geometry = rows.BatchGeometry(data.graphs, NETWORK, CPU, torch.float32)
    index = rng.permutation(5000)[None, :4500]

    def recorded(kernel: InterpretedFunction, *arguments: object, SAMPLES: int, ATOMS: int, **others: object) -> None:
        sizes.append(SAMPLES * ATOMS)
        run(kernel, *arguments, SAMPLES=SAMPLES, ATOMS=ATOMS, **others)

    monkeypatch.setattr(InterpretedFunction, "run", recorded)
    described = []
    for placed in (rows.PLACED, 8192):
        monkeypatch.setattr(rows, "PLACED", placed)
        batch = geometry.rows(torch.from_numpy(index), geometry.sizes_of(index)[0], Arena(torch.empty(0)))
        described.append([value for value in vars(batch).values() if isinstance(value, torch.Tensor)])
    assert sizes == [512, 8192]
    assert all(map(torch.equal, *described))
    assert int(described[0][0]) == data.graphs.atom_offsets[index + 1].sum() - data.graphs.atom_offsets[index].sum()


@pytest.mark.parametrize("size", [(2**31 // 24, 1), (1, 2**31 // 19)])
def test_batches_with_more_numbers_than_kernels_can_index_are_refused(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An atom has at most 2 (7 + 5) + 1 numbers, an edge 20."""
    data = random_samples(np.random.default_rng(8), [random_neighbours(np.random.default_rng(8), 3, 6)])
    problem = Problem(data, channels=(20,), edges=BASES["gaussian"])
    engine = problem.engine("triton")
    assert isinstance(engine, TritonEngine)
    monkeypatch.setattr(engine._geometry, "sizes_of", lambda _: size)
    with pytest.raises(UserError, match=r"too many for Triton's kernels; set a smaller training\.batch_size"):
        engine.bounds(problem.index(4)[None])
    monkeypatch.setattr(engine._geometry, "sizes_of", lambda _: (2**31 // 26, 2**31 // 21))
    assert engine.bounds(problem.index(4)[None])


def test_predictions_of_graphs_alone_need_no_order_of_atoms_and_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, taken, take = np.random.default_rng(8), dict[str, int](), Arena.take
    data = random_samples(rng, [random_neighbours(rng, 3, 6)], tasks=TASKS[:1])
    problem = Problem(data, TASKS[:1], members=1, channels=(4, 4))
    engine = problem.engine("triton")

    def recorded(arena: Arena, name: str, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        taken[name] = math.prod(shape)
        return take(arena, name, *shape, dtype=dtype)

    monkeypatch.setattr(Arena, "take", recorded)
    monkeypatch.setattr(rows.BatchGeometry, "order", lambda *_: pytest.fail("the order of atoms was computed"))
    engine.predict(*problem.stack(engine), np.arange(2))
    assert taken["trunk.raw"] == 2 * 3 * 4 and taken["trunk.received"] == taken["trunk.ties"] == 0


def test_data_may_have_any_order_in_memory() -> None:
    rng = np.random.default_rng(6)
    data = random_samples(rng, [random_neighbours(rng, 5, 8)], tasks=TASKS[2:], inputs=3)
    columns = {name: np.asfortranarray(values) for name, values in data.targets.items()}
    outcomes = []
    for same in (data, replace(data, inputs=np.asfortranarray(data.inputs), targets=columns)):
        problem = Problem(same, TASKS[2:], members=1, channels=(4,))
        outcomes.append(problem.step(problem.engine("triton"), problem.index(6)))
    agree(*outcomes)


def test_every_kernel_fits_into_the_registers_of_each_device() -> None:
    """Compiled without a device, for the paper's network with edge features: nothing is spilled."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.member.triton_engine.resources", "--json", "edges"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    launches = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (rows, trunk_launches, heads))
    launched = {
        name
        for module in (row_kernels, trunk_kernels, head_kernels)
        for name, kernel in vars(module).items()
        if isinstance(kernel, InterpretedFunction) and f"kernels.{name}[" in launches
    }
    assert {"mix", "train_heads", "place"} < launched
    measured = {(r["kernel"], r["target"]) for r in found}
    assert measured == {(k, t) for k in launched for t in ("sm_80", "sm_90", "gfx90a", "gfx942")}
    assert not [r for r in found if r["spills"]]
    assert max(r["shared"] for r in found) <= 48 * 1024


def test_there_are_no_kernels_on_a_cpu() -> None:
    rng = np.random.default_rng(9)
    assert unavailable(CPU, NETWORK, random_samples(rng, [random_neighbours(rng, 3, 3)])) == "the device is the CPU"


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        (NetworkSizes(1, (65,), TASKS, (3.5, 1.375)), "at most 64 channels and inputs, not 65"),
        (NetworkSizes(1, (20,), TASKS, (3.5, 1.375), edges=EdgeBasis(64, 7.0)), "at most 63 edge features, not 64"),
        (NetworkSizes(1, (20,), TASKS, (3.5, 1.375), edges=EdgeBasis(5, 7.0, "sinc")), "they lack the basis sinc"),
        (
            NetworkSizes(1, (20,), TASKS, (3.5, 1.375), edges=EdgeBasis(5, 7.0, "bessel", "cosine")),
            "they lack the envelope cosine",
        ),
        (NetworkSizes(1, (20,), (TaskSizes("H", "graph", 1, (129,)),), (3.5, 1.375)), "at most 128"),
    ],
)
def test_networks_that_kernels_cannot_train(sizes: NetworkSizes, why: str) -> None:
    assert why in unsupported(sizes, pairs(1))
    assert not unsupported(NETWORK, pairs(1))


def pairs(number: int) -> SampleGraphs:
    """Two atoms that are each other's neighbour so many times, in two samples."""
    offsets, neighbours = np.array([0, number, 2 * number]), np.repeat(np.array([1, 0], np.int32), number)
    return graphs_of([(offsets, neighbours)], np.zeros(2, np.int64))


def test_atoms_may_have_as_many_neighbours_as_can_be_counted() -> None:
    """All may tie for both extremes, and both numbers share an int32."""
    most, ties = rows.MOST_NEIGHBOURS, trunk_kernels.TIES.value
    assert most < ties and most * (1 + ties) < 2**31 <= (most + 1) * (1 + ties)
    assert not unsupported(NETWORK, pairs(most))
    assert unsupported(NETWORK, pairs(most + 1)) == "they support at most 32,767 neighbours of an atom, not 32,768"


@pytest.mark.parametrize(
    ("case", "most", "share"), [("206", 40, 7), ("periodic", 40, 30), ("206+lengths", 48, 7), ("varying", 40, 18)]
)
def test_a_step_has_few_launches_and_moves_a_fraction_of_the_bytes(case: str, most: int, share: int) -> None:
    """Counted from the arguments of every operation; those of the kernels are what each array holds, once."""
    plain, one, two = (count(case, *what) for what in (("torch", 1), ("triton", 1), ("triton", 2)))
    assert one.counted.launches == two.counted.launches == most
    assert share * one.counted.memory <= plain.counted.memory
