"""A profile of this machine, from its scheduler's answers."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence

from hydragnn_hpc import yaml_files
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.submit import limits
from hydragnn_hpc.submit.answers import READERS, Nodes, Queue
from hydragnn_hpc.submit.site import Site, load_site

_COMMENTS = {
    "scheduler": "one of jobs/schedulers/",
    "gpus_per_node": "of a node in the first queue below, as the scheduler counts",
    "ranks_per_node": "one rank per GPU; without GPUs, one per core",
    "launch": "how ranks are started; run 'hydragnn-hpc doctor' under it to check",
    "environment": "shell lines, run once in the script: load modules, activate an environment",
    "limits": "open queues with such nodes, 24 hours where one sets no limit; the first that fits is used",
    "account": "true where a job must name one",
}


def detect(queue: str | None) -> tuple[Site, str]:
    """Return a profile of this machine, and its text as commented YAML.

    Parameters
    ----------
    queue : str or None
        The queue for jobs; None: the default.

    Raises
    ------
    UserError
        If no scheduler answers here, or it has no such queue, or no default one.
    """
    reasons = []
    for name in READERS:  # forms of answers, schedulers and generic profiles have the same names
        site = load_site(name)
        try:
            queues = limits.ask(site.scheduler)
        except limits.UnknownLimitsError as error:
            reasons.append(f"{name}: {error}")
            continue
        profile = _with_all_queues(limits.fit(site, queues, queue, None), queues, queue)
        return profile, _text(profile, queues)
    raise UserError(f"no scheduler answers here ({'; '.join(reasons)}); '--site local' runs on this host without one")


def _with_all_queues(site: Site, queues: Sequence[Queue], name: str | None) -> Site:
    """Name the profile after this host, and add the other open queues whose nodes are like those of the chosen one."""
    first = limits.choose(queues, name, site.name)
    kind = limits.main_nodes(first)
    alike = [queue for queue in queues if queue is not first and not queue.closed and _fits(site, kind, queue)]
    fitted = [limits.fit(site, queues, queue.name, None) for queue in [first, *alike]]
    chosen = [profile.limits[0] for profile in fitted]
    directives = fitted[0].directives if first.name else site.directives
    host = socket.gethostname().split(".")[0]
    gpus, cores = counted(site.gpus_per_node, "GPU"), counted(site.cores_per_node, "core")
    about = f"{host}, {gpus} and {cores} per node, as {site.name} reports"
    return site.model_copy(update={"name": host, "about": about, "limits": tuple(chosen), "directives": directives})


def _fits(site: Site, kind: Nodes | None, queue: Queue) -> bool:
    """Whether a queue has nodes of that kind, with all the cores that the profile uses."""
    same = kind is None or any((n.cores, n.gpus) == (kind.cores, kind.gpus) for n in queue.nodes)
    return same and (queue.cores_per_node or site.cores_per_node) >= site.cores_per_node


def _text(site: Site, queues: Sequence[Queue]) -> str:
    """Return the profile as YAML, without values at their defaults except those that a user may have to correct."""
    content = site.model_dump(mode="json", exclude_defaults=True, exclude={"scheduler", "sources", "without_gpus"})
    content = {"name": content.pop("name"), "about": content.pop("about"), "scheduler": site.scheduler.name, **content}
    content = {**content, "account": site.account, "environment": list(site.environment)}
    lines = [
        f"# Written by 'hydragnn-hpc site detect' from the answers of {site.scheduler.name}; correct what is wrong."
    ]
    closed = [f"{queue.name} ({queue.closed})" for queue in queues if queue.closed]
    lines += [f"# Queues that start no jobs now: {', '.join(closed)}."] if closed else []
    if shutil.which(site.launch[0]) is None:
        lines.append(f"# '{site.launch[0]}' is not on this host; find its module, and load it in 'environment'.")
    comments = dict(_COMMENTS)
    if any(n.gpus is None for queue in queues for n in queue.nodes):
        comments["gpus_per_node"] = f"{site.scheduler.name} does not state it: check it"
    for key, value in content.items():
        lines += [f"# {comments[key]}"] if key in comments else []
        lines.append(yaml_files.dump({key: value}).rstrip("\n"))
    return "\n".join(lines) + "\n"
