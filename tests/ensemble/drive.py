"""Runs a campaign with a worker of the tests: ``python drive.py CAMPAIGN OUT STAGE [WORKER ...]``.

WORKER is a module of the tests and its arguments, or WHAT VICTIM SECONDS of the stand-in; the real worker by default.

Ranks send heartbeats every DRIVE_BEAT_SECONDS, an environment variable, and are lost after DRIVE_LOST_SECONDS;
MPI has DRIVE_START_SECONDS to start.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hydragnn_hpc.ensemble.options import RunOptions, Timings
from hydragnn_hpc.ensemble.run import run
from hydragnn_hpc.ensemble.workers import WORKER_COMMAND
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report.tables.registry import write_tables

given = {
    name: float(os.environ[variable])
    for name, variable in {"heartbeat": "DRIVE_BEAT_SECONDS", "lost": "DRIVE_LOST_SECONDS"}.items()
    if variable in os.environ
}
campaign, out, stage, *worker = sys.argv[1:]
os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
if worker and not worker[0].startswith("tests."):
    worker.insert(0, "tests.ensemble.standin")
command = (sys.executable, "-m", *worker) if worker else WORKER_COMMAND
start_seconds = float(os.environ.get("DRIVE_START_SECONDS", "60"))
descriptors = 0


def on_change(folder: Path) -> None:
    """Write the tables; count the open descriptors, since the other ranks are connected at this moment."""
    global descriptors
    descriptors = max(descriptors, len(list(Path("/proc/self/fd").iterdir())))
    write_tables(folder)


options = RunOptions(
    campaign=Path(campaign),
    overrides=[],
    out=Path(out),
    seconds=None,
    start_seconds=start_seconds,
    local_rank=None,
    stage_dir=Path(stage),
    require_gpu=False,
    on_change=on_change,
    worker_command=command,
    timings=Timings(**given),
)
try:
    code = int(run(options))
except UserError as error:
    print(f"hydragnn-hpc: error: {error}", file=sys.stderr, flush=True)
    code = int(error.exit_code)
loaded = {"torch", "torch_geometric", "adios2", "matplotlib"} & set(sys.modules)
# Not getrusage: its peak is inherited from whoever started this process.
peak = (
    next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line) // 1024
)
# In one write, so that the lines of two ranks do not mix.
sys.stdout.write(
    f"SUPERVISOR peak {peak} MiB heavy {sorted(loaded)} cpu {time.process_time():.2f} s descriptors {descriptors}\n"
)
sys.exit(code)
