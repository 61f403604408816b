"""Launches of kernels as operations of torch that declare what they write, so that recorders of operations see them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, whose time depends on the number of programs: tiles are larger."""
_LIBRARY = torch.library.Library("hydragnn_hpc", "FRAGMENT")


def operation(schema: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function that launches a kernel as the operation of this schema; return the operation."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _LIBRARY.define(schema)
        name = schema[: schema.index("(")]
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        made: Callable[..., None] = getattr(torch.ops.hydragnn_hpc, name)
        return made

    return register


def registers(number: int) -> dict[str, int]:
    """Return the option of a launch with which NVIDIA's compiler uses as many registers as it needs, up to ``number``.

    By default it stores some in memory if more programs can then run at once. Other devices lack the option.
    """
    return {"maxnreg": number} if torch.version.cuda else {}
