"""Arrays of more than 2^31 numbers: indices of kernels do not overflow. Hardly any of this memory is touched."""

from __future__ import annotations

import math
import mmap

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.triton_engine.engine import TritonEngine
from hydragnn_hpc.member.triton_engine.heads import HeadsBack
from tests.member.contract.problem import TASKS, Problem, random_neighbours, random_samples

WIDTH, MAP_NORESERVE = 4, 0x4000
WRAPPED = 2**31
"""Numbers in front of each array, where an index that has overflowed does no harm."""


class SparseArena(Arena):
    """Address space without memory, which Linux adds where something is written."""

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return zeros."""
        dtype, numbers = dtype or torch.float32, WRAPPED + math.prod(shape)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        memory = mmap.mmap(-1, numbers * dtype.itemsize, flags=flags)
        return torch.frombuffer(memory, dtype=dtype)[WRAPPED:].view(shape)


def trunk_gradients(rows: int) -> Tensor:
    """Gradients of the trunk, from arrays that have room for more rows than the batch has."""
    rng = np.random.default_rng(5)
    data = random_samples(rng, [random_neighbours(rng, n, 2 * n) for n in (3, 5)])
    problem = Problem(data, TASKS[1:], members=1, channels=(WIDTH, WIDTH))
    engine, index = problem.engine("triton", torch.float32), problem.index(4)
    assert isinstance(engine, TritonEngine)
    parameters, buffers = problem.stack(engine, torch.float32)
    gradients, arena, used = torch.zeros_like(parameters), SparseArena(parameters), engine._geometry.sizes_of(index)[0]
    batch, tiles = engine._geometry.rows(torch.from_numpy(index), rows, arena), engine._geometry.tiles(4, used)
    forward = engine._trunk.forward(batch, tiles, 1, engine._inputs, parameters, buffers, arena, training=True)
    node = arena.take("node", 1, rows, WIDTH)
    node[:, :used] = torch.randn(1, used, WIDTH, generator=torch.Generator().manual_seed(6))
    engine._trunk.backward(forward, HeadsBack(parameters, node, None, None), gradients, arena)
    return gradients


def test_indices_do_not_overflow() -> None:
    """Each of the four aggregates, and of the five gradients, has 2^30 numbers."""
    expected = trunk_gradients(20)
    assert expected.count_nonzero() > 100
    assert torch.equal(trunk_gradients(2**30 // WIDTH), expected)
