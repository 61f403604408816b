"""What to compute next: samples chosen by ``select`` against samples chosen at random, from the same start.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.active_learning DATA.bp FOLDER [--repeats 3]

A campaign of four HCM members is trained on 500 samples of the training set; its ensemble chooses 250 of the others,
which the next campaign is also trained on, and so on for five rounds. The validation set (500 samples) and the test set
stay the same. Everything is done by the program's commands. FOLDER keeps what has been trained: the same command
continues.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

import hydragnn_hpc
from hydragnn_hpc.dataset import store
from hydragnn_hpc.member.engine.resample import Split
from tests.benchmarks.program import command

VALIDATION = 500
"""Samples of the validation set."""
TARGETS = {"mixing_enthalpy": "graph", "charge_transfer": "node", "magnetic_moment": "node"}
TASKS = dict(zip("HCM", TARGETS, strict=True))


def frames_of(path: Path) -> Iterator[str]:
    """Yield the frames of an extended XYZ file as text."""
    with path.open(encoding="utf-8") as stream:
        for count in stream:
            yield count + "".join(next(stream) for _ in range(int(count) + 1))


def campaign_of(units: dict[str, str], epochs: int) -> tuple[str, list[str]]:
    """Return the campaign, and the targets to prepare."""
    tasks = {task: {"level": TARGETS[field], "field": field} for task, field in TASKS.items()}
    content = {
        "name": "active-learning",
        "dataset": "data.bp",
        "tasks": tasks,
        "variants": ["HCM"],
        "replicas": 4,
        "training": {"epochs": epochs},
        "launch": {"stack": 4},
    }
    targets = [f"--target={field}={level}:{field}:{units[field]}" for field, level in TARGETS.items()]
    return yaml.safe_dump(content), targets


def train(folder: Path, frames: list[str], targets: list[str], campaign: str) -> list[float]:
    """Train a campaign on some frames; return the test RMSE of the ensemble's mean by task."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data.bp").exists():
        (folder / "data.xyz").write_text("".join(frames), encoding="utf-8")
        command("data", "prepare", folder / "data.xyz", folder / "data.bp", "--split-by", "source", *targets)
        (folder / "data.xyz").unlink()
    (folder / "campaign.yaml").write_text(campaign, encoding="utf-8")
    command("run", folder / "campaign.yaml", folder / "out")
    table = hydragnn_hpc.load(folder / "out").table1
    return [float(table.set_index("task")["rmse_of_mean"][task]) for task in TASKS]


@dataclass
class Data:
    """All frames as text, their split, and the targets' units."""

    frames: list[str]
    split: Split
    units: dict[str, str]

    @classmethod
    def of(cls, bp: Path, text: Path) -> Data:
        """Convert a data set; only `VALIDATION` of its validation samples are used."""
        if not text.exists():
            command("data", "convert", bp, text)
        manifest, arrays = store.read(bp)
        train, validation, test = (np.flatnonzero(arrays["split"] == part) for part in range(3))
        split = Split(train, np.random.default_rng(0).permutation(validation)[:VALIDATION], test)
        return cls(list(frames_of(text)), split, {field: manifest.targets[field].unit for field in TARGETS})

    def follow(self, folder: Path, given: argparse.Namespace, seed: int, at_random: bool) -> list[list[float]]:
        """Return the errors by round and task, with samples chosen by the ensemble, or ``at_random``."""
        campaign, targets = campaign_of(self.units, given.epochs)
        train_on = np.random.default_rng(seed).permutation(self.split.train)[: given.start]
        errors = []
        for number in range(given.rounds + 1):
            own = folder / f"round-{number}"
            chosen = [self.frames[k] for k in np.concatenate([train_on, self.split.validation, self.split.test])]
            errors.append(train(own, chosen, targets, campaign))
            print(f"{folder.name}: {len(train_on)} samples, {errors[-1]}", flush=True)
            if number == given.rounds:
                break
            rest, selected = np.setdiff1d(self.split.train, train_on), own / "next.csv"
            if not selected.exists():
                (own / "pool.xyz").write_text("".join(self.frames[k] for k in rest), encoding="utf-8")
                how = ["--random", "--seed", seed + number] if at_random else []
                command("select", own / "out", own / "pool.xyz", "--number", given.step, "--out", selected, *how)
                (own / "pool.xyz").unlink()
            with selected.open(newline="") as stream:
                train_on = np.concatenate([train_on, rest[[int(row["index"]) for row in csv.DictReader(stream)]]])
        return errors


def main() -> None:
    """Compare, and print a row per size and task: the means over repeats, and their ratio with its interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    for name, default in (("repeats", 3), ("start", 500), ("step", 250), ("rounds", 5), ("epochs", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    data = Data.of(given.data, given.folder / "all.xyz")
    found: dict[str, list[list[list[float]]]] = {"select": [], "random": []}
    for repeat in range(given.repeats):
        for method, of_repeats in found.items():
            own = given.folder / f"{method}-{repeat}"
            of_repeats.append(data.follow(own, given, 1000 * repeat, at_random=method == "random"))
    select, at_random = (np.array(found[method]) for method in ("select", "random"))  # [repeats, rounds + 1, tasks]
    print(f"samples task    select    random  ratio (95 % interval over {given.repeats} repeats)")
    for number in range(given.rounds + 1):
        for t, task in enumerate(TASKS):
            ratio = np.log(select[:, number, t] / at_random[:, number, t])
            half = stats.t.ppf(0.975, len(ratio) - 1) * stats.sem(ratio)
            means = " ".join(f"{errors[:, number, t].mean():9.4f}" for errors in (select, at_random))
            limits = np.exp(ratio.mean() + half * np.array([0, -1, 1]))
            size = given.start + given.step * number
            print(f"{size:>7} {task:>4} {means}  {limits[0]:.3f} ({limits[1]:.3f} to {limits[2]:.3f})")


if __name__ == "__main__":
    main()
