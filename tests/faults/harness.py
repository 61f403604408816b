"""A campaign under real ``mpirun``, observed and disturbed from outside, through processes and files alone.

Every process of a launch has a mark in its environment, so that it can be found even after it was re-parented.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns import called
from tests.outcomes import outcome

MARK = "CAMPAIGN_UNDER_TEST"
BIN = Path(sys.executable).parent
PATIENCE = 120.0  # no launch of these tests takes longer, unless it hangs


@dataclass(frozen=True)
class Process:
    """One living process of a launch."""

    pid: int
    role: str  # launcher, proxy, rank, worker, stage, other
    group: int


def processes(mark: str) -> list[Process]:
    """Return every living process that carries ``mark``."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            group = os.getpgid(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
        if f"{MARK}={mark}".encode() in environment.split(b"\0") and state != "Z":
            found.append(Process(int(entry.name), _role(words), group))
    return found


def _role(words: list[str]) -> str:
    line = " ".join(words)
    program = Path(words[0]).name
    if program.startswith(("mpirun", "mpiexec")):
        return "launcher"
    if "hydra_pmi_proxy" in program:
        return "proxy"
    if "hydragnn_hpc.member.worker" in line:
        return "worker"
    if "hydragnn_hpc.dataset.staged.copies" in line:
        return "stage"
    if "hydragnn-hpc" in line or "hydragnn_hpc" in line or "tests/ensemble/drive.py" in line:
        return "rank"
    return "other"


@dataclass
class Launch:
    """A running campaign."""

    out: Path
    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def of_role(self, role: str) -> list[Process]:
        """Return its living processes of that role, in order of their number."""
        return sorted((p for p in processes(self.mark) if p.role == role), key=lambda p: p.pid)

    def beginning_worker(self) -> Process:
        """Return a worker that has been assigned a member, and has not finished an epoch of it.

        Processes are listed while workers start: a list takes as long as a worker's preparations for its first epoch.
        """
        started: list[Process] = []
        found: list[Process] = []

        def starts() -> bool:
            started[:] = self.of_role("worker")
            return bool(started)

        def begins() -> bool:
            found[:] = [worker for worker in started if self._is_beginning(worker)]
            return bool(found)

        assert self.wait_until(starts) and self.wait_until(begins), self.tail()
        return found[0]

    def _is_beginning(self, worker: Process) -> bool:
        names, _ = self.assigned(self.place_of(worker))
        return bool(names) and not any(
            (self.out / "members" / v / f"{r:02d}" / "history.csv").exists() for v, r in names
        )

    def training_worker(self) -> Process:
        """Return a worker in the middle of a member: one whose member has a checkpoint and no result."""
        return self.training_workers(1)[0]

    def training_workers(self, number: int) -> list[Process]:
        """Return ``number`` workers that are in the middle of a member at the same moment."""
        found: list[Process] = []

        def look() -> bool:
            found[:] = [worker for worker in self.of_role("worker") if self._is_training(worker)]
            return len(found) >= number

        assert self.wait_until(look), self.tail()
        return found[:number]

    def _is_training(self, worker: Process) -> bool:
        names, _ = self.assigned(self.place_of(worker))
        return any(self._is_half_way(*name) for name in names)

    def place_of(self, worker: Process) -> tuple[int, ...]:
        """Return a worker's rank and slot, from its command line."""
        try:
            words = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode().split("\0")
            return tuple(int(words[words.index(option) + 1]) for option in ("--rank", "--slot"))
        except (OSError, ValueError):
            return ()

    def assigned(self, place: tuple[int, ...]) -> tuple[list[tuple[str, int]], int]:
        """Return the latest stack of the worker at ``place``, and how many it has been assigned."""
        events = self.out / "logs" / "events.jsonl"
        lines = events.read_text().splitlines() if events.exists() else []
        mine = [e for e in map(json.loads, lines) if e["event"] == "assign" and (e["rank"], e["slot"]) == place]
        return [(mine[-1]["variant"], r) for r in mine[-1]["replicas"]] if mine else [], len(mine)

    def _is_half_way(self, variant: str, replica: int) -> bool:
        folder = self.out / "members" / variant / f"{replica:02d}"
        return (folder / "checkpoint.pt").exists() and not (folder / "result.json").exists()

    def wait_for_file(self, name: str) -> None:
        """Wait until a member has a file of this name."""
        assert self.wait_until(lambda: any(self.out.glob(f"members/*/*/{name}"))), self.tail()

    def wait_until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Wait for ``condition`` while the launch lives; return whether it came true."""
        limit = time.monotonic() + patience
        while time.monotonic() < limit:
            if condition():
                return True
            if self.process.poll() is not None and not processes(self.mark):
                return condition()
            time.sleep(0.02)
        return False

    def let_run(self, seconds: float) -> None:
        """Let it run for some time, or to its end."""
        limit = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() > limit)

    def end(self, patience: float = PATIENCE) -> int:
        """Wait for the launch and all its descendants to end by themselves; return the launcher's exit code.

        Whatever is alive afterwards is an orphan or hangs: it is killed, and the test fails.
        """
        limit = time.monotonic() + patience
        while time.monotonic() < limit and (self.process.poll() is None or processes(self.mark)):
            time.sleep(0.05)
        left = processes(self.mark)
        self.kill()
        assert not left, f"still alive after {patience:.0f} s: {left}\n{self.tail()}"
        return self.process.wait()

    def kill(self) -> None:
        """Kill all that is left of the launch."""
        for process in processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def tail(self, lines: int = 40) -> str:
        """Return the last lines that the launch printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Arena:
    """A small campaign, its undisturbed outcome, and how to start it.

    Attributes
    ----------
    folder : Path
        Where outputs go.
    campaign : Path
        The campaign file.
    stage : Path
        The parent of the node-local copies.
    undisturbed : dict
        The campaign's outcome without any fault.
    launches : list of Launch
        All so far, oldest first.
    """

    folder: Path
    campaign: Path
    stage: Path
    undisturbed: dict[str, Any] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)

    def launch(
        self,
        out: Path,
        *options: str,
        ranks: int = 2,
        environment: dict[str, str] | None = None,
        wrapper: Path | None = None,
    ) -> Launch:
        """Start the campaign into ``out`` under mpirun, each rank by the ``wrapper``, in a session of its own."""
        mark = uuid.uuid4().hex
        log = self.folder / f"launch-{mark[:8]}.log"
        command = [str(BIN / "mpirun"), "-n", str(ranks), *([str(wrapper)] if wrapper else [])]
        command += [str(BIN / "hydragnn-hpc"), "run", str(self.campaign), str(out), "--stage-dir", str(self.stage)]
        command += [*(() if "--start-limit" in options else ("--start-limit", "60s")), *options]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {}), MARK: mark},
                start_new_session=True,
            )
        launch = Launch(out, process, mark, log)
        self.launches.append(launch)
        return launch

    def run(self, out: Path, *options: str, **more: Any) -> int:
        """Run the campaign to its end, undisturbed, with the arguments of `launch`; return the exit code."""
        return self.launch(out, *options, **more).end()

    def last(self) -> Launch:
        """Return the latest launch."""
        return self.launches[-1]

    def finish(self, out: Path) -> None:
        """Run the campaign, which must finish in one run, and leave nothing behind."""
        code = self.run(out)
        assert code == 0, f"exit code {code} of the run that should have finished\n{self.last().tail()}"
        check_clean(self, out)

    def recover(self, out: Path) -> None:
        """Check files and status after a fault, and that another run then gives the undisturbed outcome."""
        check_files(out)
        check_status(out)
        self.finish(out)
        self.check_outcome(out)

    def check_outcome(self, out: Path) -> None:
        """Check that the result is that of the undisturbed run."""
        assert outcome(out) == self.undisturbed, "the result has changed"


def check_files(out: Path) -> None:
    """Check that every file without a temporary name can be read, at any moment."""
    import numpy as np
    import torch
    import yaml

    readers: dict[str, Callable[[Path], object]] = {
        ".json": lambda p: json.loads(p.read_text()),
        ".yaml": lambda p: yaml.safe_load(p.read_text()),
        ".npz": lambda p: [a.shape for a in np.load(p, allow_pickle=False).values()],
        ".pt": lambda p: torch.load(p, weights_only=True),
        ".csv": _check_rows,
    }
    for path in out.rglob("*"):
        if path.is_file() and not path.name.startswith(".tmp-") and path.suffix in readers:
            readers[path.suffix](path)


def _check_rows(path: Path) -> None:
    """Check that a table ends with a whole line, and has rows of one length."""
    text = path.read_text()
    assert text.endswith("\n"), f"{path} ends in the middle of a line"
    assert len({len(row) for row in csv.reader(text.splitlines())}) == 1, f"{path} has uneven rows"


def status(out: Path) -> dict[str, Any]:
    """Return what ``status --json`` says."""
    shown = _ask_status(out)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def _ask_status(out: Path) -> subprocess.CompletedProcess[str]:
    return called(out.parent, "status", str(out), "--json")


def check_status(out: Path) -> None:
    """Check that ``status`` reports no active run, and counts members in agreement with their files."""
    if not (out / "campaign.yaml").exists():
        shown = _ask_status(out)
        assert shown.returncode == 2 and "holds no campaign" in shown.stderr, shown
        return
    shown = status(out)
    assert not shown["active"] and not shown["running"] and not shown["workers"], shown
    counted = Counter(_state(folder) for folder in out.glob("members/*/*"))
    counted["waiting"] += shown["members"] - counted.total()
    assert shown["states"] == {state: n for state, n in counted.items() if n}, (shown["states"], counted)


def _state(member: Path) -> str:
    """Return the state of a member according to its files."""
    if (member / "result.json").exists():
        return json.loads((member / "result.json").read_text())["state"]
    failures = json.loads((member / "failure.json").read_text()) if (member / "failure.json").exists() else []
    if failures and failures[-1]["final"]:
        return "failed"
    return "interrupted" if list(member.glob("checkpoint*.pt")) else "waiting"


def _stopped_by(member: Path) -> str:
    return json.loads((member / "result.json").read_text())["stopped_by"]


def check_clean(arena: Arena, out: Path) -> None:
    """Check that a successful run has left nothing half-written, no node-local copy and no lock."""
    left = [*out.rglob(".tmp-*"), *arena.stage.iterdir(), *out.glob("members/*/*/checkpoint.previous.pt")]
    # Members that ended at their last epoch keep their checkpoint, to be trained further.
    left += [p for p in out.glob("members/*/*/checkpoint.pt") if _stopped_by(p.parent) != "epochs"]
    left += out.glob("members/*/*/claim.json")
    left += [path for path in (out / "run.lock", out / "progress.json") if path.exists()]
    assert not left, f"left behind: {left}"
