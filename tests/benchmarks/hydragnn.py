"""HydraGNN 3.0's own model and training loop, on the samples and with the network of baseline A.

    python -m tests.benchmarks.hydragnn

checks that the networks are the same; `tests.benchmarks.engines --hydragnn` measures. The configuration is HydraGNN's
LSMS example with the paper's widths, completed by HydraGNN; model, loss, optimiser, loader and the loop over batches
(`train`) are HydraGNN's. Its graph-level head needs a shared layer, here one of 20 x 20 on the pooled features (420
parameters). Two things are left out, to HydraGNN's advantage: the wrapper that adds up gradients over processes, and
edge lengths in the data, which this PNA does not read. HydraGNN uses a GPU where there is one, unless
`CUDA_VISIBLE_DEVICES` is empty.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from hydragnn_hpc.exchange.names import to_hydragnn
from hydragnn_hpc.member.engine.sizes import NetworkSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from tests.benchmarks import cases
from tests.benchmarks.baseline import graphs_and_model
from tests.benchmarks.cases import RATE
from tests.exchange.configurations import changed

# envs/tests.sh installs HydraGNN here; last, since a package named 'tests' is there too.
sys.path.append(str(Path(sys.prefix) / "hydragnn"))
from hydragnn.models.create import create_model_config
from hydragnn.preprocess import create_dataloaders, update_atom_features, update_predicted_values
from hydragnn.train.train_validate_test import get_head_indices, train
from hydragnn.utils import select_optimizer
from hydragnn.utils.config_utils import update_config

LEVELS, COLUMNS = ["graph", "node", "node"], [0, 1, 2]
"""Of the tasks H, C and M: level, and column among the graph's or the atoms' features, of which 0 is the species."""


class Alone(nn.Module):
    """A model in the place of HydraGNN's wrapper for several processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Data) -> list[Tensor]:
        """Values of every task."""
        values: list[Tensor] = self.module(batch)
        return values


def epoch_of(samples: TrainingData, sizes: NetworkSizes, batch: int) -> Callable[[], object]:
    """An epoch of HydraGNN's training over ``samples``."""
    data = [as_hydragnn_reads(graph) for graph in graphs_and_model(samples, sizes)[0]]
    model, loader, optimizer = prepared(data, sizes, batch)
    return lambda: train(loader, model, optimizer, verbosity=0)


def prepared(data: list[Data], sizes: NetworkSizes, batch: int) -> tuple[Alone, DataLoader, Optimizer]:
    """A new model of HydraGNN's for all of ``data``, its loader, and its optimiser."""
    if not distributed.is_initialized():  # HydraGNN asks for the number of its process
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    network, width = "NeuralNetwork__Architecture__", sizes.channels[0]
    content = changed(**{
        f"{network}model_type": "PNA", f"{network}hidden_dim": width, f"{network}num_conv_layers": len(sizes.channels),
        f"{network}output_heads__graph__num_sharedlayers": 1, f"{network}output_heads__graph__dim_sharedlayers": width,
        "NeuralNetwork__Variables_of_interest__denormalize_output": False,
        "NeuralNetwork__Training__Optimizer": {"type": "Adam", "learning_rate": RATE},
    })  # fmt: skip
    loaders = create_dataloaders(data, data, data, batch)
    settings = update_config(content, *loaders)["NeuralNetwork"]
    model = Alone(create_model_config(settings, use_gpu=False))
    return model, loaders[0], select_optimizer(model, settings["Training"]["Optimizer"])


def as_hydragnn_reads(graph: Data) -> Data:
    """A sample of the baseline as HydraGNN reads one from LSMS text; no network here looks at positions."""
    features, pos = torch.cat([graph.x, graph.y_C, graph.y_M], dim=1), torch.zeros(graph.num_nodes, 3)
    read = Data(x=features, pos=pos, edge_index=graph.edge_index, y=graph.y_H[0])
    update_predicted_values(LEVELS, COLUMNS, [1], [1, 1, 1], read)
    update_atom_features([0], read)
    return read


def gradients(model: nn.Module) -> dict[str, np.ndarray]:
    """Gradients of parameters, and values of buffers, by name."""
    state = model.state_dict(keep_vars=True)
    return {name: (tensor if tensor.grad is None else tensor.grad).numpy() for name, tensor in state.items()}


def main() -> None:
    """Give HydraGNN's model the baseline's weights; fail if losses, gradients or statistics of a batch then differ."""
    samples = cases.make_samples("varying")
    sizes = cases.network_sizes(samples)
    plain, baseline = graphs_and_model(samples, sizes)
    model, *_ = prepared([as_hydragnn_reads(graph) for graph in plain], sizes, cases.BATCH)
    tasks = [(t.name, t.level) for t in sizes.tasks]

    def renamed(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return to_hydragnn(found, tasks, len(sizes.channels), sizes.average_degree)

    weights = renamed({name: tensor.numpy() for name, tensor in baseline.state_dict().items()})
    model.module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    for graph in plain:
        graph.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    baseline.double().train()
    losses = torch.stack(baseline.losses(Batch.from_data_list(plain[: cases.BATCH])))
    losses.mean().backward()  # HydraGNN divides the weights of the tasks by their sum
    model.double().train()
    batch = Batch.from_data_list([as_hydragnn_reads(graph) for graph in plain[: cases.BATCH]])
    total, errors = model.module.loss(model(batch), batch.y, get_head_indices(model, batch))
    total.backward()
    torch.testing.assert_close(torch.stack(errors), losses)
    found = gradients(model.module)
    for name, expected in renamed(gradients(baseline)).items():
        if not name.startswith("graph_shared") and not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    counts = [sum(p.numel() for p in network.parameters()) for network in (baseline, model)]
    print(f"the same losses and gradients; parameters: {counts[0]} here, {counts[1]} in HydraGNN")


if __name__ == "__main__":
    main()
