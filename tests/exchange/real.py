"""HydraGNN itself, run as a program: ``python real.py predict|make FOLDER``, with HydraGNN on the path.

``predict`` loads each model of FOLDER with HydraGNN's own functions, and applies it to ``FOLDER/graphs.npz`` (``x``,
``batch``, ``edge_index``), in float64 and in float32: its outputs go into ``FOLDER/NAME.npz`` and
``FOLDER/NAME-single.npz``. ``make`` builds a model from ``FOLDER/NAME/config.json`` with random weights and running
statistics first, and saves it as HydraGNN does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from hydragnn.models.create import create_model_config
from hydragnn.utils.model import load_existing_model, save_model
from torch_geometric.data import Data


class Wrapped(torch.nn.Module):
    """A model as ``DistributedDataParallel`` wraps it: as in HydraGNN's files, names begin with ``module.``."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


def main(action: str, folder: Path) -> None:
    """Load the models, or make them, and write what they predict."""
    stored = {name: torch.from_numpy(array) for name, array in np.load(folder / "graphs.npz").items()}
    graphs = Data(pos=torch.zeros(len(stored["x"]), 3), **stored)
    for path in sorted(folder.glob("*/config.json")):
        name = path.parent.name
        model = create_model_config(json.loads(path.read_text())["NeuralNetwork"], use_gpu=False)
        wrapped = Wrapped(model)
        if action == "make":
            torch.manual_seed(len(name))
            for key, tensor in model.state_dict().items():
                if "avg_deg" not in key and tensor.is_floating_point():
                    tensor += 0.2 * torch.rand_like(tensor)
            optimizer = torch.optim.AdamW(wrapped.parameters())
            save_model(wrapped, optimizer, name, path=f"{folder}/")
        else:
            load_existing_model(wrapped, name, path=f"{folder}/")
        model.eval()
        with torch.no_grad():
            single = model(graphs)
            double = model.double()(Data(pos=graphs.pos, **{**stored, "x": stored["x"].double()}))
        np.savez(folder / f"{name}-single.npz", *[output.numpy() for output in single])
        np.savez(folder / f"{name}.npz", *[output.numpy() for output in double])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
