"""Parsers of what schedulers print about queues and nodes: output of a real Slurm, and examples in documentation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydragnn_hpc.submit import limits
from hydragnn_hpc.submit.answers import Nodes, Queue, read
from hydragnn_hpc.submit.site import load_site

# Slurm 22.05.8 of Debian, of two nodes.
SCONTROL = (
    "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO "
    "OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=8 TotalNodes=2 SelectTypeParameters=NONE "
    "JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=4000M,node=2,billing=8\n"
    "PartitionName=short AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A "
    "DefaultTime=00:30:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=1 MaxTime=01:00:00 "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=3 Nodes=n1 PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO "
    "OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=4 TotalNodes=1 SelectTypeParameters=NONE "
    "JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=1000 TRES=cpu=4,mem=2000M,node=1,billing=4\n"
    "PartitionName=gone AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n1 PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO "
    "OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=DOWN TotalCPUs=4 TotalNodes=1 "
    "SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED "
    "TRES=cpu=4,mem=2000M,node=1,billing=4\n"
    "PartitionName=mine AllowGroups=root AllowAccounts=abc AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=1-12:00:00 "
    "MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n2 PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO "
    "OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=4 TotalNodes=1 SelectTypeParameters=NONE "
    "JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=4,mem=2000M,node=1,billing=4\n"
)
SINFO = "".join(f"{name}|1|4|1|2000|gpu:2\n" for name in ("batch", "batch", "short", "gone", "mine"))

# MetaCentrum documentation, "Queues in depth" (docs.metacentrum.cz, read in 2026), qstat -Q -f: a routing queue; its
# long line continues in one that begins with a tab. The other queues and the server are in the form of the PBS
# Professional 2021.1 reference guide, sections on queue and server attributes.
QSTAT_Q = """\
Queue: default
    queue_type = Route
    total_jobs = 0
    state_count = Transit:0 Queued:0 Held:0 Waiting:0 Running:0 Exiting:0 Begun
\t:0 
    max_queued = [u:PBS_GENERIC=30000]
    resources_max.ngpus = 0
    resources_max.walltime = 720:00:00
    resources_min.mem = 50mb
    resources_min.ncpus = 1
    resources_default.place = free
    resources_default.walltime = 24:00:00
    comment = Default queue (routing)|Implicitni fronta
    route_destinations = q_2h,q_4h,q_1d,q_2d,q_4d,q_1w,q_2w,q_2w_plus
    enabled = True
    started = True

Queue: prod
    queue_type = Route
    route_destinations = small,old
    enabled = True
    started = True

Queue: small
    queue_type = Execution
    resources_max.nodect = 24
    resources_max.walltime = 03:00:00
    resources_min.nodect = 10
    enabled = True
    started = True

Queue: old
    queue_type = Execution
    resources_max.nodect = 99
    resources_max.walltime = 21600
    enabled = False
    started = True

"""  # noqa: W291
QSTAT_B = "Server: pbs-01\n    server_state = Active\n    default_queue = prod\n    total_jobs = 12\n"
# ALCF user guides (docs.alcf.anl.gov, read in 2026), pbsnodes -av; two virtual nodes of one host after it.
PBSNODES = """\
aps-edge-dev-04
     Mom = aps-edge-dev-04.mcp.alcf.anl.gov
     ntype = PBS
     state = free
     pcpus = 128
     resources_available.arch = linux
     resources_available.host = aps-edge-dev-04
     resources_available.mem = 527831088kb
     resources_available.ncpus = 128
     resources_available.ngpus = 1
     resources_available.vnode = aps-edge-dev-04
     resources_assigned.accelerator_memory = 0kb
     resources_assigned.ncpus = 0
     resv_enable = True
     sharing = force_exclhost
     license = l
     last_state_change_time = Tue Oct  5 21:58:57 2021

x1[0]
     resources_available.host = x1
     resources_available.ncpus = 32

x1[1]
     resources_available.host = x1
     resources_available.ncpus = 32

"""

# IBM Spectrum LSF 10.1 documentation (read in 2026), bqueues -l normal; the limits are in the form of the same
# version's command reference, bqueues.
BQUEUES = """\

QUEUE: normal
  -- For normal low priority jobs, running only if hosts are lightly loaded.  This is the default queue.

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 30   20  Open:Active       -    -    -    -     0     0     0     0     0    0
Interval for a host to accept two jobs is 0 seconds

SCHEDULING PARAMETERS
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      -
 loadStop    -     -     -     -       -     -    -     -     -      -      -

SCHEDULING POLICIES:  FAIRSHARE  NO_INTERACTIVE
USER_SHARES:  [default, 1]

USERS: all
HOSTS:  all
-------------------------------------------------------------------------------

QUEUE: short
  -- Short jobs

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 35   20  Closed:Active     -    -    -    -     0     0     0     0     0    0

DEFAULT LIMITS:
 RUNLIMIT
 10.0 min of hostA

MAXIMUM LIMITS:
 CPULIMIT             RUNLIMIT
 20.0 min of hostA    60.0 min of hostA

USERS: all
HOSTS:  all
"""
# "Hybrid working with the LSF Desktop Client" (gaborsamu.github.io, 2022), lshosts -w; with a client.
LSHOSTS = """\
HOST_NAME                       type       model  cpuf ncpus maxmem maxswp server RESOURCES
kilenc                    LINUXPPC64LE      POWER9  25.0    32  30.7G  15.8G    Yes (mg docker)
laptop                          UNKNOWN   UNKNOWN_  1.0     -      -      -     No ()
"""

# LLNL's Flux documentation (hpc.llnl.gov, read in 2026), flux queue list.
FLUX_QUEUES = """\
QUEUE    EN ST TDEFAULT   TLIMIT     NNODES     NCORES      NGPUS
pbatch*   ✔  ✔      30m       1d      0-inf      0-inf      0-inf
pdebug    ✔  ✗      30m       1h       0-16      0-inf      0-inf
"""
FLUX_ONE_QUEUE = """\
EN ST TDEFAULT   TLIMIT     NNODES     NCORES      NGPUS
 ✔  ✔       inf       inf        0-1      0-64       0-4
"""
# Flux documentation (flux-framework.org, read in 2026), flux resource list; with the state that --states=all prints.
FLUX_RESOURCES = """\
     STATE NNODES NCORES NGPUS NODELIST
       all      4    384    16 tuolumne[1036-1038,1042]
"""
ONE_GPU_NODE = (Nodes(1, 4, 2, memory=2000), Nodes(1, 4, 2, memory=2000))
PBS_NODES = (Nodes(1, 128, 1, memory=515_460), Nodes(1, 64, 0))
FLUX_NODES = (Nodes(4, 96, 4),)


@pytest.mark.parametrize(
    ("form", "answers", "expected"),
    [
        (
            "slurm",
            {"queues": SCONTROL, "nodes": SINFO},
            (
                Queue("batch", ONE_GPU_NODE, default=True),
                Queue("short", ONE_GPU_NODE[:1], seconds=3600, max_nodes=1, cores_per_node=3),
                Queue("gone", ONE_GPU_NODE[:1], closed="State=DOWN"),
                Queue("mine", ONE_GPU_NODE[:1], seconds=36 * 3600, accounts=("abc",)),
            ),
        ),
        (
            "pbs",
            {"queues": QSTAT_Q, "nodes": PBSNODES, "server": QSTAT_B},
            (
                Queue("default", PBS_NODES, seconds=720 * 3600),
                Queue("prod", PBS_NODES, default=True, seconds=6 * 3600, max_nodes=99),
                Queue("small", PBS_NODES, seconds=3 * 3600, min_nodes=10, max_nodes=24),
                Queue("old", PBS_NODES, closed="enabled = False", seconds=6 * 3600, max_nodes=99),
            ),
        ),
        (
            "lsf",
            {"queues": BQUEUES, "nodes": LSHOSTS},
            (
                Queue("normal", (Nodes(1, 32, memory=31_436),), default=True),
                Queue("short", (Nodes(1, 32, memory=31_436),), closed="Closed:Active", seconds=3600),
            ),
        ),
        (
            "flux",
            {"queues": FLUX_QUEUES, "nodes": FLUX_RESOURCES},
            (
                Queue("pbatch", FLUX_NODES, default=True, seconds=86400),
                Queue("pdebug", FLUX_NODES, closed="stopped", seconds=3600, max_nodes=16),
            ),
        ),
        (
            "flux",
            {"queues": FLUX_ONE_QUEUE, "nodes": FLUX_RESOURCES},
            (Queue("", FLUX_NODES, default=True, max_nodes=1),),
        ),
    ],
)
def test_answers_are_read(form: str, answers: dict[str, str], expected: tuple[Queue, ...]) -> None:
    assert read(form, answers) == expected


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", 0), ("gpu:2", 2), ("gpu", 1), ("gpu:a100:4(S:0,1)", 4), ("craynetwork:6,gpu:mi250x:8", 8),
        ("gpu:a100:2,gpu:v100:1", 3), ("mps:400,shard:8", 0),
    ],
)  # fmt: skip
def test_gpus_are_counted_among_slurms_resources(gres: str, gpus: int) -> None:
    queue = read("slurm", {"queues": SCONTROL, "nodes": f"batch|3|128+|2|512000+|{gres}\n"})[0]
    assert queue.nodes == (Nodes(3, 128, gpus, 2),)


def test_a_partition_without_nodes_starts_no_jobs() -> None:
    queues = SCONTROL.replace("TotalNodes=2", "TotalNodes=0")
    first, *others = read("slurm", {"queues": queues, "nodes": SINFO.replace("batch|1|4|1", "batch|0|0|0")})
    assert (first.name, first.nodes, first.closed) == ("batch", (), "TotalNodes=0")
    assert [queue.closed for queue in others] == ["", "State=DOWN", ""]
    limits.fit(load_site("slurm"), [first], None, None)


@pytest.mark.parametrize("text", ["", "\n", "usage: x", "a b c\n1 2 3\n", "PartitionName=x", "QUEUE: x\n", "<html>"])
@pytest.mark.parametrize("form", ["slurm", "pbs", "lsf", "flux"])
def test_answers_of_unknown_form_are_refused(form: str, text: str) -> None:
    with pytest.raises(ValueError):
        read(form, dict.fromkeys(("queues", "nodes", "server"), text))


# IBM's LSF documentation, "Monitor GPU resources with lshosts command" (www.ibm.com/docs, read in 2026).
LSHOSTS_GPU = """\
HOST_NAME  gpu_id gpu_model        gpu_driver  gpu_factor numa_id vendor
hosta           0 TeskaK20c        384.10      70         0       Nvidia
                1 TeskaK20c        384.10      70         0       Nvidia
                2 TeskaK20c        384.10      70         1       Nvidia
                3 TeskaK20c        384.10      70         1       Nvidia
hostc           0 Vega10_RadeonIn  5.6.12       -         0          AMD
                1 Vega10_RadeonIn  5.6.12       -         0          AMD
"""


@pytest.mark.parametrize(
    ("hosts", "gpus", "expected"),
    [
        ("all", LSHOSTS_GPU, {Nodes(1, 32, 4), Nodes(1, 32, 2), Nodes(2, 16, 0)}),
        ("hosta hostc+1", LSHOSTS_GPU, {Nodes(1, 32, 4), Nodes(1, 32, 2)}),
        ("hostb", LSHOSTS_GPU, {Nodes(1, 16, 0)}),
        ("hostb group/", LSHOSTS_GPU, {Nodes(1, 32, 4), Nodes(1, 32, 2), Nodes(2, 16, 0)}),
        ("hosta", "", {Nodes(1, 32)}),
        ("hosta", LSHOSTS, {Nodes(1, 32)}),
    ],
)
def test_hosts_and_gpus_of_an_lsf_queue(hosts: str, gpus: str, expected: set[Nodes]) -> None:
    line = LSHOSTS.splitlines()[1]
    rows = [line.replace("kilenc", name) for name in ("hosta", "hostc")]
    rows += [line.replace("kilenc", name).replace(" 32 ", " 16 ") for name in ("hostb", "hostd")]
    nodes = "\n".join([LSHOSTS.splitlines()[0], *rows])
    queues = BQUEUES.replace("HOSTS:  all", f"HOSTS:  {hosts}")
    found = read("lsf", {"queues": queues, "nodes": nodes, "gpus": gpus})[0].nodes
    assert set(found) == {replace(kind, memory=31_436) for kind in expected}


def test_nodes_that_are_associated_with_a_pbs_queue() -> None:
    """Only its jobs run there, and they run only there (OpenPBS, pbs_node_attributes(7B))."""
    nodes = PBSNODES.replace("     resv_enable = True\n", "     queue = small\n     resv_enable = True\n")
    found = {q.name: q.nodes for q in read("pbs", {"queues": QSTAT_Q, "nodes": nodes, "server": QSTAT_B})}
    assert found == {"default": PBS_NODES, "prod": PBS_NODES, "small": PBS_NODES[:1], "old": PBS_NODES[1:]}
