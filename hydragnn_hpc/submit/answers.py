"""Parsers of the schedulers' output about queues and nodes, with a common result: `Queue`.

Schedulers state different things: whatever one does not state is None, and is neither checked nor adopted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from hydragnn_hpc.durations import seconds_of
from hydragnn_hpc.errors import UserError


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind: how many, and what each has (``cores`` in the scheduler's count, ``threads`` per core).

    ``memory`` is in MB, and None where the scheduler does not say.
    """

    number: int
    cores: int
    gpus: int | None = None
    threads: int = 1
    memory: int | None = None


@dataclass(frozen=True)
class Queue:
    """One queue (partition) and what it allows.

    Attributes
    ----------
    name : str
        Empty for a scheduler that has one queue without a name.
    nodes : tuple of Nodes
        The kinds of nodes that it uses; empty where the scheduler does not say.
    default : bool
        Whether it takes jobs that name no queue.
    closed : str
        Why it starts no jobs, in the scheduler's words; empty if it does.
    seconds : float or None
        The longest job.
    min_nodes, max_nodes : int, int or None
        The numbers of nodes that a job may have; None: unlimited.
    cores_per_node : int or None
        The most cores of a node that jobs may have, where that is less than the node has.
    accounts, barred : tuple of str
        Accounts that may use it (empty: all), and accounts that may not, which counts only where all others may.
    """

    name: str
    nodes: tuple[Nodes, ...] = ()
    default: bool = False
    closed: str = ""
    seconds: float | None = None
    min_nodes: int = 1
    max_nodes: int | None = None
    cores_per_node: int | None = None
    accounts: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()


Number = TypeVar("Number", int, float)
Answers = Mapping[str, str]
"""The output of each command of a scheduler's `submit.scheduler.Queries`, by its key."""
_Host = tuple[int, int | None, int | None]  # cores, GPUs, memory in MB


def read(form: str, answers: Answers) -> tuple[Queue, ...]:
    """Return the queues that a scheduler's answers describe; ``form`` names their format.

    Raises
    ------
    ValueError
        If they describe none.
    """
    try:
        queues = READERS[form](answers)
    except (UserError, LookupError, ArithmeticError, ValueError) as error:
        raise ValueError(f"an answer of unknown form ({error})") from error
    if not queues:
        raise ValueError("an answer that names no queue")
    return queues


# Slurm


def _slurm(answers: Answers) -> tuple[Queue, ...]:
    """Read ``scontrol show partition --oneliner`` and ``sinfo -o "%R|%D|%c|%Z|%m|%G"``."""
    kinds: dict[str, list[Nodes]] = {}
    for line in answers["nodes"].splitlines():
        name, number, cores, threads, memory, gres = line.strip().split("|", 5)
        kind = Nodes(_first(number), _first(cores), _slurm_gpus(gres), _first(threads), _number(memory))
        if kind.number and kind.cores and kind.threads:  # a partition without nodes has a line of zeros
            kinds.setdefault(name, []).append(kind)
    return tuple(
        _partition(dict(re.findall(r"(\w+)=(\S*)", line)), kinds)
        for line in answers["queues"].splitlines()
        if line.startswith("PartitionName=")
    )


def _partition(row: Mapping[str, str], kinds: Mapping[str, list[Nodes]]) -> Queue:
    name = row["PartitionName"]
    return Queue(
        name=name,
        nodes=tuple(kinds.get(name, ())),
        default=row["Default"] == "YES",
        closed=_closed(row),
        seconds=None if row["MaxTime"] in ("UNLIMITED", "INFINITE") else seconds_of(row["MaxTime"], "MaxTime"),
        min_nodes=max(1, _number(row.get("MinNodes", "")) or 1),
        max_nodes=_number(row["MaxNodes"]),
        cores_per_node=_number(row.get("MaxCPUsPerNode", "")),
        accounts=_names(row.get("AllowAccounts", "ALL")),
        barred=_names(row.get("DenyAccounts", "")),
    )


def _closed(row: Mapping[str, str]) -> str:
    """Return why a partition starts no jobs."""
    if row["State"] != "UP":
        return f"State={row['State']}"
    return "TotalNodes=0" if row.get("TotalNodes") == "0" else ""


def _slurm_gpus(gres: str) -> int:
    """Count GPUs in ``gpu:2``, ``gpu:a100:4(S:0-1)``, ``craynetwork:6,gpu:mi250x:8``; ``(null)`` has none."""
    words = re.sub(r"\([^)]*\)", "", gres).split(",")
    matches = [re.fullmatch(r"gpu(?::[^:]+)*?(?::(\d+))?", word.strip()) for word in words]
    return sum(int(match[1] or 1) for match in matches if match)


# PBS


def _pbs(answers: Answers) -> tuple[Queue, ...]:
    """Read ``qstat -Qf``, ``pbsnodes -a`` and ``qstat -Bf``.

    A queue uses the nodes that are associated with it, if any, otherwise those without a queue (``pbs_node_attributes``
    of the reference guide). Associations by a site's custom resources are not known.
    """
    nodes = _pbs_nodes(answers["nodes"])
    default = re.search(r"^\s+default_queue = (\S+)", answers["server"], re.M)
    rows = dict(_pbs_records(answers["queues"], r"Queue: (\S+)"))
    return tuple(
        Queue(
            name=name,
            nodes=_kinds([n for q, n in nodes if q == name or "route_destinations" in row])
            or _kinds([n for q, n in nodes if not q]),
            default=default is not None and default[1] == name,
            closed=", ".join(f"{key} = False" for key in ("enabled", "started") if row.get(key) == "False"),
            seconds=_routed(rows, name, _pbs_seconds),
            min_nodes=max(1, _number(row.get("resources_min.nodect", "")) or 1),
            max_nodes=_routed(rows, name, _pbs_most),
        )
        for name, row in rows.items()
    )


def _pbs_records(text: str, title: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (name, attributes); a long value continues in lines that begin with a tab."""
    name, row = "", dict[str, str]()
    for line in text.replace("\n\t", "").splitlines():
        if match := re.fullmatch(title, line.rstrip()):
            if name:
                yield name, row
            name, row = match[1], {}
        elif " = " in line:
            key, value = line.strip().split(" = ", 1)
            row[key] = value.strip()
    if name:
        yield name, row


def _pbs_nodes(text: str) -> list[tuple[str, _Host]]:
    """Return for each host its queue, empty where it has none, and its cores, GPUs and memory."""
    hosts: dict[str, Counter[str]] = {}
    queues: dict[str, str] = {}
    for name, row in _pbs_records(text, r"(\S+)"):
        # A host may be split into several virtual nodes; no job can ask for what a host does not declare.
        name = row.get("resources_available.host", name)
        queues[name] = row.get("queue", "")
        host = hosts.setdefault(name, Counter())
        host.update({key: int(row.get(f"resources_available.{key}", 0)) for key in ("ncpus", "ngpus")})
        host["mem"] += megabytes(row.get("resources_available.mem", "0"), "B") or 0
    return [(queues[name], (host["ncpus"], host["ngpus"], host["mem"] or None)) for name, host in hosts.items()]


def _routed(
    rows: Mapping[str, Mapping[str, str]], name: str, limit: Callable[[Mapping[str, str]], Number | None]
) -> Number | None:
    """Return a queue's limit; for a routing queue without one, the largest limit of its destinations."""
    own = limit(rows[name])
    destinations = [d.strip().split("@")[0] for d in rows[name].get("route_destinations", "").split(",") if d.strip()]
    if own is not None or not destinations:
        return own
    limits = [limit(rows[d]) if d in rows else None for d in destinations]
    return None if None in limits else max(value for value in limits if value is not None)


def _pbs_seconds(row: Mapping[str, str]) -> float | None:
    text = row.get("resources_max.walltime")
    seconds = 0.0
    for part in text.split(":") if text else ():
        seconds = seconds * 60 + float(part)
    return seconds if text else None


def _pbs_most(row: Mapping[str, str]) -> int | None:
    return _number(row.get("resources_max.nodect", row.get("resources_max.nodes", "")))


# LSF


def _lsf(answers: Answers) -> tuple[Queue, ...]:
    """Read ``bqueues -l``, ``lshosts -w`` and ``lshosts -gpu``; a queue that names host groups gets all hosts."""
    rows = _table(answers["nodes"])
    gpus = _lsf_gpus(answers.get("gpus", ""))
    hosts = {
        row["HOST_NAME"]: (
            int(row["ncpus"]),
            gpus[row["HOST_NAME"]] if gpus else None,
            megabytes(row.get("maxmem", ""), "K"),
        )
        for row in rows
        if row["ncpus"].isdigit() and row["server"] != "No"
    }
    queues = []
    for part in re.split(r"^QUEUE:", answers["queues"], flags=re.M)[1:]:
        status = re.search(r"^\s*PRIO\s+NICE\s+STATUS.*\n\s*\S+\s+\S+\s+(\S+)", part, re.M)
        if status is None:
            raise ValueError("a queue without a status")
        named = re.search(r"^HOSTS: (.*)$", part, re.M)
        # A name may be followed by its preference: hostA+1.
        own = [re.sub(r"\+\d*$", "", word) for word in named[1].split()] if named else []
        use = own if own and hosts.keys() >= set(own) else hosts
        queues.append(
            Queue(
                name=part.split()[0],
                nodes=_kinds([hosts[name] for name in use]),
                default="This is the default queue" in part,
                closed=status[1] if status[1].startswith("Closed") else "",
                seconds=_run_limit(part),
            )
        )
    return tuple(queues)


def _lsf_gpus(text: str) -> Counter[str]:
    """Count the GPUs of each host: a line for each, and only the first of a host names it."""
    counts: Counter[str] = Counter()
    host = ""
    lines = text.splitlines()
    if not lines or lines[0].split()[:2] != ["HOST_NAME", "gpu_id"]:
        return counts  # of an LSF that has no such option
    for line in lines[1:]:
        words = line.split()
        if words and not line[0].isspace():
            host, *words = words
        counts[host] += bool(words) and words[0].isdigit()
    return counts


def _run_limit(part: str) -> float | None:
    """Return the longest run in seconds, from the maximum limits, which follow the default limits."""
    before, _, maximum = part.partition("MAXIMUM LIMITS:")
    maximum = maximum or before.partition("DEFAULT LIMITS:")[0]
    for names, values in pairwise(maximum.splitlines()):
        if "RUNLIMIT" in names.split():
            limits = re.findall(r"([\d.]+) min(?: of \S+)?|\S+ [KMGT]\b|\S+", values)
            return float(limits[names.split().index("RUNLIMIT")]) * 60
    return None


# Flux


def _flux(answers: Answers) -> tuple[Queue, ...]:
    """Read ``flux queue list`` and ``flux resource list --states=all``."""
    rows = [row for row in _table(answers["nodes"]) if int(row["NNODES"])]

    def nodes_of(queue: str) -> tuple[Nodes, ...]:
        mine = [row for row in rows if queue in row.get("QUEUE", queue).split(",")]
        return tuple(
            Nodes(n := int(row["NNODES"]), -(-int(row["NCORES"]) // n), -(-int(row["NGPUS"]) // n)) for row in mine
        )

    queues = []
    for row in _table(answers["queues"]):
        name = row.get("QUEUE", "")
        limit = row["TLIMIT"]
        least, _, most = row["NNODES"].partition("-")
        queues.append(
            Queue(
                name=name.rstrip("*"),
                nodes=nodes_of(name.rstrip("*")),
                default=name.endswith("*") or not name,
                closed=", ".join(w for k, w in (("EN", "disabled"), ("ST", "stopped")) if row.get(k) in ("✗", "n")),
                seconds=None if limit == "inf" else seconds_of(f"{limit}s" if limit.isdigit() else limit, "TLIMIT"),
                min_nodes=max(1, _number(least) or 1),
                max_nodes=_number(most),
            )
        )
    return tuple(queues)


READERS: dict[str, Callable[[Answers], tuple[Queue, ...]]] = {
    "slurm": _slurm,
    "pbs": _pbs,
    "lsf": _lsf,
    "flux": _flux,
}
"""Parsers of answers, by the form that a scheduler's file names."""


def _kinds(hosts: Iterable[_Host]) -> tuple[Nodes, ...]:
    """Count hosts with the same cores and GPUs, with the largest memory among them; those without cores run no jobs."""
    memories: dict[tuple[int, int | None], list[int | None]] = {}
    for cores, gpus, memory in hosts:
        if cores:
            memories.setdefault((cores, gpus), []).append(memory)
    return tuple(
        Nodes(len(alike), cores, gpus, memory=None if None in alike else max(m or 0 for m in alike))
        for (cores, gpus), alike in memories.items()
    )


def megabytes(text: str, unit: str) -> int | None:
    """Read an amount of memory such as 30.7G, 527831088kb or, in ``unit``, 4096; None if it is not one."""
    match = re.fullmatch(r"(\d+\.?\d*)([KMGT]?)B?", text, re.IGNORECASE)
    if match is None:
        return None
    return int(float(match[1]) * {"B": 2**-20, "K": 2**-10, "M": 1, "G": 2**10, "T": 2**20}[(match[2] or unit).upper()])


def _table(text: str) -> list[dict[str, str]]:
    """Read a table with a header line; words beyond the last column are ignored."""
    names, *lines = [line.split() for line in text.splitlines() if line.strip()]
    return [dict(zip(names, line, strict=False)) for line in lines]


def _number(text: str) -> int | None:
    """Read a whole number; None for UNLIMITED, inf and missing values."""
    return int(text) if text.isdigit() else None


def _first(text: str) -> int:
    """Read the number at the start of a text; Slurm writes 4+ for nodes that differ."""
    match = re.match(r"\d+", text)
    if match is None:
        raise ValueError(f"no number: '{text}'")
    return int(match[0])


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("ALL", "", "(null)", "NONE") else tuple(text.split(","))
