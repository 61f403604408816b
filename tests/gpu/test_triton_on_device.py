"""The choice of the triton engine on the emulated device, where its kernels run in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.member import choose
from hydragnn_hpc.member.triton_engine import engine, heads, rows
from hydragnn_hpc.member.triton_engine import trunk_launches as trunk
from tests import campaigns
from tests.gpu.emulated import Device
from tests.gpu.problems import GPU, problem
from tests.member.contract.problem import TASKS

WRITTEN = {
    "fold": (trunk, 3), "send": (trunk, 8), "mix": (trunk, 12), "mix_back": (trunk, 11), "aggregate_back": (trunk, 11),
    "edges_back": (trunk, 7), "trunk_products": (trunk, 9), "edge_products": (trunk, 5), "unfold": (trunk, 1),
    "train_heads": (heads, 15), "weights_back": (heads, 6), "adam": (engine, 0),
}  # fmt: skip
"""Where each kernel is launched, and an array that it writes: its position among the arguments."""


def chosen(requested: str, convolution: str = "PNA") -> tuple[str, str]:
    """Name of the engine that a campaign with this choice takes on the device, and the reason."""
    tasks = {t.name: {"level": t.level, "field": t.name} for t in TASKS}
    training = {"epochs": 3, "batch_size": 60, "engine": requested}
    model = {**campaigns.SMALL["model"], "convolution": convolution}
    content = {**campaigns.SMALL, "tasks": tasks, "variants": ["HCV"], "training": training, "model": model}
    campaign = parse_campaign(content, "")
    engine_of, reason = choose.choose(campaign, campaign.variants[0], problem().data, GPU)
    return engine_of.name, reason


def test_kernels_are_used_on_a_device_unless_torch_is_asked_for(device: Device) -> None:
    assert chosen("auto") == ("triton", "triton: the device is cuda, and Triton's kernels work on it")
    assert chosen("torch")[0] == "torch"


def test_kernels_are_not_compiled_for_other_convolutions(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "why_no_kernels", lambda *_: pytest.fail("the kernels were compiled"))
    assert chosen("auto", "GIN")[0] == "library"


@pytest.mark.parametrize("kernel", WRITTEN)
def test_a_kernel_that_gives_wrong_numbers_is_not_used(
    device: Device, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, output = WRITTEN[kernel]
    right = getattr(module, kernel)

    def wrong(*arguments: Tensor) -> None:
        right(*arguments)
        if arguments[output] is not None:
            arguments[output].mul_(1.05)

    monkeypatch.setattr(module, kernel, wrong)
    name, reason = chosen("auto")
    assert name == "torch" and "give wrong numbers on this device" in reason


@pytest.mark.parametrize(
    ("text", "why"),
    [("0 active drivers ([]).\nmore", "fails on this device: 0 active drivers ([])."), ("", "device: RuntimeError")],
)
def test_kernels_that_fail_are_not_used(device: Device, text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Tensor) -> Callable[..., None]:
        raise RuntimeError(text)

    monkeypatch.setattr(rows, "place", fails)
    name, reason = chosen("auto")
    assert name == "torch" and why in reason
