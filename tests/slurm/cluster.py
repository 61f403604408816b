"""A real Slurm whose nodes are emulated on this host, for the tests; needs root, and Debian's slurm-wlm and munge."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "munged", "munge", "setpriv")

# The plugins for tracking processes, tasks and accounting need no cgroups; several slurmd on one host have ports of
# their own; cred_expire is the time for which a requeued job waits, in seconds.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=5
InactiveLimit=0
ReturnToService=2
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=1:00:00 State=UP
"""


def missing() -> str:
    """Return why no Slurm can run here; empty where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "only root can start slurmd and munged"


def free_ports(number: int) -> list[int]:
    """Return ports on which no process listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]


@dataclass
class Cluster:
    """A running Slurm."""

    folder: Path
    nodes: tuple[str, ...]
    started_munged: bool = False

    def environment(self) -> dict[str, str]:
        """Return the environment of commands for this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Run a command of Slurm; return what it printed."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}\n{self.log()}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return a job's state; empty once it is forgotten."""
        done = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", job],
            env=self.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        words = dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)
        return words.get("JobState", "")

    def jobs(self) -> list[str]:
        """Return the numbers of all jobs that are not over."""
        done = subprocess.run(
            ["squeue", "-h", "-o", "%i"], env=self.environment(), capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    def log(self) -> str:
        """Return the end of the controller's log."""
        return "\n".join((self.folder / "slurmctld.log").read_text(errors="replace").splitlines()[-15:])

    def start(self) -> None:
        """Start munged where it is not up, the controller, and a slurmd for each node; wait until all are idle."""
        self._munge()
        self._configure()
        subprocess.run(["slurmctld", "-c"], env=self.environment(), check=True, timeout=60)
        for node in self.nodes:
            subprocess.run(["slurmd", "-N", node], env=self.environment(), check=True, timeout=60)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            done = subprocess.run(
                ["sinfo", "-h", "-N", "-p", "batch", "-t", "idle"],
                env=self.environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            if len(done.stdout.splitlines()) == len(self.nodes):
                return
            time.sleep(0.2)
        raise AssertionError(f"the nodes did not come up\n{self.log()}")

    def _munge(self) -> None:
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
            return
        run = Path("/run/munge")
        run.mkdir(exist_ok=True)
        shutil.chown(run, "munge", "munge")
        as_munge = ["setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups"]
        subprocess.run([*as_munge, "munged"], check=True, timeout=60)
        self.started_munged = True

    def _configure(self) -> None:
        for k in range(2):
            device = Path(f"/dev/emulated-gpu{k}")
            if not device.exists():
                os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # like /dev/null
        (self.folder / "state").mkdir(parents=True)
        port, *ports = free_ports(1 + len(self.nodes))
        host = socket.gethostname().split(".")[0]
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs=4 RealMemory=2000 Gres=gpu:2"
            for node, p in zip(self.nodes, ports, strict=True)
        ]
        text = CONFIGURATION.format(host=host, folder=self.folder, port=port, nodes="\n".join(lines))
        (self.folder / "slurm.conf").write_text(text)
        gres = [f"NodeName={node} Name=gpu File=/dev/emulated-gpu[0-1]" for node in self.nodes]
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def stop(self) -> None:
        """End every job, and every daemon that :meth:`start` started."""
        # While the daemons live: a step outlives its slurmd.
        subprocess.run(["scancel", "--state=PENDING"], env=self.environment(), capture_output=True, check=False)
        subprocess.run(["scancel", "--full", "--signal=KILL", "--state=RUNNING"], env=self.environment(), check=False)
        limit = time.monotonic() + 30
        while time.monotonic() < limit and self.jobs():
            time.sleep(0.2)
        for file in sorted(self.folder.glob("*.pid"), reverse=True):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        if self.started_munged:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int(Path("/run/munge/munged.pid").read_text()), signal.SIGTERM)
