"""Whether the kernels can be used on a device."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from hydragnn_hpc.member.device import is_out_of_memory


def unavailable(device: torch.device) -> str:
    """Return why the kernels cannot be used on this device, ``""`` if they can.

    They compute a small case there: Triton compiles at first use, with the device's driver and a C compiler on the
    node, so that having it installed is not enough.
    """
    if device.type == "cpu":
        return "the device is the CPU"
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        right = _aggregation_is_right(device) and _adam_is_right(device)
        return "" if right else "Triton's kernels give wrong numbers on this device"
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"Triton fails on this device: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"


def _aggregation_is_right(device: torch.device) -> bool:
    """Whether two atoms that are each other's neighbour aggregate what they should, forward and backward."""
    from hydragnn_hpc.member.triton_kernels import operations

    # On the device from the start: nothing waits for a copy.
    first = torch.arange(2, device=device)
    sent = (first + 1.0)[:, None]
    lists = [first.flip(0), first, torch.ones_like(first)]
    out, ties = sent.new_zeros(4, 2, 1, 1), torch.zeros(2, 1, dtype=torch.int32, device=device)
    operations.aggregate(sent, None, lists, None, out, ties)
    back = torch.empty_like(sent)
    operations.aggregate_back(sent, None, lists, None, out, ties, torch.ones_like(out), back)
    received = sent.flip(0).view(1, 2, 1, 1)
    # Edges that add zero: the messages stay, and each edge's gradient is that of its message.
    of_edges, ends = torch.empty_like(sent), torch.stack([first, first.flip(0)])[:, None]
    operations.edges_back(sent, sent.new_zeros(2, 1), ends, lists[2], out, ties, torch.ones_like(out), of_edges)
    # An atom's one message is its mean, minimum and maximum; deviations are zero.
    right = (out[:3] == received).all() & (out[3] == 0.0).all() & (back == 3.0).all() & (of_edges == 3.0).all()
    return bool(right)


def _adam_is_right(device: torch.device) -> bool:
    """Whether a step of Adam whose running means keep nothing makes 3 into 3 + 2 · 2 / (√(2 · 2) + 2) = 4."""
    from hydragnn_hpc.member.triton_kernels import operations

    parameters, gradients = (torch.full((1, 2), value, device=device) for value in (3.0, 2.0))
    factors = torch.full((3, 1, 1), 2.0, device=device)
    operations.adam(
        parameters, gradients, torch.zeros_like(parameters), torch.zeros_like(parameters), factors, 0.0, 0.0, 0.0, False
    )
    return torch.allclose(parameters, torch.full_like(parameters, 4.0))
