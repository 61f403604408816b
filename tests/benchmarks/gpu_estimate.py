"""Launches, bytes and arithmetic of a training step on a GPU, counted without one, and the time that they would take.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.gpu_estimate [--cases 206 periodic]

Every operation of torch is one launch that reads each of its arguments and writes each of its results once, in device
memory; so is every kernel of `hydragnn_hpc.member.triton_engine`, whose repeated reads of neighbours come from the L2
cache. Arrays of which a kernel reads only a small part are not counted. Matrix products are counted as they are
computed, with the padding of tiles. The estimated time is that of the launches plus that of the bytes or of the
products, whichever is longer. Nothing here is a measurement of a GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hydragnn_hpc.member.engine.captured import CapturedSteps
from hydragnn_hpc.member.engine.steps import EpochPlan, PlainSteps
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.benchmarks import cases

if TYPE_CHECKING:
    from hydragnn_hpc.member.triton_engine.engine import TritonEngine

CASES = ("206", "periodic", "206+lengths", "varying")
CPU = torch.device("cpu")
ENGINES = ("torch", *(["triton"] if find_spec("triton") else []))
STACKS = (1, 12, 84)
BANDWIDTH, CACHE = 3.35e12, 5e12
"""Bytes a second of an H100's memory (its data sheet), and of its L2 cache (assumed)."""
ARITHMETIC = 0.4 * 67e12
"""Operations a second in float32: a share (assumed) of an H100's peak (its data sheet)."""
LAUNCH = 1.5e-6
"""Seconds of a launch within a graph (assumed)."""
WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}
PER_EDGE = {"mix": 2, "aggregate_back": 9, "edges_back": 9}
"""Numbers that a kernel reads from the cache for each edge and feature."""
PARTLY_READ = {
    "targets", "neighbours", "receivers", "slots", "lengths", "atom_offsets", "sample_geometry", "site_offsets",
    "offsets", "order",
}  # fmt: skip
"""Arguments of which a kernel reads the part of one batch."""
WEIGHTS, ALL_WEIGHTS = {"parameters", "gradients", "buffers"}, {"fold", "unfold", "adam"}
"""Arguments of which most kernels read or write a small part, and the kernels that read or write them whole."""
BY_LAYER = {"own", "sent", "received", "ties", "x_grad", "back"}
"""Arrays of which a layer uses as many columns as it has inputs."""


@dataclass
class Counted:
    """Launches, and bytes in device memory and in the cache; bytes are proportional to the number of members."""

    launches: int = 0
    memory: float = 0.0
    cache: float = 0.0
    operations: float = 0.0

    @property
    def seconds(self) -> float:
        """The time on the device, where memory runs at its full bandwidth, and arithmetic at the same time."""
        return self.launches * LAUNCH + max(self.memory / BANDWIDTH + self.cache / CACHE, self.operations / ARITHMETIC)


class Counter(TorchDispatchMode):
    """Counts what runs; Triton's kernels are counted by their arguments, and not run.

    Parameters
    ----------
    edges : int
        Of all members' batches.
    widths : list of int
        Inputs of each layer.
    """

    def __init__(self, edges: int, widths: list[int]) -> None:
        super().__init__()
        self.counted, self.by_name = Counted(), dict[str, float]()
        self._edges, self._widths = edges, widths

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, schema = kwargs or {}, func._schema
        ours = func.namespace == "hydragnn_hpc"
        result = None if ours else func(*args, **kwargs)
        written = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        is_view = not written and any(r.alias_info is not None for r in schema.returns)
        name = func.overloadpacket.__name__
        if is_view or name in WITHOUT_KERNEL:
            return result
        self.counted.launches += 1
        if ours:
            size = self._of_kernel(name, dict(zip((a.name for a in schema.arguments), args, strict=False)))
        else:
            size = sum({id(t): _bytes(t) for t in _tensors([*args, *kwargs.values(), result])}.values())
            if name in ("bmm", "baddbmm_"):
                first, second = [t for t in args if t.dim() == 3][-2:]
                self.counted.operations += 2 * first.numel() * second.shape[2]
        self.counted.memory += size
        self.by_name[name] = self.by_name.get(name, 0.0) + size
        return result

    def _of_kernel(self, name: str, given: dict[str, Any]) -> float:
        """Count a kernel's reads from the cache and its products; return its bytes in memory."""
        layer = given.get("layer", len(self._widths))
        inputs = self._widths[layer] if layer < len(self._widths) else 0
        size = 0.0
        for argument, value in given.items():
            whole = argument not in PARTLY_READ and (argument not in WEIGHTS or name in ALL_WEIGHTS)
            if argument == "source" and layer == 0:
                size += 4 * given["own"][..., :inputs].numel()
            elif whole:
                tensors = {id(t): _bytes(t) for t in _tensors([value])}
                narrow = inputs and (argument in BY_LAYER or argument == "arrived")
                size += sum(tensors.values()) * (inputs / max(self._widths) if narrow else 1.0)
        if name in PER_EDGE:
            self.counted.cache += PER_EDGE[name] * self._edges * inputs * 4
        self.counted.operations += 2 * _multiplications(name, given, inputs)
        return size


def _multiplications(name: str, given: dict[str, Any], inputs: int) -> float:
    """Return how many multiplications the matrix products of a kernel take."""
    from hydragnn_hpc.member.triton_engine import heads, rows, trunk_launches

    if name in ("train_heads", "weights_back", "predict_heads"):
        block = heads.BLOCK
        members, tasks, number, _ = given["kept"].shape
        widths = given["widths"] if name == "train_heads" else [given["features"].shape[2], 50, 25, 1]
        padded = [-(-width // block) * block for width in widths]
        return (
            (2 if name == "train_heads" else 1) * members * tasks * number * sum(map(int.__mul__, padded, padded[1:]))
        )
    products = {"send": 1, "mix": 5 * given.get("blocks", 1), "mix_back": 5 * given.get("blocks", 1),
                "aggregate_back": 1, "trunk_products": 6}  # fmt: skip
    if name not in products:
        return 0.0
    like = given["own"] if name in ("send", "mix", "trunk_products") else given.get("raw", given.get("sent"))
    columns = -(-(inputs or like.shape[-1]) // trunk_launches.COLUMNS) * trunk_launches.COLUMNS
    number = like.shape[:-1].numel() if name == "trunk_products" else len(given["tiles"]) * rows.TILE * len(like)
    repeated = given["blocks"] if name == "trunk_products" else 1
    return products[name] * repeated * number * columns * trunk_launches.power(like.shape[-1])


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
    made = engine_of(engine, data, capture=True)
    stack = cases.new_stack(made, members)
    index = np.stack([np.random.default_rng(e).permutation(cases.SAMPLES)[: cases.BATCH] for e in range(members)])
    graphs = data.graphs
    of_geometry = np.diff(graphs.neighbour_offsets[graphs.site_offsets])
    edges = int(of_geometry[graphs.sample_geometry[index]].sum())
    plan = EpochPlan.of(np.tile(index, 2), cases.BATCH, stack.optimizer, np.full(members, cases.RATE))
    if not made.captured:
        steps = PlainSteps(made).run(stack, plan)
    else:
        captured = CapturedSteps(made)
        captured.load(stack, plan)
        steps = (captured.step(cases.BATCH) for _ in range(2))  # what a graph would hold
    # The first step makes what all steps of a shape share: the second is counted.
    for _ in range(2):
        with Counter(edges, [width for width, _ in made.sizes.layers]) as counter:
            next(steps)
    return counter


def engine_of(
    name: str, data: TrainingData, device: torch.device = CPU, capture: bool = False
) -> TorchEngine | TritonEngine:
    """Return one of `ENGINES` for the paper's HCM network."""
    sizes = cases.network_sizes(data)
    if name == "torch":
        return TorchEngine(sizes, data, device, together=True, capture=capture)
    from hydragnn_hpc.member.triton_engine.engine import TritonEngine

    return TritonEngine(sizes, data, device, capture=capture)


def estimates(case: str, engine: str) -> dict[int, Counted]:
    """Counts for each size of stack, from those of one and two members."""
    one, two = (count(case, engine, members).counted for members in (1, 2))
    found = {}
    for members in STACKS:
        memory, cache, operations = (
            getattr(one, n) + (members - 1) * (getattr(two, n) - getattr(one, n))
            for n in ("memory", "cache", "operations")
        )
        found[members] = Counted(two.launches, memory, cache, operations)
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
                    f"{each[1]:8.1f} MB, {found.operations / members / 1e9:6.2f} GFLOP a member   "
                    f"{1e3 * found.seconds:8.2f} ms a step   "
                    f"{cases.BATCH * members / found.seconds:12,.0f} samples/s"
                )


if __name__ == "__main__":
    main()
