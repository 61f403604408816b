"""The launcher that started this process, and the rank and size that it set: read from the environment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from hydragnn_hpc.errors import UserError


@dataclass(frozen=True)
class LaunchVariables:
    """The environment variables that a launcher sets; the first of each tuple that is set counts.

    Attributes
    ----------
    launcher : str
        Its name, for messages.
    rank, size, local_rank : tuple of str
        Names of variables.
    sets_pmi : bool
        It sets PMI_RANK as well: where that differs, another launcher started this process within a step of this one.
    """

    launcher: str
    rank: tuple[str, ...]
    size: tuple[str, ...]
    local_rank: tuple[str, ...]
    sets_pmi: bool = False


LAUNCHERS = (
    LaunchVariables("Open MPI", ("OMPI_COMM_WORLD_RANK",), ("OMPI_COMM_WORLD_SIZE",), ("OMPI_COMM_WORLD_LOCAL_RANK",)),
    LaunchVariables("jsrun", ("JSM_NAMESPACE_RANK",), ("JSM_NAMESPACE_SIZE",), ("JSM_NAMESPACE_LOCAL_RANK",)),
    LaunchVariables("PALS", ("PALS_RANKID",), ("PALS_SIZE", "PMI_SIZE"), ("PALS_LOCAL_RANKID", "PMI_LOCAL_RANK"), True),
    LaunchVariables("PMI", ("PMI_RANK",), ("PMI_SIZE",), ("MPI_LOCALRANKID", "PMI_LOCAL_RANK")),
    LaunchVariables("Flux", ("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",), ("FLUX_TASK_LOCAL_ID",)),
    # Only inside a step (srun): a batch shell has SLURM_NTASKS and SLURM_PROCID too, but is not a launcher.
    LaunchVariables("srun", ("SLURM_PROCID",), ("SLURM_STEP_NUM_TASKS",), ("SLURM_LOCALID",)),
)
"""In the order of precedence: mpirun inside a Slurm step counts as mpirun."""

# A worker that inherits these takes itself for a rank: its MPI_Init fails under MPICH, or silently joins the parent's
# world under Open MPI.
_OF_LAUNCHERS = (
    "PMI", "OMPI_", "PRTE_", "ORTE_", "MPI_", "MPICH_", "MPIEXEC_", "HYDRA_", "HYDI_", "PALS_", "SLURM_",
    "FLUX_", "JSM_", "LSB_", "I_MPI_", "GTL_",
)  # fmt: skip


@dataclass(frozen=True)
class LaunchEnvironment:
    """What the environment says about this process.

    Attributes
    ----------
    launcher : str or None
        None where there is none: one rank, without MPI.
    rank, size : int
    local_rank : int or None
        Rank within the node; None where no variable gives it.
    """

    launcher: str | None
    rank: int
    size: int
    local_rank: int | None


def detect(environment: Mapping[str, str]) -> LaunchEnvironment:
    """Return the launcher, rank and size that ``environment`` states.

    Raises
    ------
    UserError
        If one of its variables is not a number, or its connection to several ranks has been closed.
    """
    # A launcher's connection is not inherited through another's: whichever holds it has started this process.
    connected = "PMI_FD" in environment and not _is_left_over(environment)
    for known in LAUNCHERS:
        rank, size = _first(environment, known.rank), _first(environment, known.size)
        if connected and not known.sets_pmi and (rank, size) != _pmi(environment):
            continue
        if rank is None or size is None or (known.sets_pmi and _first(environment, ("PMI_RANK",)) not in (rank, None)):
            continue
        if _is_left_over(environment):
            if "PMI_RANK" in known.rank and size > 1:
                raise UserError(
                    f"PMI_SIZE={size}, but PMI_FD={environment['PMI_FD']} is not a connection to a launcher: unset"
                    " PMI_FD, PMI_RANK and PMI_SIZE, left by another process, or keep the descriptor open in wrappers"
                )
            if size == 1:  # also in a shell of one task, as of srun --pty: one rank needs no MPI
                continue
        own = _first(environment, known.local_rank)
        return LaunchEnvironment(
            known.launcher, rank, size, _local_rank(environment, rank, size) if own is None else own
        )
    return LaunchEnvironment(None, 0, 1, None)


def _local_rank(environment: Mapping[str, str], rank: int, size: int) -> int | None:
    """Return the local rank from another set of variables of the same launcher, such as Flux's in addition to PMI's.

    They belong to the same launcher if rank and size agree. Otherwise they are those of an outer step, and the same for
    all ranks that were started in it.
    """
    for other in LAUNCHERS:
        if (_first(environment, other.rank), _first(environment, other.size)) == (rank, size):
            local_rank = _first(environment, other.local_rank)
            if local_rank is not None:
                return local_rank
    return None


def _pmi(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the rank and size that PMI's variables state."""
    return _first(environment, ("PMI_RANK",)), _first(environment, ("PMI_SIZE",))


def _is_left_over(environment: Mapping[str, str]) -> bool:
    """Whether PMI_FD names no socket here: its launcher started another process, and MPI would abort this one."""
    descriptor = _first(environment, ("PMI_FD",))
    if descriptor is None:
        return False
    try:
        return not stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except (OSError, OverflowError):
        return True


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        if name in environment:
            try:
                return int(environment[name])
            except ValueError as error:
                raise UserError(
                    f"{name}='{environment[name]}' is not a number; unset it, or fix the launcher"
                ) from error
    return None


def check_size(launch: LaunchEnvironment, size: int, library: str) -> None:
    """Check that the communicator has the size that the launcher set.

    Raises
    ------
    UserError
        If it does not: the launcher does not belong to the MPI library, and every process takes itself for rank 0.
    """
    if launch.size != size:
        raise UserError(
            f"{launch.launcher} started {launch.size} processes, but MPI ({library.splitlines()[0].strip()})"
            f" sees {size}: the launcher does not match the MPI library; use the library's own mpirun (the one"
            " beside this Python), or under Slurm 'srun --mpi=pmi2', or build mpi4py against the launcher's MPI"
        )


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a worker: without the launcher's variables; device masks stay."""
    return {name: value for name, value in environment.items() if not name.startswith(_OF_LAUNCHERS)}
