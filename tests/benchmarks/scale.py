"""Measure what the ensemble itself costs: scheduling over many ranks, start-up and reports of large campaigns.

    python -m tests.benchmarks.scale [--ranks 64] [--members 10000] [--seconds 2] [--json FILE]
    python -m tests.benchmarks.scale --start 8 64 512    # only: what rank 0 needs to start this many ranks
    python -m tests.benchmarks.scale --dry-runs 20000    # only: dry runs of a campaign of this many variants

Members only sleep (the tests' stand-in for the worker): what remains is the cost of the ensemble. Efficiency is the
time that members slept over the ranks' total time, from the first assignment to the last result. All ranks share this
host.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options
from tests.benchmarks.program import measured
from tests.ranks import DRIVE, OVER_NETWORK
from tests.report import making

LIGHT = Path(__file__).with_name("light_ranks.py")
BIN = Path(sys.executable).parent
CAMPAIGN = """\
name: scale
dataset: small.bp
tasks:
  H: {level: graph, field: mixing_enthalpy}
  C: {level: node, field: charge_transfer}
variants: [HC, H]
replicas: REPLICAS
"""
Row = dict[str, Any]


def campaign(folder: Path, members: int) -> Path:
    """A campaign of ``members`` members on a small data set."""
    if not (folder / "small.bp").exists():
        surrogate.generate(folder / "raw", cap=4, seed=2)
        prepare(folder / "raw", folder / "small.bp", Options())
    path = folder / f"{members}.yaml"
    path.write_text(CAMPAIGN.replace("REPLICAS", str(members // 2)), encoding="utf-8")
    return path


def drive(folder: Path, out: Path, ranks: int, members: int, sleep: float) -> tuple[float, str]:
    """Run a campaign of sleepers; return its wall time and what it printed."""
    (folder / "stage").mkdir(exist_ok=True)
    words = [str(campaign(folder, members)), str(out), str(folder / "stage"), "good", "-", str(sleep)]
    started = time.perf_counter()
    done = subprocess.run(
        [str(BIN / "mpirun"), "-n", str(ranks), sys.executable, str(DRIVE), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - started, done.stdout


def events(out: Path, kind: str) -> list[float]:
    """Times of the events of a kind, seconds."""
    lines = map(json.loads, (out / "logs" / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return [datetime.fromisoformat(e["time"]).timestamp() for e in lines if e["event"] == kind]


def supervisor_megabytes(printed: str) -> int:
    """The largest peak memory of any supervisor, from a run's output."""
    return max(int(m) for m in re.findall(r"SUPERVISOR peak (\d+)", printed))


def efficiency(folder: Path, ranks: int, sleep: float) -> Row:
    """Ten sleeping members per rank."""
    out, members = folder / "ranks", 10 * ranks
    wall, printed = drive(folder, out, ranks, members, sleep)
    span = max(events(out, "finished")) - min(events(out, "assign"))
    return {
        "what": f"{ranks} ranks, {members} members of {sleep:g} s",
        "efficiency": members * sleep / (ranks * span),
        "wall_seconds": wall,
        "supervisor_megabytes": supervisor_megabytes(printed),
    }


def start(folder: Path, ranks: int) -> Row:
    """What rank 0 needs for this many ranks that are joined by a network, each with one member that takes no time.

    All ranks but the first are light ones (`tests.benchmarks.light_ranks`). Rank 0 starts last, so that its time is not
    spent waiting for theirs.
    """
    (folder / "stage").mkdir(exist_ok=True)
    door, environment = folder / f"door-{ranks}", {**os.environ, **OVER_NETWORK, "DRIVE_START_SECONDS": "600"}
    words = [str(campaign(folder, ranks)), str(folder / f"start-{ranks}"), str(folder / "stage")]
    light = [sys.executable, "-m", "tests.benchmarks.light_ranks", "serve", str(door), str(ranks - 1), *words]
    last = ["bash", "-c", f'until [ -e {door}.full ]; do sleep 0.2; done; exec "$@"', "bash"]
    joined = [sys.executable, "-I", "-S", str(LIGHT), "join", str(door)]
    with subprocess.Popen(light, env=environment) as server:
        try:
            while not door.exists():
                time.sleep(0.1)
            done = subprocess.run(
                [str(BIN / "mpirun"), "-n", "1", *last, sys.executable, str(DRIVE), *words, "good", "-", "0",
                 ":", "-n", str(ranks - 1), *joined],
                stdout=subprocess.PIPE, text=True, check=True, env=environment,
            )  # fmt: skip
        finally:
            server.kill()
    found = re.search(r"SUPERVISOR peak (\d+).* cpu ([\d.]+) s descriptors (\d+)", done.stdout)
    assert found, done.stdout
    opened = Path(f"{door}.full").stat().st_mtime
    return {
        "what": f"start and end of {ranks} ranks",
        "seconds_to_first_assignment": min(events(folder / f"start-{ranks}", "assign")) - opened,
        "megabytes_rank_0": int(found[1]),
        "cpu_seconds_rank_0": float(found[2]),
        "descriptors_rank_0": int(found[3]),
    }


def large(folder: Path, members: int) -> list[Row]:
    """A campaign of very many members that take no time: assignment, start-up, status."""
    out = folder / "members"
    wall, printed = drive(folder, out, 4, members, 0.0)
    span = max(events(out, "finished")) - min(events(out, "assign"))
    again, _ = drive(folder, out, 4, members, 0.0)
    rows = [
        {
            "what": f"{members} members of no time on 4 ranks",
            "milliseconds_per_member": 1e3 * span / members,
            "wall_seconds": wall,
            "supervisor_megabytes": supervisor_megabytes(printed),
        },
        {"what": f"the same command again: all {members} found finished", "wall_seconds": again},
    ]
    for command in (["status"], ["status", "--json"]):
        rows.append({"what": f"{' '.join(command)} of {members} members", **asdict(measured(*command, out))})
    return [*rows, {"what": f"report of {members} members", **asdict(measured("report", out))}]


def reports(folder: Path, members: int) -> Row:
    """The report of very many members with predictions for as many samples as the quick start's test set has."""
    samples = 445
    out = making.make(folder / "reports", variants=("HC", "H"), replicas=members // 2, samples=samples)
    what = f"report of {members} members with predictions for {samples} samples"
    return {"what": what, **asdict(measured("report", out))}


def dry_runs(folder: Path, variants: int) -> list[Row]:
    """A campaign of very many variants: what ``run`` and ``submit`` take before anything is trained."""
    path = campaign(folder, 2).with_name("variants.yaml")
    lines = "".join(f"  - {{name: V{k}, tasks: [{'H, C' if k % 2 else 'H'}]}}\n" for k in range(variants))
    path.write_text(CAMPAIGN.replace("variants: [HC, H]\n", f"variants:\n{lines}").replace("REPLICAS", "1"), "utf-8")
    words = [path, folder / "variants", "--dry-run"]
    return [
        {"what": f"run --dry-run of {variants} variants", **asdict(measured("run", *words))},
        {"what": f"submit --dry-run of {variants} variants", **asdict(measured("submit", *words, "--site", "local"))},
    ]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--start", type=int, nargs="+", metavar="RANKS", help="measure only the start of this many ranks"
    )
    parser.add_argument("--dry-runs", type=int, metavar="VARIANTS", help="measure only dry runs of this many variants")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if arguments.start:
            rows = [start(folder, ranks) for ranks in arguments.start]
        elif arguments.dry_runs:
            rows = dry_runs(folder, arguments.dry_runs)
        else:
            rows = [efficiency(folder, arguments.ranks, arguments.seconds), *large(folder, arguments.members)]
            rows.append(reports(folder, arguments.members))
    for row in rows:
        rest = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if k != "what")
        print(f"{row['what']}: {rest}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
