"""Machine profiles: what a machine has, what it allows, and how to request it; read from ``jobs/sites/NAME.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from hydragnn_hpc import yaml_files
from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import seconds_of, with_units
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.sections import Positive, Printable, Section
from hydragnn_hpc.submit.scheduler import Scheduler, jobs_folder, load_scheduler
from hydragnn_hpc.validation import one_line


class QueueLimit(Section):
    """Limits of one queue (partition, quality of service); an empty name is the scheduler's default queue."""

    queue: str = ""
    nodes: tuple[Positive, Positive]
    walltime: str

    @field_validator("walltime", mode="before")
    @classmethod
    def _is_a_duration(cls, value: Any) -> str:
        try:
            seconds_of(str(value), "duration")
        except UserError as error:
            raise ValueError(str(error)) from None
        return str(value)

    @field_validator("nodes")
    @classmethod
    def _is_a_range(cls, nodes: tuple[int, int]) -> tuple[int, int]:
        if nodes[0] > nodes[1]:
            raise ValueError(f"{nodes[0]} is more than {nodes[1]}; write the fewest and then the most nodes of a job")
        return nodes

    @property
    def seconds(self) -> float:
        """``walltime`` in seconds."""
        return seconds_of(self.walltime, "walltime")


class WithoutGpus(Section):
    """Replacements of a generic profile's ``launch`` and ``directives`` on nodes without GPUs."""

    launch: Annotated[tuple[str, ...], Field(min_length=1)]
    directives: tuple[Printable, ...] = ()


class Site(Section):
    """One machine, as jobs see it.

    ``launch``, ``directives`` and ``per_node`` may contain the placeholders of `render.values_of`, such as ``{nodes}``.
    ``environment`` and ``per_rank`` are lines of shell, left as they are: the first run once in the script
    (``$HYDRAGNN_HPC_ROOT`` is the checkout), the second in every rank before the program. ``per_node`` starts one
    process on each node of the job, for a packed environment; without it that process runs where the script runs.
    ``usual_nodes`` is the most that a job asks for unless its user names a number. ``scheduler`` names a file of
    ``jobs/schedulers/``, or one beside the profile. ``retired`` says why a machine takes no jobs any more.
    """

    name: str
    about: str
    sources: tuple[str, ...] = ()
    scheduler: Scheduler
    gpus_per_node: Annotated[int, Field(ge=0)]
    cores_per_node: Positive
    ranks_per_node: Positive
    cores_per_rank: Positive
    launch: Annotated[tuple[str, ...], Field(min_length=1)]
    limits: Annotated[tuple[QueueLimit, ...], Field(min_length=1)]
    directives: tuple[Printable, ...] = ()
    environment: tuple[str, ...] = ()
    per_rank: tuple[str, ...] = ()
    per_node: tuple[str, ...] = ()
    account: bool = False  # whether a job must name one
    usual_nodes: Positive = 1
    retired: str = ""
    without_gpus: WithoutGpus | None = None

    @field_validator("scheduler", mode="before")
    @classmethod
    def _load(cls, name: Any, info: ValidationInfo) -> Scheduler:
        folders = (info.context or {}).get("folders", ())
        return load_scheduler(str(name), [*folders, jobs_folder() / "schedulers"])

    @model_validator(mode="after")
    def _fits_its_nodes(self) -> Site:
        if self.ranks_per_node * self.cores_per_rank > self.cores_per_node:
            raise ValueError(
                f"{counted(self.ranks_per_node, 'rank')} of {counted(self.cores_per_rank, 'core')} do not fit a node of"
                f" {self.cores_per_node}: lower ranks_per_node or cores_per_rank"
            )
        return self

    def limit(self, nodes: int, queue: str | None, walltime: float | None) -> QueueLimit:
        """Return the first limit that allows ``nodes`` nodes and ``walltime`` seconds, of any queue or of ``queue``.

        Raises
        ------
        UserError
            If there is no such queue, or no queue allows that many nodes or that much time.
        """
        limits = [limit for limit in self.limits if queue in (None, limit.queue)]
        if not limits:
            known = {limit.queue for limit in self.limits if limit.queue}
            others = nearest(queue or "", known) or "; its profile names none"
            raise UserError(f"{self.name} has no queue '{queue}'{others}")
        fitting = [limit for limit in limits if limit.nodes[0] <= nodes <= limit.nodes[1]]
        if not fitting:
            ranges = ", ".join(f"{limit.queue or 'default'} {limit.nodes[0]} to {limit.nodes[1]}" for limit in limits)
            raise UserError(f"--nodes {nodes}: {self.name} accepts jobs with these numbers of nodes: {ranges}")
        if walltime is None:
            return fitting[0]
        long_enough = [limit for limit in fitting if walltime <= limit.seconds]
        if not long_enough:
            most = max(limit.seconds for limit in fitting)
            raise UserError(
                f"--walltime {with_units(walltime)}: {self.name} allows {with_units(most)} on"
                f" {counted(nodes, 'node')}; ask for less; further jobs continue by themselves"
            )
        return long_enough[0]


def site_names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(path.stem for path in (jobs_folder() / "sites").glob("*.yaml"))


def load_site(name: str) -> Site:
    """Read a profile: by the name of one that comes with the package, or by the path of a YAML file.

    Raises
    ------
    UserError
        If there is no such profile, or its content is invalid.
    """
    given = Path(name)
    path = given if given.suffix in (".yaml", ".yml") else jobs_folder() / "sites" / f"{name}.yaml"
    try:
        content = yaml_files.read(path)
        return Site.model_validate(content, context={"folders": [path.parent]})
    except FileNotFoundError as error:
        if path == given:
            raise UserError(f"--site {name}: no such file") from error
        known = nearest(name, site_names())
        raise UserError(f"--site {name}: no such machine{known}; or give the path of a YAML file") from error
    except ValidationError as error:
        raise UserError(f"--site {name}: {path}: {one_line(error, Site)}") from error
    except (OSError, *yaml_files.YAML_ERRORS) as error:
        raise UserError(f"--site {name}: cannot read {path}: {error}") from error
