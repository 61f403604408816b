"""The choice of Triton's kernels on the emulated device, where they run in Triton's interpreter."""

from __future__ import annotations

import pytest
from torch import Tensor

from hydragnn_hpc.config import parse_campaign
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.triton_kernels import operations
from tests import campaigns
from tests.gpu.emulated import Device
from tests.gpu.problems import GPU, problem
from tests.member.contract.problem import TASKS


def chosen(engine: str) -> tuple[str, str]:
    """Name of the engine that a campaign with this choice takes on the device, and the reason."""
    tasks = {t.name: {"level": t.level, "field": t.name} for t in TASKS}
    training = {"epochs": 3, "batch_size": 60, "engine": engine}
    content = {**campaigns.SMALL, "tasks": tasks, "variants": ["HCV"], "training": training}
    campaign = parse_campaign(content, "")
    engine_of, reason = choose(campaign, campaign.variants[0], problem().samples, GPU)
    return engine_of.name, reason


def test_kernels_are_used_on_a_device_unless_torch_is_asked_for(device: Device) -> None:
    assert chosen("auto") == ("triton", "triton: the device is cuda, and Triton's kernels work on it")
    assert chosen("torch")[0] == "torch"


def test_kernels_that_fail_or_give_wrong_numbers_are_not_used(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    right = operations.aggregate

    def wrong(*arguments: Tensor) -> None:
        right(*arguments)
        arguments[4].mul_(1.01)

    def fails(*arguments: Tensor) -> None:
        raise RuntimeError("0 active drivers ([]). There should only be one.\nmore")

    for fault, why in ((wrong, "give wrong numbers on this device"), (fails, "fails on this device: 0 active drivers")):
        monkeypatch.setattr(operations, "aggregate", fault)
        name, reason = chosen("auto")
        assert name == "torch" and why in reason, reason
