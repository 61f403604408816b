"""Compile every kernel for devices that are not here: ``python -m tests.member.triton_kernels.resources [--json]``.

Prints, for each kernel and device, registers per thread, spilled registers (or bytes of spill) and shared memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hydragnn_hpc.member.triton_kernels import head_kernels, heads, kernels, operations

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64), "gfx942": GPUTarget("hip", "gfx942", 64),
}  # fmt: skip
INTEGERS = {"neighbours", "receivers", "senders", "edge_rows", "first", "degree"}
LISTS = {"EDGES": True, "TRAINING": True, "ROWS": operations.TILE // operations.WIDEST, "COLUMNS": operations.WIDEST}
NARROW = {**LISTS, "ROWS": operations.TILE // 32, "COLUMNS": 32}
HEADS = {
    **dict.fromkeys(("count", "known", "offsets", "plan", "start", "length"), "*i32"), "index": "*i64",
    **dict.fromkeys(("rows", "size", "tiles", "samples", "stride", "tasks_of_losses"), "i32"),
}  # fmt: skip
"""Types of arguments of the heads' kernels; those of others are float32 arrays."""


def head(widths: tuple[int, ...], loss: str = "mse") -> dict[str, object]:
    """Constants of a group of heads."""
    hidden, d = 2 * sum(widths[1:-1]), widths[-1] // (2 if loss == "nll" else 1)
    flags = {"NODE": True, "MISSING": True, "ADD": True, "TIES": True}
    return {
        "TASKS": 2, "WIDTHS": widths, "WIDTH": widths[0], "KEPT": hidden + widths[-1], "D": d, "LOSS": loss,
        "DELTA": 1.0, "LAST": heads.last_block(d), "ROWS": heads.ROWS, **flags,
    }  # fmt: skip


PAPER, WIDE = head((20, 50, 25, 1)), head((64, 128, 64, 3))
POOL = {"WIDTH": 64, "HOW": "max", "TIES": True, "ATOMS": heads.POOLED // 64, "COLUMNS": 64}
KERNELS: dict[str, tuple[dict[str, object], ...]] = {
    "aggregate": (LISTS, {**LISTS, "EDGES": False}, {**LISTS, "TRAINING": False}, NARROW),
    "aggregate_back": (LISTS, {**LISTS, "ROWS": 128, "COLUMNS": 1}, {**LISTS, "EDGES": False}, NARROW),
    "edges_back": (LISTS, NARROW),
    "adam": tuple(
        {"BETA_1": 0.9, "BETA_2": 0.999, "DECAY": 0.01, "DECOUPLED": d, "COLUMNS": operations.BLOCK}
        for d in (False, True)
    ),
    "pool_samples": (POOL, {**POOL, "HOW": "mean", "TIES": False}),
    "count_known": ({**PAPER, "ROWS": heads.COUNTED},),
    "train_heads": (PAPER, WIDE, head((20, 50, 25, 2), "nll")),
    "weights_back": ({**WIDE, "ROWS": heads.SUMMED, "OUT": heads.OUT, "IN": heads.IN},),
    "predict_heads": (PAPER,),
}
"""Kernels and their constants: those of a wide stack, and of a single member of 20 features or one."""


class Resources(NamedTuple):
    """What one kernel needs on one device: registers per thread, spilled registers, and bytes of shared memory."""

    kernel: str
    constants: str
    target: str
    registers: int
    spills: int
    shared: int


def compiled(name: str, constants: dict[str, object], target: str) -> Resources:
    """Compile a kernel in float32."""
    function = getattr(kernels, name, None) or getattr(head_kernels, name)
    known = {n: v for n, v in constants.items() if n in function.arg_names}
    signature = {}
    for argument in function.arg_names:
        if argument in known:
            signature[argument] = "constexpr"
        elif hasattr(head_kernels, name):
            signature[argument] = HEADS.get(argument, "*fp32")
        elif argument in INTEGERS and name != "adam":
            signature[argument] = "*i64"
        elif argument == "ties":
            signature[argument] = "*i32"
        elif argument in ("rows", "width", "features", "copies", "size", "members") or argument.startswith("by_"):
            signature[argument] = "i32"
        else:
            signature[argument] = "*fp32"
    places = {(function.arg_names.index(n),): v for n, v in known.items()}
    stages = {"num_stages": 1} if name in ("train_heads", "predict_heads") else {}
    made = triton.compile(ASTSource(function, signature, places), target=TARGETS[target], options=stages)
    shown = " ".join(f"{n}={v}" for n, v in known.items())
    return Resources(name, shown, target, *_measured(made.asm), made.metadata.shared)


def _measured(asm: dict[str, object]) -> tuple[int, int]:
    """Registers and spills, as the device's assembler reports them."""
    if "amdgcn" in asm:
        text = str(asm["amdgcn"])
        counts = {k: int(v) for k, v in re.findall(r"\.(\w+_count):\s*(\d+)", text)}
        return counts["vgpr_count"], counts["vgpr_spill_count"] + counts["sgpr_spill_count"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(asm["cubin"])  # type: ignore[arg-type]
        dump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([dump, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    used = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return used["REG"], used["STACK"] + used["LOCAL"]


def every() -> list[Resources]:
    """All kernels for all devices."""
    return [compiled(n, c, t) for n, variants in KERNELS.items() for c in variants for t in TARGETS]


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        sys.exit("TRITON_INTERPRET=1 is set: nothing would be compiled; run it without")
    found = every()
    if "--json" in sys.argv:
        print(json.dumps([r._asdict() for r in found]))
    else:
        print("kernel          device  registers  spills  shared  constants")
        for r in found:
            print(f"{r.kernel:15} {r.target:7} {r.registers:9} {r.spills:7} {r.shared:7}  {r.constants}")
