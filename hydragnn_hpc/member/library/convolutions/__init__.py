"""Convolutions by name: each file defines a ``Layer(sizes)``, around PyTorch Geometric's where it has one.

Its ``forward(x, graph)`` takes ``x [N, in]`` and returns ``[N, out]``. An equivariant one takes and returns vectors
``[N, 3, width]`` as well: ``forward(x, vectors, graph)``, with None before the first layer. Where samples share one
geometry, an ``over_shared`` computes the same faster, on columns (`hydragnn_hpc.member.library.shared`); only an
equivariant layer must have one. A layer must not depend on an atom's index or position in the batch, and training must
change only its parameters (it has no batch norm); `tests/member/test_convolutions.py` checks this for all of them.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from hydragnn_hpc.convolutions import CONVOLUTIONS


@dataclass(frozen=True)
class LayerSizes:
    """What a layer is built from.

    Attributes
    ----------
    fan_in, out : int
        Widths.
    edge_features : int
        K; 0 for none.
    cutoff : float
        Cutoff of the neighbour lists, bohr.
    average_degree : (float, float)
        Mean degree and mean of log(degree + 1) over the atoms of the training set.
    """

    fan_in: int
    out: int
    edge_features: int
    cutoff: float
    average_degree: tuple[float, float]


@dataclass(frozen=True)
class Graph:
    """A batch of samples as one graph.

    Attributes
    ----------
    edges : int64 tensor [2, m]
        Source (neighbour), then target; a pair may occur more than once (several images).
    lengths : tensor [m] or None
        Bohr; None where the network has no edge features.
    directions : tensor [m, 3] or None
        Unit vectors from target to source; None where the convolution is not equivariant.
    features : tensor [m, K] or None
    sample : int64 tensor [N]
        Position in the batch.
    samples : int
        Samples B.
    """

    edges: Tensor
    lengths: Tensor | None
    directions: Tensor | None
    features: Tensor | None
    sample: Tensor
    samples: int


def build(name: str, sizes: LayerSizes) -> nn.Module:
    """Return a new layer of the convolution ``name``; its weights are drawn from torch's global generator."""
    layer: nn.Module = import_module(f"{__name__}.{CONVOLUTIONS[name].module}").Layer(sizes)
    _remove_generated()
    return layer


def _remove_generated() -> None:
    """Remove the source files that PyTorch Geometric generates, loads, and leaves in the temporary folder."""
    folder = Path(tempfile.gettempdir())
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if name.startswith("torch_geometric.") and source and Path(source).parent == folder:
            Path(source).unlink(missing_ok=True)
