"""Campaign folders of any shape, as a run leaves them, from a seed and within seconds: plausible numbers, no training.

The data are a simple alloy: 32 sites, k of them iron. Its graph target is an asymmetric dome over the composition; node
targets depend on the species. A member's predictions are the true values and noise of a size of the member's own, and
its errors are computed from them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from hydragnn_hpc import ledger
from hydragnn_hpc.atomic import write_json
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import member_hash
from hydragnn_hpc.config import Campaign, member_seed
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.dataset import NumberRange
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.member import Failure, Session, TaskErrors
from hydragnn_hpc.records.summary import BaselineErrors, DatasetSummary, PartSummary, TargetSummary
from hydragnn_hpc.report.analysis.paper import RANGES
from tests.member_records import a_result

START = datetime(2026, 8, 1, 9, 0, 0, tzinfo=UTC)
SITES = 32
DATA = "da7a" * 16
FEPT = {
    "H": {"level": "graph", "field": "mixing_enthalpy"},
    "C": {"level": "node", "field": "charge_transfer"},
    "M": {"level": "node", "field": "magnetic_moment"},
}
PAPER_VARIANTS = ("HCM", "HC", "HM", "CM", "H", "C", "M")
UNITS = {"mixing_enthalpy": "Ry", "charge_transfer": "e", "magnetic_moment": "μB"}
# Error of a task (scaled) by variant, similar to the paper's; 0.01 elsewhere.
LEVELS = {
    ("HCM", "H"): 7.5e-3, ("HC", "H"): 7.3e-3, ("HM", "H"): 6.6e-3, ("H", "H"): 1.0e-2,
    ("HCM", "C"): 6.8e-3, ("HC", "C"): 7.4e-3, ("CM", "C"): 5.9e-3, ("C", "C"): 5.9e-3,
    ("HCM", "M"): 1.04e-2, ("HM", "M"): 1.02e-2, ("CM", "M"): 9.3e-3, ("M", "M"): 8.8e-3,
}  # fmt: skip


@dataclass
class Shape:
    """What a campaign's folder contains.

    ``states`` maps a member's name (``"HM/03"``) or a variant to waiting, interrupted, running, failed or diverged;
    all others have finished. ``width`` gives node targets more than one component. With ``papers``, the summary states
    the ranges of the paper's data. With ``validation``, members' predictions of the validation set are kept.
    """

    variants: tuple = PAPER_VARIANTS
    tasks: dict = field(default_factory=lambda: dict(FEPT))
    replicas: int = 12
    seed: int = 0
    samples: int = 160
    epochs: int = 40
    stack: int = 1
    ranks: int = 4
    width: int = 1
    states: dict[str, str] = field(default_factory=dict)
    arrays: bool = True
    dataset: str = "nowhere/fept.bp"
    papers: bool = True
    cause: str = "killed by signal 9 (SIGKILL)"
    last_output: tuple[str, ...] = ("epoch 3", "slurmstepd: Detected 1 oom_kill event", "")
    launch: dict = field(default_factory=dict)
    validation: bool = False


def make(out: Path, shape: Shape | None = None, **more) -> Path:
    """Write a campaign's folder; return it."""
    shape = shape or Shape(**more)
    settings = {
        "name": "fept", "dataset": shape.dataset, "tasks": shape.tasks, "variants": list(shape.variants),
        "replicas": shape.replicas, "seed": shape.seed, "launch": {"stack": shape.stack, **shape.launch},
    }  # fmt: skip
    campaign = parse_campaign(settings, "test")
    folder = CampaignFolder(out)
    folder.logs.mkdir(parents=True)
    ledger.freeze(folder, ledger.Frozen(campaign, "c0ffee" * 10 + "beef", DATA))
    rng = np.random.default_rng(shape.seed)
    truth = make_truth(rng, shape)
    if shape.arrays:
        np.savez(folder.test_set, **truth)
    if shape.validation:
        np.savez(folder.validation_set, **make_truth(np.random.default_rng((shape.seed, 1)), shape))
    write_record(folder.dataset, summary_of(truth, shape))
    clock = [0.0] * shape.ranks
    hosts = sorted({host(r) for r in range(shape.ranks)})
    events = [{"time": stamp(0), "event": "start", "members_left": 1, "hosts": hosts, "ranks": shape.ranks}]
    for variant, replicas in campaign.stacks():
        rank = int(np.argmin(clock))
        tasks = campaign.variant(variant).tasks
        speed = 1 + 0.1 * (len(tasks) - 1)
        seconds = float(600 * speed * (1 + 0.1 * rng.standard_normal()))
        for replica in replicas:
            name = f"{variant}/{replica:02d}"
            state = shape.states.get(name, shape.states.get(variant, "finished"))
            place = {"rank": rank, "slot": 0, "host": host(rank), "started": clock[rank], "seconds": seconds}
            maker = Member(folder, campaign, variant, replica, list(replicas), place)
            maker.write(state, truth, rng, shape)
            events += maker.events(state, first=replica == replicas[0])
        clock[rank] += seconds + 2
    events.append({"time": stamp(max(clock)), "event": "end", "finished": 1, "given_up": 0})
    events.sort(key=lambda e: e["time"])
    folder.events.write_text("".join(json.dumps(e) + "\n" for e in events))
    write_progress(folder, shape)
    return out


def make_truth(rng: np.random.Generator, shape: Shape) -> dict[str, np.ndarray]:
    """Return the content of ``test_set.npz``."""
    n_iron = rng.integers(0, SITES + 1, shape.samples)
    numbers = np.full((shape.samples, SITES), 78)
    for row, k in zip(numbers, n_iron, strict=True):
        row[rng.permutation(SITES)[:k]] = 26
    x = n_iron / SITES
    iron = numbers == 26
    charge = np.where(iron, -2.0 * (1 - x[:, None]), 2.0 * x[:, None]) + 0.2 * rng.standard_normal(numbers.shape)
    dome = 60 * (1 - x) ** 3 * x * 9.5 * 0.65 + 2 * rng.random(shape.samples) * x * (1 - x) * 4
    moment = np.where(iron, 2.6 + 0.5 * (1 - x[:, None]), 0.3 * x[:, None]) + 0.08 * rng.standard_normal(numbers.shape)
    known = {
        "mixing_enthalpy": dome[:, None],
        "charge_transfer": (charge - charge.mean(1, keepdims=True)).reshape(-1, 1),
        "magnetic_moment": moment.reshape(-1, 1),
    }
    truth = {
        "sample": np.sort(rng.choice(shape.samples * 7, shape.samples, replace=False)).astype(np.int64),
        "names": np.array([f"out_{k}" for k in range(shape.samples)]),
        "atom_offsets": np.arange(shape.samples + 1, dtype=np.int64) * SITES,
        "atomic_numbers": numbers.reshape(-1).astype(np.int32),
    }
    for task in shape.tasks.values():
        length = shape.samples * (SITES if task["level"] == "node" else 1)
        width = shape.width if task["level"] == "node" else 1
        other = rng.standard_normal((length, width))
        truth[task["field"]] = known.get(task["field"], other)
    return truth


def summary_of(truth: dict[str, np.ndarray], shape: Shape) -> DatasetSummary:
    """Return ``dataset.json``; the mean's error is the standard deviation, the composition's three tenths of it."""
    targets = {}
    for task in shape.tasks.values():
        values = truth[task["field"]]
        low, high = values.min(axis=0), values.max(axis=0)
        std, span = float((values - values.mean(axis=0)).std()), float(high.max() - low.min())
        errors = [
            BaselineErrors(rmse=k * std / span, mae=k * std / span, rmse_unit=k * std, mae_unit=k * std, r2=1 - k**2)
            for k in (1.0, 0.3)
        ]
        part = PartSummary(n=values.size, std=std / span, std_unit=std, mean=errors[0], composition=errors[1])
        low, high = low.tolist(), high.tolist()
        if shape.papers and task["field"] in RANGES:
            low, high = ([end] for end in RANGES[task["field"]])
        targets[task["field"]] = TargetSummary(
            level=task["level"], unit=UNITS.get(task["field"], "arb. u."), minimum=low, maximum=high, central_range=0.5,
            form="species" if task["level"] == "node" else "per cell", validation=part, test=part,
        )  # fmt: skip
    return DatasetSummary(
        dataset_sha256=DATA, samples=7 * shape.samples, geometries=1, atoms=NumberRange(minimum=SITES, maximum=SITES),
        elements=[26, 78], targets=targets,
    )  # fmt: skip


@dataclass
class Member:
    """One member to be written."""

    folder: CampaignFolder
    campaign: Campaign
    variant: str
    replica: int
    stack: list[int]
    place: dict

    def write(self, state: str, truth: dict, rng: np.random.Generator, shape: Shape) -> None:
        """Write the files that its state requires."""
        files = self.folder.member(self.variant, self.replica)
        if state == "waiting":
            return
        files.make()
        epochs = int(shape.epochs * (0.7 + 0.3 * rng.random())) if state == "finished" else 5
        if shape.arrays:
            self._history(files.history, epochs, rng, state)
        if state in ("interrupted", "running"):
            files.checkpoint.write_bytes(b"-")
        elif state == "failed":
            for attempt in (1, 2):
                at = {"time": ledger.now(), "rank": self.place["rank"], "host": self.place["host"], "attempt": attempt}
                what = {"cause": shape.cause, "detail": "", "last_output": shape.last_output, "final": attempt == 2}
                ledger.add_failure(files, Failure(**at, **what))
        else:
            self._result(files, state, epochs, truth, rng, shape)

    def _history(self, path: Path, epochs: int, rng: np.random.Generator, state: str) -> None:
        lines = ["epoch,train_loss,validation_loss,learning_rate,seconds_training,seconds_validation"]
        for epoch in range(1, epochs + 1):
            loss = float(1e-4 + 0.05 * np.exp(-epoch / 6) * np.exp(0.1 * rng.standard_normal()))
            if state == "diverged" and epoch == epochs:
                loss = float("nan")
            each = self.place["seconds"] / epochs
            lines.append(
                f"{epoch},{loss!r},{loss * 1.1!r},{1e-3 * 0.5 ** (epoch // 15)!r},{0.9 * each!r},{0.1 * each!r}"
            )
        path.write_text("\n".join(lines) + "\n")

    def _result(self, files, state: str, epochs: int, truth: dict, rng: np.random.Generator, shape: Shape) -> None:
        arrays, tasks, validation = {"sample": truth["sample"]}, {}, {}
        for name in self.campaign.variant(self.variant).tasks:
            task = self.campaign.tasks[name]
            real = truth[task.field]
            span = real.max() - real.min()
            level = LEVELS.get((self.variant, name), 1e-2) * (1 + 0.07 * rng.standard_normal())
            predicted = predict(real, span * level, rng, np.random.default_rng(len(real)))
            arrays[name] = predicted
            if shape.validation:
                seen, own = np.load(self.folder.validation_set)[task.field], np.random.default_rng((1, self.replica))
                validation[name] = predict(seen, span * level, own, np.random.default_rng((len(real), 1)))
            rmse, mae = np.sqrt(np.mean((predicted - real) ** 2)), np.mean(np.abs(predicted - real))
            metrics = {"rmse": rmse / span, "rmse_unit": rmse, "mae": mae / span, "mae_unit": mae}
            metrics["rmse_validation"] = metrics["rmse"]
            errors = {k: None if state == "diverged" else float(v) for k, v in metrics.items()}
            tasks[name] = TaskErrors(level=task.level, unit=UNITS.get(task.field, "arb. u."), n=real.size, **errors)
        if shape.arrays and state == "finished":
            np.savez(files.predictions, **arrays)
            if shape.validation:
                np.savez(files.validation, **validation)
        seconds = self.place["seconds"]
        ended = {"started": stamp(self.place["started"]), "ended": stamp(self.place["started"] + seconds)}
        session = {**ended, **{k: self.place[k] for k in ("host", "rank", "slot")}, "epochs": epochs, "engine": "fused"}
        rank = self.place["rank"]
        write_record(files.result, a_result(
            state=state, variant=self.variant, replica=self.replica,
            seed=member_seed(shape.seed, self.variant, self.replica), tasks=tasks,
            validation_loss=None if state == "diverged" else 1.2e-4,
            best_epoch=max(epochs - 10, 1), epochs=epochs,
            stopped_by="diverged" if state == "diverged" else "early_stopping", seconds=seconds,
            seconds_training=0.9 * seconds, seconds_validation=0.1 * seconds, stack=tuple(self.stack),
            engine="fused", sessions=(Session(**session),),
            device=device(rank),
            versions={"python": "3.11.2", "torch": "2.13.0", "hydragnn_hpc": "0.1.0"},
            config_hash=member_hash(self.campaign, self.campaign.variant(self.variant), DATA),
            dataset_sha256=DATA, weights_sha256=f"{self.replica:064x}",
        ))  # fmt: skip

    def events(self, state: str, first: bool) -> list[dict]:
        """Return its lines of the event log."""
        if state == "waiting":
            return []
        at = {k: self.place[k] for k in ("rank", "slot")}
        begin, end = self.place["started"], self.place["started"] + self.place["seconds"]
        entries = []
        if first:
            stack = {"variant": self.variant, "replicas": self.stack, "attempt": 1}
            entries.append({"time": stamp(begin), "event": "assign", **at, **stack})
        if state in ("finished", "diverged"):
            member = [self.variant, self.replica]
            entries.append({"time": stamp(end), "event": "finished", **at, "member": member, "state": state})
        if state == "failed":
            lost = {"variant": self.variant, "replicas": [self.replica], "cause": "exit code 1", "final": True}
            entries.append({"time": stamp(end), "event": "failed", **at, **lost})
        return entries


def predict(real: np.ndarray, level: float, rng: np.random.Generator, hard: np.random.Generator) -> np.ndarray:
    """Return one member's predictions; ``hard`` draws the errors that all members share, and their sizes."""
    size = np.exp(0.5 * hard.standard_normal(real.shape)) / np.exp(0.25)
    alike = 0.8 * hard.standard_normal(real.shape)
    return real + level * size * (alike + 0.6 * rng.standard_normal(real.shape))


def write_progress(folder: CampaignFolder, shape: Shape, age: float = 0.0) -> None:
    """Write ``progress.json``, and the lock where some member is running; ``age`` is how many seconds ago."""
    running = {n: s for n, s in shape.states.items() if s == "running" and "/" in n}
    now = datetime.now(UTC) - timedelta(seconds=age)
    at = {"epoch": 17, "epoch_seconds": 9.5, "rank": 1, "slot": 0, "host": host(1), "validation_loss": 3.1e-4}
    write_json(folder.progress, {
        "time": now.isoformat(timespec="milliseconds"),
        "started": (now - timedelta(hours=1)).isoformat(timespec="milliseconds"),
        "members_running": dict.fromkeys(running, at),
        "workers": [
            {"rank": r, "slot": 0, "host": host(r), "device": device(r).model_dump()}
            for r in range(shape.ranks)
        ],
        "seconds_left": 5400.0 if running else None,
    })  # fmt: skip
    if running:
        folder.lock.write_text("{}")


def host(rank: int) -> str:
    """Return the machine of a rank."""
    return f"node{rank // 4:03d}"


def device(rank: int) -> Device:
    """Return the device of a rank's worker."""
    return Device(type="cuda", name="NVIDIA H200", index=rank % 4, uuid=f"GPU-{rank:08x}")


def stamp(seconds: float) -> str:
    """Return the time of an event, ISO 8601."""
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
