"""The choice of the triton engine on the emulated device, where its kernels run in Triton's interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.member import choose
from hydragnn_hpc.member.engine.sizes import SCALERS
from hydragnn_hpc.member.triton_engine import engine, heads, rows
from hydragnn_hpc.member.triton_engine import trunk_launches as trunk
from tests import campaigns
from tests.gpu.emulated import Device
from tests.gpu.problems import GPU, problem
from tests.member.contract.problem import TASKS

WRITTEN = {
    "fold": (trunk, 3), "edge_messages": (trunk, 5), "send": (trunk, 8), "mix": (trunk, 12), "collect": (trunk, 10),
    "mix_back": (trunk, 11), "aggregate_back": (trunk, 11), "edges_back": (trunk, 7), "trunk_products": (trunk, 9),
    "edge_products": (trunk, 5), "unfold": (trunk, 1), "pool_samples": (heads, 5), "train_heads": (heads, 15),
    "weights_back": (heads, 6), "count_known": (heads, 5), "predict_heads": (heads, 6), "adam": (engine, 0),
}  # fmt: skip
"""Where each kernel is launched, and an array that it writes: its position among the arguments."""
OTHERS: dict[str, Any] = {
    "atoms": (5, 1, 9), "pooling": "max", "edges": {"basis": "bessel", "envelope": "polynomial"}, "loss": "huber",
}  # fmt: skip
"""Choices that are not those of the small campaign."""
OPTIONS = [
    pytest.param((heads, "pool_samples"), "max", "sum", OTHERS, id="pooling"),
    pytest.param((heads, "train_heads"), "huber", "mse", OTHERS, id="huber"),
    pytest.param((heads, "train_heads"), "nll", "mse", OTHERS | {"loss": "nll"}, id="nll"),
    pytest.param((trunk, "edge_products"), "polynomial", "none", OTHERS, id="envelope"),
    pytest.param((trunk, "mix"), 1 + SCALERS, 1, OTHERS, id="geometries that vary"),
]
"""A launch, an option of it, another in its place, and the choices of a campaign that cause it."""


def chosen(
    requested: str = "auto", atoms: tuple[int, ...] = (9,), loss: str = "mse", missing: float = 0.0, **model: object
) -> tuple[str, str]:
    """Name of the engine that a campaign with these choices takes on the device, and the reason."""
    tasks = {t.name: {"level": t.level, "field": t.name, "loss": loss} for t in TASKS[:2]}
    training = {"epochs": 3, "batch_size": 60, "engine": requested}
    model = {**campaigns.SMALL["model"], **model}
    content = {**campaigns.SMALL, "tasks": tasks, "variants": ["HC"], "training": training, "model": model}
    campaign = parse_campaign(content, "")
    engine_of, reason = choose.choose(campaign, campaign.variants[0], problem(atoms, missing).data, GPU)
    return engine_of.name, reason


def test_kernels_are_used_on_a_device_unless_torch_is_asked_for(device: Device) -> None:
    assert chosen("auto") == ("triton", "triton: the device is cuda, and Triton's kernels work on it")
    assert chosen("torch")[0] == "torch"
    assert {chosen(**OTHERS | {"loss": loss})[0] for loss in ("huber", "nll")} == {"triton"}


def test_kernels_are_not_used_for_atoms_with_too_many_neighbours(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_NEIGHBOURS", 3)
    name, reason = chosen()
    assert name == "torch" and "kernels are not used: they support at most 3 neighbours of an atom, not " in reason


def test_kernels_are_not_compiled_for_other_convolutions(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "why_no_kernels", lambda *_: pytest.fail("the kernels were compiled"))
    assert chosen(convolution="GIN")[0] == "library"


@pytest.mark.parametrize("kernel", WRITTEN)
def test_a_kernel_that_gives_wrong_numbers_is_not_used(
    device: Device, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, output = WRITTEN[kernel]
    right = getattr(module, kernel)

    def wrong(*arguments: Tensor) -> None:
        right(*arguments)
        if arguments[output] is not None:
            arguments[output].mul_(1.05 if arguments[output].is_floating_point() else 2)

    monkeypatch.setattr(module, kernel, wrong)
    name, reason = chosen(missing=0.3, edges={})
    assert name == "torch" and "give wrong numbers on this device" in reason


@pytest.mark.parametrize(("launch", "option", "other", "choices"), OPTIONS)
def test_kernels_are_compared_as_the_campaign_uses_them(
    device: Device, launch: tuple[ModuleType, str], option: object, other: object, choices: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A fault that shows with some choices alone is noticed."""
    module, kernel = launch
    right = getattr(module, kernel)

    def wrong(*arguments: object) -> None:
        right(*(other if type(value) is type(option) and value == option else value for value in arguments))

    monkeypatch.setattr(module, kernel, wrong)
    name, reason = chosen(**choices)
    assert name == "torch" and "give wrong numbers on this device" in reason


@pytest.mark.parametrize(
    ("text", "why"),
    [("0 active drivers ([]).\nmore", "fails on this device: 0 active drivers ([])."), ("", "device: RuntimeError")],
)
def test_kernels_that_fail_are_not_used(device: Device, text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Tensor) -> Callable[..., None]:
        raise RuntimeError(text)

    monkeypatch.setattr(rows, "place", fails)
    name, reason = chosen()
    assert name == "torch" and why in reason


def test_a_triton_that_cannot_be_imported_is_not_used(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine.__name__, None)
    name, reason = chosen()
    assert name == "torch" and "Triton fails on this device: import of " in reason
