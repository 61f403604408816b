"""Launches and bytes of a training step on a GPU, counted without one, and the time that they would take.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.gpu_estimate [--cases 206 periodic]

Every operation of torch is one launch that reads each of its arguments and writes each of its results once, in device
memory; so does every kernel of `hydragnn_hpc.member.triton_kernels`, whose repeated reads of neighbours come from the
L2 cache. The time is that of the launches plus that of the bytes; arithmetic is not counted. Nothing here is a
measurement of a GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.benchmarks import cases

CASES = ("206", "periodic", "206+lengths", "varying")
ENGINES: dict[str, type[TorchEngine]] = {"torch": TorchEngine}
if find_spec("triton"):
    from hydragnn_hpc.member.triton_kernels.engine import TritonEngine

    ENGINES["triton"] = TritonEngine
STACKS = (1, 12, 84)
BANDWIDTH, CACHE = 3.35e12, 5e12
"""Bytes a second of an H100's memory (its data sheet), and of its L2 cache (assumed)."""
LAUNCH = 1.5e-6
"""Seconds of a launch within a graph (assumed)."""
WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}
PER_EDGE = {"aggregate": 2, "aggregate_back": 9, "edges_back": 9}
"""Numbers that a kernel reads from the cache for each edge and feature."""


@dataclass
class Counted:
    """Launches, and bytes in device memory and in the cache; bytes are proportional to the number of members."""

    launches: int = 0
    memory: float = 0.0
    cache: float = 0.0

    @property
    def seconds(self) -> float:
        """The time on the device, where nothing overlaps and memory runs at its full bandwidth."""
        return self.launches * LAUNCH + self.memory / BANDWIDTH + self.cache / CACHE


class Counter(TorchDispatchMode):
    """Counts what runs; Triton's kernels are counted by their arguments, and not run."""

    def __init__(self) -> None:
        super().__init__()
        self.counted, self.by_name = Counted(), dict[str, float]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, schema = kwargs or {}, func._schema
        ours = func.namespace == "hydragnn_hpc"
        result = None if ours else func(*args, **kwargs)
        written = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        is_view = not written and any(r.alias_info is not None for r in schema.returns)
        name = func.overloadpacket.__name__
        if not is_view and name not in WITHOUT_KERNEL:
            tensors = _tensors([*args, *kwargs.values(), result])
            size = sum({id(t): _bytes(t) for t in tensors}.values())
            self.counted.launches += 1
            self.counted.memory += size
            self.by_name[name] = self.by_name.get(name, 0.0) + size
            if ours and name in PER_EDGE:
                edges = args[2].shape[1:].numel() if name == "edges_back" else len(args[2][0])
                self.counted.cache += PER_EDGE[name] * edges * args[0].shape[1] * args[0].element_size()
        return result


def _tensors(values: list[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(list(value))
    return found


def _bytes(tensor: Tensor) -> int:
    """Bytes of its elements; one that a stride of zero repeats counts once."""
    sizes = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return int(np.prod([*sizes], dtype=np.int64)) * tensor.element_size() if tensor.numel() else 0


def count(case: str, engine: str, members: int) -> Counter:
    """Count a step of the paper's HCM network with Adam, in batches of 64 samples."""
    data = cases.make_samples(case)
    made = ENGINES[engine](cases.network_sizes(data), data, torch.device("cpu"), together=True)
    parameters, gradients, buffers, adam = cases.new_stack(made, range(members))
    index = np.stack([np.random.default_rng(e).permutation(cases.SAMPLES)[: cases.BATCH] for e in range(members)])
    # The first step makes what all steps of a shape share: the second is counted.
    for factors in adam.plan(2, np.full(members, cases.RATE)):
        with Counter() as counter:
            made.step(parameters, gradients, buffers, index)
            made.update(adam, parameters, gradients, factors)
    return counter


def estimates(case: str, engine: str) -> dict[int, Counted]:
    """Counts for each size of stack, from those of one and two members."""
    one, two = (count(case, engine, members).counted for members in (1, 2))
    found = {}
    for members in STACKS:
        memory, cache = (
            getattr(one, n) + (members - 1) * (getattr(two, n) - getattr(one, n)) for n in ("memory", "cache")
        )
        found[members] = Counted(two.launches, memory, cache)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=cases.PNA_CASES, default=list(CASES))
    for case in parser.parse_args().cases:
        for engine in ENGINES:
            for members, found in estimates(case, engine).items():
                each = found.memory / members / 1e6, found.cache / members / 1e6
                print(
                    f"{case:12} {engine:7} E={members:3} launches {found.launches:4} memory {each[0]:8.1f} MB cache "
                    f"{each[1]:8.1f} MB a member   {1e3 * found.seconds:8.2f} ms a step   "
                    f"{cases.BATCH * members / found.seconds:12,.0f} samples/s"
                )


if __name__ == "__main__":
    main()
