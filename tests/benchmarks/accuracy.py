"""Compare what the engines learn with what baseline A learns: test RMSE after the same training, over several seeds.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.accuracy data/quickstart.bp [--seeds 4] [--epochs 30]

In float32 two correct implementations differ by rounding from the first step on, and training amplifies the
difference: what must agree is the distribution over seeds. All train the paper's HCM network with Adam at a fixed rate
and keep the weights of the epoch with the lowest validation loss. Weights and shuffles are drawn from the same
distributions.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch_geometric.loader import DataLoader
from torch_geometric.utils import degree

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.dataset.staged import copies
from hydragnn_hpc.dataset.staged.staging import Staging
from hydragnn_hpc.member.choose import network_sizes
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.sizes import NetworkSizes
from hydragnn_hpc.member.engine.steps import PlainSteps, StackState
from hydragnn_hpc.member.engine.training_data import TrainingData, from_staged
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.benchmarks import cases
from tests.benchmarks.baseline import BaselineModel, Task, graph_of, train_epoch

CAMPAIGN = Path(__file__).parents[2] / "jobs" / "campaigns" / "quickstart.yaml"
ENGINES = ["A", "torch", "fused"]
Errors = dict[str, float]


def errors(predicted: dict[str, np.ndarray], samples: TrainingData, chosen: np.ndarray) -> Errors:
    """Scaled RMSE by task."""
    found = {}
    for name, values in predicted.items():
        rows = copies.atoms_of(samples.graphs.atom_offsets, chosen) if samples.levels[name] == "node" else chosen
        found[name] = float(np.sqrt(np.mean((values.astype(np.float64) - samples.targets[name][rows]) ** 2)))
    return found


def best_of(epochs: int, split: Split, train: Callable[[], object], test: Callable[[np.ndarray], Errors]) -> Errors:
    """Test errors of the epoch with the lowest validation loss; ``test`` measures on some samples."""
    best, kept = np.inf, Errors()
    for _ in range(epochs):
        train()
        loss = sum(e**2 for e in test(split.validation).values())
        if loss < best:
            best, kept = loss, test(split.test)
    return kept


def train_baseline(samples: TrainingData, sizes: NetworkSizes, seed: int, epochs: int) -> Errors:
    """One training of baseline A."""
    tasks = sizes.tasks
    torch.manual_seed(seed)
    data = [graph_of(samples, number, tasks) for number in range(len(samples.graphs.sample_geometry))]
    degrees = torch.cat([degree(d.edge_index[1], d.num_nodes, torch.long) for d in data])
    model = BaselineModel(sizes.inputs, sizes.channels, [Task(t.name, t.level) for t in tasks], degrees.bincount())
    optimizer = torch.optim.Adam(model.parameters(), lr=cases.RATE)
    loader = DataLoader([data[k] for k in samples.split.train], batch_size=cases.BATCH, shuffle=True)

    @torch.no_grad()
    def test(chosen: np.ndarray) -> Errors:
        model.eval()
        batches = DataLoader([data[k] for k in chosen], batch_size=256)
        values = [model(batch) for batch in batches]
        return errors({t.name: torch.cat([v[t.name] for v in values]).numpy() for t in tasks}, samples, chosen)

    return best_of(epochs, samples.split, lambda: train_epoch(model, loader, optimizer), test)


def train_engine(engine: Engine, samples: TrainingData, seed: int, epochs: int) -> Errors:
    """One training in an engine."""
    stack, steps = StackState.untrained(engine, [seed], cases.ADAM), PlainSteps(engine)
    rng = np.random.default_rng(seed)

    def train() -> None:
        cases.train(steps, stack, rng.permutation(samples.split.train)[None])

    def test(chosen: np.ndarray) -> Errors:
        values = engine.predict(stack.parameters, stack.buffers, chosen)
        return errors({name: value[0].numpy() for name, value in values.items()}, samples, chosen)

    return best_of(epochs, samples.split, train, test)


def main() -> None:
    """Read the command line, train, and print means and standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a prepared data set with the paper's three targets")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    campaign = load_campaign(CAMPAIGN, [f"dataset={arguments.dataset.resolve()}"])
    with Staging(arguments.dataset, Path(tempfile.gettempdir())) as staging:
        samples = from_staged(copies.open_staged(staging.folder), campaign)
        sizes = network_sizes(campaign, campaign.variant("HCM"), samples, samples.average_degree())
        runs: dict[str, Callable[[int], Errors]] = {
            "A": lambda s: train_baseline(samples, sizes, s, arguments.epochs),
            "torch": lambda s: train_engine(
                TorchEngine(sizes, samples, torch.device("cpu")), samples, s, arguments.epochs
            ),
            "fused": lambda s: train_engine(FusedEngine(sizes, samples), samples, s, arguments.epochs),
        }
        print("| engine | " + " | ".join(t.name for t in sizes.tasks) + " |\n|---|" + "---|" * len(sizes.tasks))
        for name in arguments.engines:
            found = [runs[name](seed) for seed in range(arguments.seeds)]
            columns = [np.array([f[t.name] for f in found]) for t in sizes.tasks]
            shown = " | ".join(f"{c.mean():.4f} ± {c.std(ddof=1):.4f}" for c in columns)
            print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
