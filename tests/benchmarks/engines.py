"""Measure the engines against baseline A and the arithmetic floor, on one core, in float32.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.engines [--cases 206 varying] [--members 1 12] [--hydragnn]
        [--json FILE]

The network is the paper's HCM, batches of 64 with the optimiser. Cases are the FePt lattice of 32 sites named after
their number of directed edges, the same periodic (a multigraph), and `varying`, where every sample has its own geometry
and number of atoms (20 to 44); in those that end in `+lengths` edges have 20 features of their lengths. Cases of the
library engine are named after their convolutions, on the lattice with 206 edges. `--hydragnn` adds HydraGNN 3.0's
own model and training loop (`tests/benchmarks/hydragnn.py`). Engines alternate in one process, times are CPU times, and
medians are taken, so that the ratios hold on a busy machine; single times do not. Memory is the peak of a separate
process that trains an epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.benchmarks import cases
from tests.benchmarks.cases import BATCH, SAMPLES

Epoch = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What is measured of an engine and a number of members; the floor is the time of the least arithmetic."""

    case: str
    edges: float
    engine: str
    members: int
    samples_per_second: float
    times_baseline: float
    floor_share: float
    peak_megabytes: float
    matrix_product_gigaflops: float
    floor_microseconds: float


def epoch_of(case: str, data: TrainingData, engine: str, members: int) -> Epoch:
    """An epoch of that engine; ``A`` is the baseline."""
    sizes = cases.network_sizes(data)
    if case in cases.OTHERS:
        return _library_epoch_of(case.removesuffix(cases.LENGTHS), data, engine, members)
    if engine == "A":
        # Imported here, so that its memory counts for the baseline alone.
        from tests.benchmarks.baseline import epoch_of as baseline_epoch

        return baseline_epoch(data, sizes, BATCH)
    if engine == "HydraGNN":
        from tests.benchmarks.hydragnn import epoch_of as hydragnn_epoch

        return hydragnn_epoch(data, sizes, BATCH)
    made: Engine = FusedEngine(sizes, data) if engine == "fused" else TorchEngine(sizes, data, torch.device("cpu"))
    return cases.stacked_epoch(made, members)


def _library_epoch_of(convolution: str, data: TrainingData, engine: str, members: int) -> Epoch:
    # Imported here, so that PyTorch Geometric's memory does not count for the other engines.
    from hydragnn_hpc.member.library.engine import LibraryEngine
    from tests.benchmarks.baseline import library_epoch_of

    sizes = cases.network_sizes(data)
    if engine == "A":
        return library_epoch_of(data, sizes, convolution, BATCH)
    return cases.stacked_epoch(LibraryEngine(sizes, convolution, data, torch.device("cpu")), members)


def engines_of(case: str, members: list[int], hydragnn: bool) -> list[tuple[str, int]]:
    """What is measured in a case: engine and members, the baseline first."""
    names = ["library"] if case in cases.OTHERS else ["torch", "fused"]
    theirs = [("HydraGNN", 1)] if hydragnn else []
    return [("A", 1), *theirs, *((name, e) for name in names for e in members)]


def seconds(run: Epoch) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_gigaflops() -> float:
    """Median rate of a 512 x 512 float32 matrix product in torch."""
    a, out = torch.randn(512, 512), torch.empty(512, 512)
    return 2 * 512**3 / float(np.median([seconds(lambda: torch.mm(a, a, out=out)) for _ in range(60)])) / 1e9


def peak_megabytes(case: str, engine: str, members: int) -> float:
    """Peak resident memory of a process that trains an epoch."""
    command = [sys.executable, "-m", "tests.benchmarks.engines", "--memory-of", case, engine, str(members)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(case: str, members: list[int], rounds: int, hydragnn: bool) -> list[Row]:
    """Return a row for each engine and stack: samples per second (all members together), against A and the floor."""
    samples = cases.make_samples(case)
    runs = {name: epoch_of(case, samples, *name) for name in engines_of(case, members, hydragnn)}
    for run in runs.values():
        run()
    times: dict[tuple[str, int], list[float]] = {name: [] for name in runs}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak_gigaflops())
        for name, run in runs.items():
            times[name].append(seconds(run) / (SAMPLES * name[1]))
    peak = float(np.median(peaks))
    floor = math.nan if case in cases.OTHERS else cases.floor_megaflop(samples) / peak / 1e3  # PNA's
    base = np.array(times["A", 1])
    return [
        Row(
            case=case,
            edges=cases.edges_per_sample(samples),
            engine=name,
            members=e,
            samples_per_second=float(1 / np.median(found)),
            times_baseline=float(np.median(base / np.array(found))),
            floor_share=floor / float(np.median(found)),
            peak_megabytes=peak_megabytes(case, name, e),
            matrix_product_gigaflops=peak,
            floor_microseconds=floor * 1e6,
        )
        for (name, e), found in times.items()
    ]


def show(rows: list[Row]) -> None:
    """Print the rows of one case as a Markdown table."""
    first = rows[0]
    print(
        f"\n{first.case}: {first.edges:.0f} directed edges per sample; floor {first.floor_microseconds:.1f} µs"
        f" per sample at {first.matrix_product_gigaflops:.0f} GFLOP/s\n"
    )
    print("| engine | members | samples/s | x A | floor / time | peak MB |\n|---|---:|---:|---:|---:|---:|")
    for r in rows:
        print(
            f"| {r.engine} | {r.members} | {r.samples_per_second:,.0f} | {r.times_baseline:.3g} |"
            f" {r.floor_share:.0%} | {r.peak_megabytes:.0f} |",
            flush=True,
        )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=cases.CASES, default=list(cases.CASES))
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 12])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hydragnn", action="store_true", help="measure HydraGNN too, which envs/tests.sh installs")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hydragnn and not set(arguments.cases) <= {*cases.CUTOFFS, "varying"}:
        parser.error(f"--hydragnn: give it with --cases of {', '.join((*cases.CUTOFFS, 'varying'))}")
    torch.set_num_threads(1)
    if arguments.memory_of:
        case, engine, members = arguments.memory_of
        epoch_of(case, cases.make_samples(case), engine, int(members))()
        # Not getrusage: its peak is that of the process that started this one, if that was larger.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        print(int(next(row for row in status.splitlines() if row.startswith("VmHWM")).split()[1]) / 1024)
        return
    rows = []
    for case in arguments.cases:
        of_case = measure(case, arguments.members, arguments.rounds, arguments.hydragnn)
        show(of_case)
        rows += of_case
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
