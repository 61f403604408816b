"""Compile every kernel for devices that are not here: ``python -m tests.member.triton_engine.resources [--json]``.

Steps of several networks run without their kernels: what would be launched, with the constants of a device, is compiled
for each of `TARGETS`. Prints registers per thread, and bytes of spills and of shared memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.losses import GaussianNll
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.steps import PlainSteps
from hydragnn_hpc.member.triton_engine.engine import TritonEngine
from tests.benchmarks import cases
from tests.member.contract.problem import CPU, CUTOFF, random_neighbours, random_samples, with_missing

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64), "gfx942": GPUTarget("hip", "gfx942", 64),
}  # fmt: skip
TYPES = {torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}
PAPER = (TaskSizes("H", "graph", 1), TaskSizes("C", "node", 1), TaskSizes("M", "node", 1))
WIDE = (TaskSizes("H", "graph", 1, (128, 64), loss=GaussianNll()), TaskSizes("V", "node", 3, (128, 64)))
NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {"channels": (20, 20), "tasks": PAPER},
    "edges": {"channels": (20, 20), "tasks": PAPER, "edges": EdgeBasis(20, CUTOFF), "missing": 0.3},
    "varying": {"channels": (20, 20), "tasks": PAPER, "edges": EdgeBasis(20, CUTOFF), "geometries": 2},
    "wide": {"channels": (64, 64), "tasks": WIDE, "edges": EdgeBasis(50, CUTOFF), "pooling": "max", "geometries": 2},
}
"""The paper's network over one geometry; with edge features and missing targets; over several geometries; and the
widest network that the kernels compute."""


class Resources(NamedTuple):
    """What one kernel needs on one device: registers per thread, bytes of spills and of shared memory."""

    kernel: str
    network: str
    target: str
    registers: int
    spills: int
    shared: int
    constants: str


@contextmanager
def recorded() -> Iterator[dict[tuple[str, str], tuple[ASTSource, dict[str, int]]]]:
    """Record launches in place of running them, by kernel and constants."""
    found: dict[tuple[str, str], tuple[ASTSource, dict[str, int]]] = {}

    def record(kernel: JITFunction[Any], *arguments: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in constants}
        given = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        signature, known = {}, {}
        for position, name in enumerate(kernel.arg_names):
            value = given[name]
            if name.isupper() or value is None:
                signature[name], known[position,] = "constexpr", value
            else:
                signature[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        shown = " ".join(f"{n}={v}" for n, v in given.items() if n.isupper())
        found[kernel.__name__, shown] = (ASTSource(kernel, signature, known), options)

    with mock.patch.object(JITFunction, "run", record):
        yield found


def launches(network: str, target: str) -> dict[tuple[str, str], tuple[ASTSource, dict[str, int]]]:
    """What a training step and a prediction launch on a device."""
    options = dict(NETWORKS[network])
    rng = np.random.default_rng(0)
    geometries = [random_neighbours(rng, n, 2 * n) for n in range(9, 9 + options.pop("geometries", 1))]
    data = with_missing(random_samples(rng, geometries, 14, options["tasks"]), rng, options.pop("missing", 0.0))
    engine = TritonEngine(NetworkSizes(1, average_degree=(3.5, 1.375), **options), data, CPU)
    stack = cases.new_stack(engine, 2)
    on_nvidia = mock.patch.object(torch.version, "cuda", "any" if target.startswith("sm_") else None)
    with on_nvidia, recorded() as found:
        cases.train(PlainSteps(engine), stack, np.arange(128).reshape(2, 64) % 14)
        engine.predict(stack.parameters, stack.buffers, np.arange(4))
    return found


def compiled(network: str, target: str) -> list[Resources]:
    """Compile what a network launches."""
    found = []
    for (kernel, constants), (source, options) in launches(network, target).items():
        made = triton.compile(source, target=TARGETS[target], options=options)
        found.append(Resources(kernel, network, target, *_measured(made.asm), made.metadata.shared, constants))
    return found


def _measured(asm: dict[str, object]) -> tuple[int, int]:
    """Registers, and bytes of spills, as the device's assembler reports them."""
    if "amdgcn" in asm:
        text = str(asm["amdgcn"])
        counts = {k: int(v) for k, v in re.findall(r"\.(\w+):\s*(\d+)", text)}
        # Scalar registers are spilled to vector registers, which costs no memory.
        return counts["vgpr_count"], counts["private_segment_fixed_size"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(asm["cubin"])  # type: ignore[arg-type]
        dump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([dump, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    used = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return used["REG"], used["STACK"] + used["LOCAL"]


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        sys.exit("TRITON_INTERPRET=1 is set: nothing would be compiled; run it without")
    names = [name for name in sys.argv[1:] if name in NETWORKS] or list(NETWORKS)
    targets = [name for name in sys.argv[1:] if name in TARGETS] or list(TARGETS)
    measured = [resources for network in names for target in targets for resources in compiled(network, target)]
    if "--json" in sys.argv:
        print(json.dumps([r._asdict() for r in measured]))
    else:
        print("kernel          network  device  registers  spills  shared  constants")
        for r in measured:
            print(f"{r.kernel:15} {r.network:8} {r.target:7} {r.registers:9} {r.spills:7} {r.shared:7}  {r.constants}")
