"""The convolutions that a campaign can name.

A new one is a line here and a file in `hydragnn_hpc.member.library.convolutions`.

Those of PyTorch Geometric that pass on one vector per atom. DimeNet and PaiNN do not: they pass on states of edges, or
vectors beside the scalars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Convolution:
    """One convolution.

    Attributes
    ----------
    module : str
        Its file in `hydragnn_hpc.member.library.convolutions`.
    edges : {"none", "optional", "required"}
        Whether it can use features of edges.
    """

    module: str
    edges: Literal["none", "optional", "required"]


CONVOLUTIONS = {
    "PNA": Convolution("pna", "optional"),
    "SAGE": Convolution("sage", "none"),
    "GIN": Convolution("gin", "optional"),
    "GAT": Convolution("gat", "optional"),
    "MFC": Convolution("mfc", "none"),
    "CGCNN": Convolution("cgcnn", "optional"),
    "SchNet": Convolution("schnet", "required"),
}


def why_not(name: str, edges: bool) -> str:
    """Say why a convolution cannot be had with or without features of edges, or ``""`` if it can."""
    if name not in CONVOLUTIONS:
        return f"unknown convolution '{name}'; known are: {', '.join(CONVOLUTIONS)}"
    rule = CONVOLUTIONS[name].edges
    if edges and rule == "none":
        able = ", ".join(n for n, c in CONVOLUTIONS.items() if c.edges != "none")
        return f"{name} does not use edge features; leave model.edges out, or choose one of: {able}"
    if not edges and rule == "required":
        return f"{name} requires edge features; add model.edges, such as {{number: 20}}"
    return ""
