"""Measure the preparation of structures of varying size, up to two million atoms, and training on them.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.large [--atoms 20000 200000 2000000] [--json FILE]

Structures are periodic cells of 12 to 60 atoms of three elements, with an energy each and a charge of each atom, as
extended XYZ. Every step is a separate process. `held` is memory that belongs to a process alone, MB (the peak of
RssAnon); pages of mapped files, which the system can take back, are not in it. The epoch of a worker (the paper's
network for two tasks, torch engine, all samples) runs on mapped files and on copies in memory in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
BIN = Path(sys.executable).parent
OPTIONS = ["--target=energy=graph:energy:eV", "--target=charge=node:charge:e", "--cutoff=5.5bohr", "--cap=0"]
STAGE = (
    "import sys; from pathlib import Path; from hydragnn_hpc.dataset.staged.copies import copy;"
    " copy(*map(Path, sys.argv[1:]))"
)
SPACING = 2.0
"""Of the simple cubic lattice that structures start from, angstrom."""
CAMPAIGN = """\
name: large
dataset: DATASET
tasks:
  H: {level: graph, field: energy}
  C: {level: node, field: charge}
variants: [HC]
replicas: 1
"""


def write_structures(path: Path, atoms: int) -> int:
    """Write structures with at least ``atoms`` atoms in all; return the number of structures."""
    rng = np.random.default_rng(0)
    done, count = 0, 0
    with path.open("w", encoding="utf-8") as stream:
        while done < atoms:
            shape = rng.integers(2, 5, 3)
            if not 12 <= shape.prod() <= 60:
                continue
            sites = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3) * SPACING
            pos = sites + rng.normal(0, 0.1, sites.shape)
            species = rng.integers(0, 3, len(pos))
            charge = 0.1 * (species - species.mean()) + rng.normal(0, 0.01, len(pos))
            cell = " ".join(f"{v:.6f}" for v in np.diag(shape * SPACING).reshape(-1))
            energy = float(-10.0 * len(pos) - species.sum() + rng.normal())
            columns = "Properties=species:S:1:pos:R:3:charge:R:1"
            stream.write(f'{len(pos)}\nLattice="{cell}" {columns} energy={energy:.6f} pbc="T T T"\n')
            symbols = np.array(["Cu", "Ag", "Au"])[species]
            stream.writelines(
                f"{s} {x:.6f} {y:.6f} {z:.6f} {q:.6f}\n" for s, (x, y, z), q in zip(symbols, pos, charge, strict=True)
            )
            done, count = done + len(pos), count + 1
    return count


def watched(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return seconds, the peak of the memory that it and its children hold (MB), and its output."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    held = 0.0
    while process.poll() is None:
        held = max(held, held_by(process.pid))
        time.sleep(0.02)
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return time.perf_counter() - started, held, output


def held_by(pid: int) -> float:
    """RssAnon of a process and its children, MB."""
    total = 0.0
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(float(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += held_by(int(child))
    except OSError:
        pass  # it ended meanwhile
    return total


def worker(staged: Path, campaign: Path, copied: bool) -> Row:
    """Do what a worker does (map the copy, make the engine, train an epoch); return seconds of start and epoch."""
    # Imported here, so that the memory of torch counts for the worker alone.
    import torch

    from hydragnn_hpc.campaign_file import load_campaign
    from hydragnn_hpc.dataset.staged.copies import StagedData, open_staged
    from hydragnn_hpc.member.choose import choose
    from hydragnn_hpc.member.engine.training_data import from_staged
    from tests.benchmarks.cases import stacked_epoch

    torch.set_num_threads(1)
    settings = load_campaign(campaign, [])
    started = time.perf_counter()
    found = open_staged(staged)
    if copied:
        found = StagedData(found.manifest, {k: np.array(v) for k, v in found.arrays.items()}, found.ready)
    samples = from_staged(found, settings)
    engine, _ = choose(settings, settings.variants[0], samples, torch.device("cpu"))
    ready = time.perf_counter()
    stacked_epoch(engine, 1, len(found.arrays["split"]))()
    return {"start": ready - started, "epoch": time.perf_counter() - ready}


def measure(atoms: int, folder: Path, rounds: int) -> Row:
    """Prepare, stage and train one size."""
    raw, bp, staged = folder / "raw.extxyz", folder / "large.bp", folder / "staged"
    campaign = folder / "large.yaml"
    campaign.write_text(CAMPAIGN.replace("DATASET", bp.name), encoding="utf-8")
    structures = write_structures(raw, atoms)
    seconds, held, _ = watched([str(BIN / "hydragnn-hpc"), "data", "prepare", str(raw), str(bp), *OPTIONS])
    row: Row = {"atoms": atoms, "structures": structures, "prepare_seconds": seconds, "prepare_held": held}
    row["megabytes"] = sum(p.stat().st_size for p in bp.iterdir()) / 1e6
    staged.mkdir()
    row["stage_seconds"], row["stage_held"], _ = watched([sys.executable, "-c", STAGE, str(bp), str(staged)])
    seen: dict[str, list[Row]] = {"mapped": [], "copied": []}
    for _ in range(rounds):
        for how, rows in seen.items():
            command = [sys.executable, "-m", "tests.benchmarks.large", "--worker", how, str(staged), str(campaign)]
            _, held, printed = watched(command)
            rows.append({**json.loads(printed), "held": held})
    for how, rows in seen.items():
        row |= {f"{how}_{what}": min(r[what] for r in rows) for what in ("start", "epoch", "held")}
    return row


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[20_000, 200_000, 2_000_000])
    parser.add_argument("--rounds", type=int, default=2, help="workers of each kind, in turn; the best counts")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        how, staged, campaign = arguments.worker
        print(json.dumps(worker(Path(staged), Path(campaign), how == "copied")))
        return
    rows = []
    for atoms in arguments.atoms:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(atoms, Path(folder), arguments.rounds))
        print(", ".join(f"{k} {v:.3g}" for k, v in rows[-1].items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
