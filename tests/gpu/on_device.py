"""Check and measure the engines on a real device: one command, at most half an hour, without a network.

    python -m tests.gpu.on_device [--device cuda:0] [--minutes 30] [--report FILE.md]

Checks come first, a line each: right, WRONG, or why it was not run. Then speeds, in samples a second (all members
together), beside plain PyTorch Geometric on the same device: the paper's HCM network with Adam, batches of 64, stacks
of 1, 12 and 84 members; with the launches that `tests.benchmarks.gpu_estimate` counts, the bandwidth that follows from
its bytes, and the estimated time as a share of the measured one; last, the time of the paper's campaign. The exit code
is 1 if anything is wrong. Once the time is over, nothing more is begun.

`tests/README.md` lists what this needs; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.device import arithmetic, is_out_of_memory
from hydragnn_hpc.member.engine.captured import why_not_captured
from hydragnn_hpc.sections import OPTIMIZERS
from tests.benchmarks import cases, gpu_estimate
from tests.gpu.problems import PROBLEMS, STACKS, Stack, check_close

SECONDS = 2.0
"""How long a speed is measured, after two epochs."""
PAPER = 84 * 19_536 * 200
"""Samples that the 84 members of the paper's campaign see in 200 epochs."""
ROOT = Path(__file__).parents[2]


class NotRunError(Exception):
    """A check cannot be run here; says why."""


def trained(name: str, device: torch.device) -> list[Tensor]:
    """Return, on the host, what the epochs of a shrinking stack (`STACKS`) compute."""
    stack, numbers = Stack(PROBLEMS[name], device, STACKS[0]), []
    for members in STACKS:
        stack.keep(members)
        numbers += stack.epoch(stack.plan())
    return [t.cpu() for t in numbers]


def only_cuda(device: torch.device) -> None:
    """Raise `NotRunError` on a device without CUDA."""
    if device.type != "cuda":
        raise NotRunError(f"not on {device.type}")


def numbers(device: torch.device) -> str:
    """Losses, gradients, statistics and predictions are those of the CPU."""
    worst = 0.0
    for name in PROBLEMS:
        for actual, expected in zip(trained(name, device), trained(name, torch.device("cpu")), strict=True):
            check_close(actual, expected, 1e-3, name)
            if len(expected):
                worst = max(worst, float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-6)))
    return f"{len(PROBLEMS)} problems; largest difference {worst:.1e}, relative to the largest number"


def repeatable(device: torch.device) -> str:
    """The same stack has the same bits again; the library engine, which adds atomically, is left out."""
    names = [name for name in PROBLEMS if not name.startswith("library")]
    for name in names:
        if not all(map(torch.equal, trained(name, device), trained(name, device))):
            raise AssertionError(f"{name}: other bits the second time")
    return f"{len(names)} problems"


def any_stack(device: torch.device) -> str:
    """With the triton engine, a member has the same bits in any stack."""
    names = [name for name in PROBLEMS if name.startswith("triton")]
    if not names:
        raise NotRunError("no Triton")
    for name in names:
        weights = []
        for members in (1, 3):
            stack = Stack(PROBLEMS[name], device, members, cases.ADAM)
            stack.train(stack.plan())
            weights.append(stack.state.parameters[0].cpu())
        if not torch.equal(*weights):
            raise AssertionError(f"{name}: other bits in another stack")
    return f"{len(names)} problems"


def updates(device: torch.device) -> str:
    """Three steps of every optimiser, from the same gradients, are those of the CPU."""
    names = [name for name in PROBLEMS if not name.startswith("library")]
    settings = {"Adam": {}, "AdamW": {"weight_decay": 0.1}, "SGD": {"weight_decay": 0.1}}
    for name in names:
        for kind, given in settings.items():
            found = []
            for where in (torch.device("cpu"), device):
                stack = Stack(PROBLEMS[name], where, 3, OPTIMIZERS[kind](name=kind, **given))
                random, state = torch.Generator().manual_seed(1), stack.state
                for factors in state.optimizer.plan(3, np.array([1e-3, 1e-2, 1e-1])):
                    gradients = torch.randn(state.gradients.shape, generator=random).to(where)
                    stack.engine.update(state.optimizer, state.parameters, gradients, factors)
                found.append(state.parameters.cpu())
            check_close(*found, 1e-5, f"{name}, {kind}")
    return f"{len(names)} problems, {', '.join(settings)}"


def waits(device: torch.device) -> str:
    """Nothing within an epoch waits for the device, once its shapes have been seen."""
    only_cuda(device)
    for name in PROBLEMS:
        stack = Stack(PROBLEMS[name], device)
        stack.epoch(stack.plan())
        plan = stack.plan()
        torch.cuda.set_sync_debug_mode("error")
        try:
            stack.epoch(plan)
        except RuntimeError as error:
            raise AssertionError(f"{name}: {error}") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return f"{len(PROBLEMS)} problems"


def memory(device: torch.device) -> str:
    """Memory does not grow from epoch to epoch, and shrinks with the stack."""
    if device.type == "cpu":
        raise NotRunError("not on cpu")
    module = torch.get_device_module(device)
    for name in PROBLEMS:
        stack, used = Stack(PROBLEMS[name], device, STACKS[0]), []
        for members in STACKS:
            stack.keep(members)
            stack.epoch(stack.plan())
            module.synchronize()
            used.append(module.memory_allocated())
        if not (used[1] <= used[0] and used[3] <= used[2] < used[0]):
            raise AssertionError(f"{name}: {used} bytes after epochs of {STACKS} members")
        del stack
    return f"{len(PROBLEMS)} problems"


def lack_of_memory(device: torch.device) -> str:
    """A lack of memory is recognised as one, and the process can continue."""
    only_cuda(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(0.02, device)
    try:
        torch.empty(total // 20, dtype=torch.uint8, device=device)
        raise AssertionError("no error beyond the limit")
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise AssertionError(f"not recognised: {type(error).__name__}: {error}") from error
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    trained("torch", device)
    return "recognised; a stack is trained afterwards"


def sanitizer(device: torch.device) -> str:
    """NVIDIA's compute-sanitizer finds nothing in an epoch of each engine."""
    only_cuda(device)
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise NotRunError("no compute-sanitizer")
    command = [tool, "--error-exitcode", "9", sys.executable, "-m", "tests.gpu.on_device", "--one-epoch", str(device)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return "no error"


def campaign(device: torch.device) -> str:
    """A campaign of two workers on the device, one of which is killed, finishes with the CPU's errors."""
    for package in ("adios2", "ase", "mpi4py", "pandas", "pytest", "scipy", "typer"):
        if find_spec(package) is None:
            raise NotRunError(f"no {package}")
    from hydragnn_hpc import load
    from tests import campaigns

    # For child processes, where the package is not installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        campaigns.data_set(folder)
        errors = {}
        for name, kind in (("undisturbed", "cpu"), ("killed", device.type)):
            launch = {"device": kind, "slots_per_device": 2, "stack": 2, "checkpoint_seconds": 0}
            (folder / f"{name}.yaml").write_text(
                campaigns.text(variants=["HCM"], replicas=4, training={"epochs": 6, "batch_size": 32}, launch=launch)
            )
            command = [sys.executable, "-m", "hydragnn_hpc", "run", f"{name}.yaml", name]
            child = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
            if name == "killed":
                _kill_a_worker(folder / name)
            _, output = child.communicate()
            if child.returncode:
                raise AssertionError(f"exit code {child.returncode}: {output[-1500:]}")
            errors[name] = load(folder / name).errors.set_index(["replica", "task"])["rmse"]
    ratio = (errors["killed"] / errors["undisturbed"]).to_numpy()
    if len(ratio) != 12 or not (np.abs(ratio - 1) < 0.05).all():
        raise AssertionError(f"errors over the CPU's: {ratio}")
    return "4 members, two slots, one worker killed"


def _kill_a_worker(out: Path) -> None:
    """Kill a worker, once the first history has been written."""
    for _ in range(1200):
        if list(out.glob("members/*/*/history.csv")):
            break
        time.sleep(0.1)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hydragnn_hpc.member.worker" in words and bytes(out.resolve()) in words:
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise AssertionError("no worker to kill")


CHECKS: tuple[Callable[[torch.device], str], ...] = (
    numbers, updates, repeatable, any_stack, waits, memory, lack_of_memory, campaign, sanitizer,
)  # fmt: skip


def checked(device: torch.device, until: float) -> Iterator[tuple[str, bool]]:
    """Yield a line for each check, and False with it where something is wrong."""
    for check in CHECKS:
        what = str(check.__doc__)
        start = time.monotonic()
        if start > until:
            yield f"- not run: {what} No time is left.", True
            continue
        try:
            found, right = f"right: {what} {check(device)}", True
        except NotRunError as reason:
            found, right = f"not run: {what} {str(reason).capitalize()}", True
        except Exception as error:
            found, right = f"WRONG: {what} {type(error).__name__}: {error}", False
        yield f"- {found} ({time.monotonic() - start:.0f} s).", right


@dataclass(frozen=True)
class Speed:
    """Samples a second of all members together."""

    case: str
    engine: str
    members: int
    samples: float

    def row(self, base: float) -> str:
        """A row of the table; ``base`` is the baseline's speed."""
        shown = f"| {self.case} | {self.engine} | {self.members} | {self.samples:,.0f} | {self.samples / base:.1f} |"
        if self.engine not in gpu_estimate.ENGINES:
            return f"{shown} | | |"
        counted = gpu_estimate.estimates(self.case, self.engine)[self.members]
        step = cases.BATCH * self.members / self.samples
        rate, share = counted.memory / step / 1e9, counted.seconds / step
        return f"{shown} {counted.launches} | {rate:,.0f} | {share:.0%} |"


def speed(run: Callable[[], object], device: torch.device) -> float:
    """Epochs a second, after two that warm up."""
    wait = torch.get_device_module(device).synchronize
    for _ in range(2):
        run()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        run()
        wait()
        count += 1
    return count / (time.perf_counter() - start)


def stack_of(case: str, engine: str, members: int, device: torch.device) -> Callable[[], object]:
    """Return an epoch of a stack."""
    data = cases.make_samples(case)
    made = gpu_estimate.engine_of(engine, data, device, not why_not_captured(device))
    return cases.stacked_epoch(made, members)


def speeds(given: argparse.Namespace, device: torch.device, until: float) -> Iterator[str]:
    """Yield the table of speeds, and the paper's campaign at the best of them."""
    yield "| data | engine | E | samples/s | x PyTorch Geometric | launches | GB/s | of the data sheet |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    best: dict[int, float] = {}
    for case in given.cases:
        base = float("nan")
        if time.monotonic() < until:
            from tests.benchmarks.baseline import epoch_of

            data = cases.make_samples(case)
            base = cases.SAMPLES * speed(epoch_of(data, cases.network_sizes(data), cases.BATCH, device), device)
            yield Speed(case, "PyTorch Geometric", 1, base).row(base)
        for engine in gpu_estimate.ENGINES:
            for members in given.members:
                if time.monotonic() < until:
                    rate = speed(stack_of(case, engine, members, device), device)
                    found = Speed(case, engine, members, cases.SAMPLES * members * rate)
                    best[members] = max(best.get(members, 0.0), found.samples if case == "206" else 0.0)
                    yield found.row(base)
    for members, rate in best.items():
        if rate:
            minutes = PAPER / rate / 60
            yield f"\n84 members in stacks of {members}, 200 epochs, no validation: {minutes:.1f} min (extrapolated)."


def main() -> int:
    """Check, measure and write the report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cases", nargs="*", choices=cases.PNA_CASES, default=list(gpu_estimate.CASES))
    parser.add_argument(
        "--members", nargs="+", type=int, choices=gpu_estimate.STACKS, default=list(gpu_estimate.STACKS)
    )
    parser.add_argument("--report", type=Path, help="also write the report to this file")
    parser.add_argument("--one-epoch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with arithmetic(1):
        if given.one_epoch:
            for name in PROBLEMS:
                stack = Stack(PROBLEMS[name], torch.device(given.one_epoch))
                stack.epoch(stack.plan())
            return 0
        device, until = torch.device(given.device), time.monotonic() + 60 * given.minutes
        lines, right = [], True

        def say(line: str) -> None:
            lines.append(line)
            print(line, flush=True)
            if given.report:
                given.report.write_text("\n".join(lines) + "\n", encoding="utf-8")

        card = device.type if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)
        triton = "no Triton" if find_spec("triton") is None else f"Triton {import_module('triton').__version__}"
        say(f"{card}, torch {torch.__version__}, {triton}, {time.strftime('%Y-%m-%d')}\n")
        for line, fine in checked(device, until):
            right &= fine
            say(line)
        say("")
        for line in speeds(given, device, until):
            say(line)
        return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
