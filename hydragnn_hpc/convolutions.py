"""The convolutions that a campaign can name.

A new one is a line here and a file in `hydragnn_hpc.member.library.convolutions`.

Most are PyTorch Geometric's layers, which take and return scalars of an atom. An equivariant one also updates vectors,
which rotate with the structure. DimeNet, which updates states of edges, has no place here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hydragnn_hpc.errors import nearest


@dataclass(frozen=True)
class Convolution:
    """One convolution.

    Attributes
    ----------
    module : str
        Its file in `hydragnn_hpc.member.library.convolutions`.
    edges : {"none", "optional", "required"}
        Whether it uses edge features.
    equivariant : bool
        Whether it updates vectors, so that tasks may have vectors as values.
    """

    module: str
    edges: Literal["none", "optional", "required"]
    equivariant: bool = False


CONVOLUTIONS = {
    "PNA": Convolution("pna", "optional"),
    "SAGE": Convolution("sage", "none"),
    "GIN": Convolution("gin", "optional"),
    "GAT": Convolution("gat", "optional"),
    "MFC": Convolution("mfc", "none"),
    "CGCNN": Convolution("cgcnn", "optional"),
    "SchNet": Convolution("schnet", "required"),
    "PaiNN": Convolution("painn", "required", equivariant=True),
}


def why_not(name: str, edges: bool) -> str:
    """Return why a convolution cannot be used with (or without) edge features, ``""`` if it can."""
    if name not in CONVOLUTIONS:
        return f"unknown convolution '{name}'{nearest(name, CONVOLUTIONS)}"
    rule = CONVOLUTIONS[name].edges
    if edges and rule == "none":
        able = ", ".join(n for n, c in CONVOLUTIONS.items() if c.edges != "none")
        return f"{name} does not use edge features; leave model.edges out, or choose one of: {able}"
    if not edges and rule == "required":
        return f"{name} requires edge features; add model.edges, such as {{number: 20}}"
    return ""
