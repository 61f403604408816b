r"""The worker: a fresh process that trains one stack after another for its supervisor.

    python -m hydragnn_hpc.member.worker --campaign OUT --staged FOLDER --rank R --local-rank L --slot S \
        --in FD --out FD [--require-gpu]

JSON lines come in on one file descriptor and go out on another; standard output and error are free for whatever
libraries print. The worker ignores signals, which its supervisor handles, and ends when its supervisor does.
"""

# ruff: noqa: E402
from __future__ import annotations

import gc

gc.disable()  # until all is imported: torch makes half a million objects, none of them garbage

import argparse
import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hydragnn_hpc import streams
from hydragnn_hpc.dataset.staged.copies import StagedData, open_staged
from hydragnn_hpc.errors import first_line
from hydragnn_hpc.ledger import read_frozen
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.device import choose_device, describe, is_out_of_memory, make_current, set_arithmetic, versions
from hydragnn_hpc.member.engine.captured import CaptureError
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.training_data import TrainingData, from_staged
from hydragnn_hpc.member.features import Trunk, training_features
from hydragnn_hpc.member.training.checkpoint import TrainedModel
from hydragnn_hpc.member.training.memory import StackTooLargeError, members_that_fit
from hydragnn_hpc.member.training.stack import StackMember, WorkerContext
from hydragnn_hpc.member.training.start import with_degree
from hydragnn_hpc.member.training.train import StackTraining
from hydragnn_hpc.ownership import NotOwnerError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.events import (
    Alive,
    Command,
    Done,
    EndState,
    Epoch,
    Event,
    Failed,
    Finished,
    MemberEpoch,
    Quit,
    Ready,
    Returned,
    Stop,
    Stopped,
    Train,
    read_command,
    to_line,
)

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class Channel:
    """Messages to and from the supervisor, over two file descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._in, self._out = incoming, outgoing
        self._readable = select.poll()  # unlike select.select, it takes descriptors above 1023
        self._readable.register(incoming, select.POLLIN)
        self._buffer = b""
        self._sent_at = 0.0

    def send(self, event: Event) -> None:
        """Send an event; end the process if the supervisor has ended."""
        line = to_line(event)
        try:
            while line:
                line = line[os.write(self._out, line) :]
        except BrokenPipeError:
            os._exit(1)
        self._sent_at = time.monotonic()

    def alive(self) -> None:
        """Report that the worker is alive, at most once a second."""
        if time.monotonic() - self._sent_at >= 1.0:
            self.send(Alive())

    def receive(self, wait: bool) -> Command | None:
        """Return the next command; without ``wait``, None if there is none yet.

        The process ends if the supervisor has ended.
        """
        while b"\n" not in self._buffer:
            if not self._readable.poll(None if wait else 0):
                return None
            received = os.read(self._in, 65536)
            if not received:
                os._exit(1)
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        return read_command(line)


class Worker:
    """Trains stacks on the supervisor's commands.

    Attributes
    ----------
    members : int
        Number of members in the stack that is being trained.
    """

    def __init__(self, context: WorkerContext, staged: StagedData, device: torch.device, channel: Channel) -> None:
        self._context, self._staged, self._device, self._channel = context, staged, device, channel
        self._prepared: tuple[str, TrainingData, Engine] | None = None
        self._fits: dict[str, int | None] = {}
        self._stop, self._reason = False, ""
        self.members = 0

    @property
    def on_device(self) -> bool:
        """Whether the worker trains on anything but the CPU."""
        return self._device.type != "cpu"

    def serve(self) -> None:
        """Execute commands until `Quit` arrives."""
        while True:
            command = self._channel.receive(wait=True)
            if command is None or isinstance(command, Quit):
                return
            if isinstance(command, Train):
                self._train(command)

    def _train(self, command: Train) -> None:
        self._stop = False
        variant = command.variant
        self.members = len(command.replicas)
        data, engine = self._prepare(variant, command.capture)
        self._check_memory(variant, data, engine)
        training = StackTraining(self._context, data, engine, command, partial(self._describe, variant, data))
        for member in training.members:
            member.log(f"{self._reason}; attempt {command.attempt}, stack {list(command.replicas)}")
        for change in training.engine_changes:
            self._channel.send(change)

        def report(member: StackMember, state: EndState) -> None:
            self._channel.send(Finished(variant=variant, replica=member.replica, state=state))

        while training.members:
            training.epoch(self._between_batches, report)
            self._report_epoch(variant, training)
            self.members = len(training.members)
            if self._stop and training.members:
                training.save()
                self._channel.send(Stopped(variant=variant, replicas=tuple(m.replica for m in training.members)))
                return
        self._channel.send(Done(variant=variant, replicas=command.replicas))

    def _prepare(self, variant: str, capture: bool) -> tuple[TrainingData, Engine]:
        """Return a variant's data and engine, which are kept until another variant is prepared."""
        if self._prepared is None or self._prepared[0] != variant:
            self._prepared = None  # frees its memory before the next ones are made
            campaign = self._context.frozen.campaign
            own = campaign.of_variant(campaign.variant(variant))
            data = with_degree(from_staged(self._staged, own), own.start)
            engine, self._reason = choose(own, own.variants[0], data, self._device, capture)
            self._prepared = (variant, data, engine)
        return self._prepared[1:]

    def _check_memory(self, variant: str, data: TrainingData, engine: Engine) -> None:
        """Check by an estimate that a stack whose size was chosen automatically fits into the device's memory.

        Raises
        ------
        StackTooLargeError
            If it does not.
        """
        campaign = self._context.frozen.campaign
        if self.members < 2 or not self.on_device or campaign.launch.stack != "auto":
            return
        if variant not in self._fits:
            self._fits[variant] = members_that_fit(
                engine, data, campaign.of_variant(campaign.variant(variant)).training
            )
        fits = self._fits[variant]
        if fits is not None and fits < self.members:
            raise StackTooLargeError(self.members, fits)

    def _describe(self, variant: str, data: TrainingData, model: TrainedModel) -> dict[str, np.ndarray] | None:
        """Return the distribution of a model's features over the training set, None if memory is lacking for it.

        It is computed on the CPU, since the stack may have left no memory on the device.
        """
        try:
            trunk = Trunk(self._context.frozen.campaign, variant, model, torch.device("cpu"))
            return asdict(training_features(trunk, data, self._channel.alive))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _between_batches(self) -> None:
        self._channel.alive()
        if isinstance(self._channel.receive(wait=False), Stop | Quit):
            self._stop = True

    def _report_epoch(self, variant: str, training: StackTraining) -> None:
        members = tuple(
            MemberEpoch(
                replica=m.replica,
                epoch=m.epoch,
                validation_loss=m.history[-1].validation_loss,
                learning_rate=m.schedule.rate,
                seconds=m.history[-1].seconds_training + m.history[-1].seconds_validation,
            )
            for m in training.members
        )
        if members:
            self._channel.send(Epoch(variant=variant, members=members))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hydragnn_hpc.member.worker")
    parser.add_argument("--campaign", type=Path, required=True)
    parser.add_argument("--staged", type=Path, required=True)
    for name in ("--rank", "--local-rank", "--slot", "--in", "--out"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--require-gpu", action="store_true")
    return parser.parse_args()


def _begin(arguments: argparse.Namespace, channel: Channel) -> Worker:
    folder = CampaignFolder(arguments.campaign)
    frozen = read_frozen(folder)
    set_arithmetic(frozen.campaign.launch.threads)
    requested = frozen.campaign.launch.device
    device = choose_device(requested, arguments.local_rank, require_gpu=arguments.require_gpu)
    make_current(device)
    staged = open_staged(arguments.staged)
    device_record, installed = describe(device), versions()
    context = WorkerContext(
        folder=folder,
        frozen=frozen,
        manifest=staged.manifest,
        host=socket.gethostname(),
        rank=arguments.rank,
        slot=arguments.slot,
        device=device_record,
        versions=installed,
    )
    channel.send(Ready(device=device_record, versions=installed, pid=os.getpid()))
    return Worker(context, staged, device, channel)


def main() -> int:
    """Run the worker; return its exit code."""
    gc.freeze()
    gc.enable()
    # A signal to the launcher's process group must not interrupt training: the supervisor decides when to stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    streams.prepare_worker()
    arguments = _arguments()
    channel = Channel(getattr(arguments, "in"), arguments.out)
    worker: Worker | None = None
    try:
        worker = _begin(arguments, channel)
        worker.serve()
    except NotOwnerError as error:
        sys.stderr.write(f"hydragnn-hpc: {error}\n")
        channel.send(Failed(cause=_cause(error), detail=type(error).__name__))
        return 1
    except Exception as error:  # the supervisor decides what any error means
        traceback.print_exc()
        channel.send(_report_of(worker, error))
        return 1
    return 0


def _report_of(worker: Worker | None, error: Exception) -> Failed | Returned:
    """Return the report of an error; a failed capture, or a stack too large for its device, is no member's failure."""
    cause = _cause(error)
    if isinstance(error, CaptureError):
        return Returned(reason="graphs", detail=cause)
    if isinstance(error, StackTooLargeError):
        return Returned(reason="memory", detail=cause.removeprefix("error: "), fits=error.fits)
    if worker is not None and worker.members > 1 and worker.on_device and is_out_of_memory(error):
        return Returned(reason="memory", detail=cause)
    return Failed(cause=cause, detail=type(error).__name__)


def _cause(error: Exception) -> str:
    first = first_line(error)
    if is_out_of_memory(error):
        return f"out of memory: {first}"
    if "busy or unavailable" in first:  # CUDA's words
        first += " (in exclusive mode a card takes one process: set launch.slots_per_device=1, or start MPS)"
    return f"error: {first}"


if __name__ == "__main__":
    code = main()
    # Without taking torch apart, which takes a third of a second. Only what C libraries print may not be written yet.
    ctypes.CDLL(None).fflush(None)
    os._exit(code)
