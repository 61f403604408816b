"""The scheduler's limits: a generic profile adopts them, and every job is checked against them before submission.

A job that exceeds a limit would wait in the queue forever. A scheduler that is not on this host, does not answer or
prints something unknown does not prevent submission: `UnknownLimitsError` says why its limits are not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

from hydragnn_hpc.commands import SilentError, run
from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import clock, with_units
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.submit.answers import Nodes, Queue, megabytes, read
from hydragnn_hpc.submit.plan import JobPlan
from hydragnn_hpc.submit.scheduler import Scheduler
from hydragnn_hpc.submit.site import QueueLimit, Site

PATIENCE_SECONDS = 10
_MEMORY = {
    "slurm": (r"^\s*(--mem=)(\d+[KMGT]?B?)\s*$", "M"),
    "pbs": (r"^\s*-l\s*select=.*?\b(mem=)(\d+[KMGT]?B?)\b", "B"),
    # A number without a unit is not read: its unit depends on the cluster's configuration.
    "lsf": (r"\brusage\[[^]]*?\b(mem=)([\d.]+[KMGT]B?)\b", ""),
}
"""How a directive asks for a node's memory, and the unit of a number without one, by form of `submit.answers`."""


class UnknownLimitsError(Exception):
    """A scheduler's limits are not known; the message says why."""


def ask(scheduler: Scheduler, patience: float = PATIENCE_SECONDS) -> tuple[Queue, ...]:
    """Ask the scheduler for its queues; return none if its file declares no ``queries``.

    Raises
    ------
    UnknownLimitsError
        If a command is not on this host, fails, gives no answer for ``patience`` seconds, or prints something unknown.
    """
    if scheduler.queries is None:
        return ()
    commands = scheduler.queries.commands()
    with ThreadPoolExecutor(len(commands)) as pool:  # in parallel, so that the time limit is for all of them
        answers = dict(
            zip(commands, pool.map(_answer, commands.keys(), commands.values(), repeat(patience)), strict=True)
        )
    try:
        return read(scheduler.queries.form, answers)
    except ValueError as error:
        programs = " or ".join(dict.fromkeys(f"'{words[0]}'" for words in commands.values()))
        raise UnknownLimitsError(f"{programs} gave {error}") from error


def _answer(key: str, words: Sequence[str], patience: float) -> str:
    try:
        answer = run(words, patience)
    except SilentError as error:
        raise UnknownLimitsError(str(error)) from error
    if answer.code and key == "gpus":
        return ""
    if answer.code:
        raise UnknownLimitsError(f"'{' '.join(words)}' failed: {answer.last_words or 'it gave no reason'}")
    return answer.output


def rehearse(scheduler: Scheduler, script: str) -> str:
    """Let the scheduler test a job script without submitting it; return why it could not, or ``""``.

    Raises
    ------
    UserError
        If it refuses the script; with the scheduler's own reason.
    """
    if not scheduler.test:
        return ""
    command = " ".join(scheduler.test)
    try:
        answer = run(scheduler.test, PATIENCE_SECONDS, script)
    except SilentError as error:
        return str(error)
    if answer.code and answer.last_words:
        raise UserError(
            f"'{command}' refused the job: {answer.last_words}; ask for less or for another queue, or submit the "
            f"script of --dry-run with '{scheduler.submit[0]}' to queue it anyway"
        )
    return f"'{command}' failed: it gave no reason" if answer.code else ""


def choose(queues: Iterable[Queue], name: str | None, where: str) -> Queue:
    """Return the queue of that name; without one the default queue, or the only one.

    Raises
    ------
    UserError
        If there is no such queue, or no default.
    """
    known = {queue.name: queue for queue in queues}
    if name is None:
        default = [queue for queue in known.values() if queue.default] or list(known.values())
        if len(default) == 1 or default[0].default:
            return default[0]
        raise UserError(f"{where} has no default queue; name one with --queue{nearest('', known)}")
    if name not in known:
        raise UserError(f"{where} has no queue '{name}'{nearest(name, known)}")
    return known[name]


def main_nodes(queue: Queue) -> Nodes | None:
    """Return the nodes to plan for in ``queue``: the kind with the most GPUs in total; without GPUs, the most nodes."""
    return max(queue.nodes, key=lambda n: (bool(n.gpus), n.number * (n.gpus or 1), n.cores), default=None)


def apply(site: Site, generic: bool, name: str | None, seconds: float | None) -> tuple[Site, tuple[Queue, ...], str]:
    """Ask a profile's scheduler; return the profile, the queues, and why they are not known (empty if they are).

    A ``generic`` profile is returned with the numbers of the queue ``name``; see `fit`. Where they are not known, it
    keeps its own, and the queue is assumed to exist.
    """
    try:
        queues = ask(site.scheduler)
    except UnknownLimitsError as error:
        return (fit(site, [Queue(name)], name, seconds) if generic and name else site), (), str(error)
    return (fit(site, queues, name, seconds) if generic and queues else site), queues, ""


def fit(site: Site, queues: Sequence[Queue], name: str | None, seconds: float | None) -> Site:
    """Return a generic profile with the cores, GPUs and limits of a queue's nodes.

    Parameters
    ----------
    site : Site
        Keeps its own numbers where the scheduler states none.
    name : str or None
        The queue; None: the default.
    seconds : float or None
        The time that the user asks for; a queue without a limit allows it.

    Raises
    ------
    UserError
        If there is no such queue, or no default.
    """
    queue = choose(queues, name, site.name)
    kind = main_nodes(queue)
    walltime = with_units(queue.seconds or max(seconds or 0, site.limits[0].seconds))
    most = queue.max_nodes
    if kind is not None:
        site = _with_nodes(site, kind, min(kind.cores, queue.cores_per_node or kind.cores))
        alike = sum(n.number for n in queue.nodes if n.cores >= kind.cores and (n.gpus or 0) >= (kind.gpus or 0))
        most = min(alike, queue.max_nodes or alike)
    least = min(queue.min_nodes, most or queue.min_nodes)
    limit = QueueLimit(queue=name or "", nodes=(least, most or site.limits[0].nodes[1]), walltime=walltime)
    directives, queries = site.directives, site.scheduler.queries
    if name and queries and queries.queue and _named_queue(site, "") == "":
        directives = (*directives, queries.queue)
    return site.model_copy(update={"limits": (limit,), "directives": directives})


def _with_nodes(site: Site, kind: Nodes, cores: int) -> Site:
    """Return the profile for nodes of a kind: one rank per GPU; without GPUs, one per core."""
    gpus = site.gpus_per_node if kind.gpus is None else kind.gpus
    ranks = min(gpus, cores) if gpus else max(1, cores // kind.threads)
    numbers = {
        "gpus_per_node": gpus,
        "cores_per_node": cores,
        "ranks_per_node": ranks,
        "cores_per_rank": cores // ranks,
    }
    without = site.without_gpus if not gpus else None
    lines = {"launch": without.launch, "directives": without.directives} if without else {}
    return site.model_copy(update={**numbers, **lines})


def check(site: Site, plan: JobPlan, queues: Sequence[Queue], account: str) -> None:
    """Check a job against the limits of its queue.

    Raises
    ------
    UserError
        If the queue is unknown or closed to it, or the job exceeds a limit.
    """
    name = _named_queue(site, plan.queue)
    if name is None:  # a quality of service may lift a queue's limits, but adds no nodes
        _check_nodes(site, plan, [n for queue in queues for n in queue.nodes], site.name)
        return
    if not queues or (not name and not any(queue.default for queue in queues)):
        return
    problems = []
    for part in name.split(",") if name else [None]:
        try:
            queue = choose(queues, part, site.name)
            _check_queue(site, plan, queue, queues, account)
        except UserError as error:
            problems.append(error)
        else:
            return
    raise problems[0]


def _named_queue(site: Site, queue: str) -> str | None:
    """Return the queue that the script names: empty for the default, None if the name is not that of a queue."""
    queries = site.scheduler.queries
    if queries is None or not queries.queue:
        return queue
    option = queries.queue.partition("{")[0]
    named = [line.strip().removeprefix(option) for line in site.directives if line.strip().startswith(option)]
    if named:
        return named[0].replace("{queue}", queue)
    return None if any("qos" in line or "{queue}" in line for line in site.directives) else ""


def _check_queue(site: Site, plan: JobPlan, queue: Queue, queues: Sequence[Queue], account: str) -> None:
    where = f"queue '{queue.name}'" if queue.name else f"the queue of {site.name}"
    if queue.closed:
        others = ", ".join(other.name for other in queues if not other.closed)
        choice = f", or choose another with --queue: {others}" if others else ""
        raise UserError(f"{where} starts no jobs ({queue.closed}); wait{choice}")
    allowed, barred = ({name.lower() for name in names} for names in (queue.accounts, queue.barred))
    given = account.lower()
    if given and (given not in allowed if allowed else given in barred):
        reason = f"which takes {', '.join(queue.accounts)}" if allowed else "from which it is barred"
        raise UserError(f"--account {account}: not for {where}, {reason}; name another account or --queue")
    if queue.seconds is not None and plan.walltime_seconds > queue.seconds:
        raise UserError(
            f"walltime {clock(plan.walltime_seconds)}: {where} allows {clock(queue.seconds)}; ask for less with "
            "--walltime; further jobs continue the campaign by themselves"
        )
    if queue.max_nodes is not None and plan.nodes > queue.max_nodes:
        raise UserError(f"nodes {plan.nodes}: {where} allows {queue.max_nodes} per job; ask for fewer with --nodes")
    if plan.nodes < queue.min_nodes:
        raise UserError(
            f"nodes {plan.nodes}: {where} takes jobs of at least {queue.min_nodes} nodes; ask for more with --nodes"
        )
    kinds = [replace(n, cores=min(n.cores, queue.cores_per_node or n.cores)) for n in queue.nodes]
    _check_nodes(site, plan, kinds, where)


def _check_nodes(site: Site, plan: JobPlan, kinds: Sequence[Nodes], where: str) -> None:
    """Refuse more cores, GPUs or nodes than there are; ``kinds`` is empty where that is not known."""
    if not kinds:
        return
    cores, gpus = site.ranks_per_node * site.cores_per_rank, site.gpus_per_node
    most_cores, most_gpus = max(n.cores for n in kinds), max(gpus if n.gpus is None else n.gpus for n in kinds)
    if cores > most_cores:
        raise UserError(
            f"{counted(site.ranks_per_node, 'rank')} of {counted(site.cores_per_rank, 'core')} per node: {where} has "
            f"nodes of at most {counted(most_cores, 'core')}; lower ranks_per_node or cores_per_rank in the profile of "
            f"{site.name}"
        )
    # At some centres the scheduler does not count GPUs: only what the script asks for matters.
    if not any(re.search(r"gpu|^-g$", word) for word in (*site.directives, *site.launch)):
        gpus = 0
    if gpus > most_gpus:
        raise UserError(
            f"{counted(gpus, 'GPU')} per node: {where} has nodes of at most {counted(most_gpus, 'GPU')}; lower "
            f"gpus_per_node in the profile of {site.name}, or choose another --queue"
        )
    _check_memory(site, kinds, where)
    fitting = sum(n.number for n in kinds if n.cores >= cores and (n.gpus is None or n.gpus >= gpus))
    if plan.nodes > fitting:
        shape = counted(cores, "core") + (f" and {counted(gpus, 'GPU')}" if gpus else "")
        raise UserError(f"nodes {plan.nodes}: {where} has {fitting} of {shape}; ask for fewer with --nodes")


def _check_memory(site: Site, kinds: Sequence[Nodes], where: str) -> None:
    """Refuse to ask for more memory per node than there is."""
    queries = site.scheduler.queries
    if queries is None or queries.form not in _MEMORY or any(n.memory is None for n in kinds):
        return
    most = max(n.memory or 0 for n in kinds)
    pattern, unit = _MEMORY[queries.form]
    for line in site.directives:
        asked = re.search(pattern, line, re.IGNORECASE)
        if asked and (megabytes(asked[2], unit) or 0) > most:
            what = f"{asked[1]}{asked[2]}"
            raise UserError(
                f"{what}: {where} has nodes of at most {most} MB; lower it in the directives of {site.name}"
            )
