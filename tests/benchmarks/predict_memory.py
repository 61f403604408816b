"""Measure the memory and the time that ``hydragnn-hpc predict`` takes for a growing number of structures.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.predict_memory [--structures 10000 100000 1000000]

Two members of H predict random decorations of the FePt lattice of 32 sites, from extended XYZ to csv. The memory is the
process's peak, and the time its CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from hydragnn_hpc.fields import BOHR_IN_ANGSTROM
from tests.benchmarks import cases
from tests.benchmarks.predictions import trained
from tests.benchmarks.program import measured

COMMENT_LINE = "Properties=species:S:1:pos:R:3"


def write(path: Path, number: int) -> None:
    """Write random decorations, as text."""
    sites = cases.supercell(False).pos * BOHR_IN_ANGSTROM
    rows = [" {:.6f} {:.6f} {:.6f}\n".format(*site) for site in sites]
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(number):
            symbols = np.where(rng.random(len(rows)) < rng.random(), "Fe", "Pt").tolist()
            stream.write(
                f"{len(rows)}\n{COMMENT_LINE}\n" + "".join(s + row for s, row in zip(symbols, rows, strict=True))
            )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained(folder, 2, "H")
        print("| structures | peak memory, MB | CPU, s | structures per CPU second |\n|---:|---:|---:|---:|")
        for number in parser.parse_args().structures:
            write(folder / "s.xyz", number)
            words = [folder / "out", folder / "s.xyz", "--out", folder / "p.csv", "--device", "cpu"]
            used = measured("predict", *words)
            with (folder / "p.csv").open("rb") as stream:
                rows = sum(1 for _ in stream) - 1
            if rows != number:
                raise SystemExit(f"{rows} rows for {number} structures")
            speed = number / used.cpu_seconds
            print(f"| {number:,} | {used.megabytes:.0f} | {used.cpu_seconds:.0f} | {speed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
