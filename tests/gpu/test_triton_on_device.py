"""The choice of Triton's kernels on the emulated device, where they run in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.triton_kernels import operations
from tests import campaigns
from tests.gpu.emulated import Device
from tests.gpu.problems import GPU, problem
from tests.member.contract.problem import TASKS

OUTPUTS = {"aggregate": 4, "aggregate_back": 7, "edges_back": 7, "adam": 0}
"""An array that each kernel writes: its position among the arguments."""


def chosen(engine: str) -> tuple[str, str]:
    """Name of the engine that a campaign with this choice takes on the device, and the reason."""
    tasks = {t.name: {"level": t.level, "field": t.name} for t in TASKS}
    training = {"epochs": 3, "batch_size": 60, "engine": engine}
    content = {**campaigns.SMALL, "tasks": tasks, "variants": ["HCV"], "training": training}
    campaign = parse_campaign(content, "")
    engine_of, reason = choose(campaign, campaign.variants[0], problem().data, GPU)
    return engine_of.name, reason


def test_kernels_are_used_on_a_device_unless_torch_is_asked_for(device: Device) -> None:
    assert chosen("auto") == ("triton", "triton: the device is cuda, and Triton's kernels work on it")
    assert chosen("torch")[0] == "torch"


def test_kernels_that_fail_or_give_wrong_numbers_are_not_used(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(kernel: str, output: int) -> Callable[..., None]:
        right = getattr(operations, kernel)

        def changed(*arguments: Tensor) -> None:
            right(*arguments)
            arguments[output].mul_(1.01)

        return changed

    def fails(text: str) -> Callable[..., None]:
        def fail(*arguments: Tensor) -> None:
            raise RuntimeError(text)

        return fail

    for kernel, fault, why in (
        *((name, wrong(name, output), "give wrong numbers on this device") for name, output in OUTPUTS.items()),
        ("aggregate", fails("0 active drivers ([]).\nmore"), "fails on this device: 0 active drivers ([])."),
        ("adam", fails(""), "fails on this device: RuntimeError"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(operations, kernel, fault)
            name, reason = chosen("auto")
        assert name == "torch" and why in reason, (kernel, reason)
