"""The choice of a rank's device, and how devices are distinguished."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member import device
from hydragnn_hpc.member.engine.resident import vector_lanes
from tests import campaigns

CARD = torch.device("cuda", 0)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Properties that torch reports of the first card; tests add to them."""
    found: dict[str, object] = {"name": "card"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(**found))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_cards_of_one_uuid_are_distinguished_by_their_addresses(cards: dict[str, object]) -> None:
    cards |= {"uuid": "GPU-XX", "pci_domain_id": 1, "pci_bus_id": 0x41, "pci_device_id": 0}
    found = device.describe(CARD)
    assert (found.uuid, found.pci_address, found.identity) == ("GPU-XX", "0001:41:00", "0001:41:00")


def test_slices_of_one_card_are_distinguished_by_their_masks(
    cards: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards |= {"uuid": "GPU-1", "pci_bus_id": 0x41, "pci_device_id": 0}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5,MIG-7")
    assert device.describe(CARD).identity == "MIG-5"


def test_an_older_torch_reports_a_uuid_at_most(cards: dict[str, object]) -> None:
    assert device.describe(CARD).identity is None
    cards["uuid"] = "GPU-1"
    assert device.describe(CARD).identity == "GPU-1"


def test_the_service_that_shares_cards_is_detected(
    cards: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert device.describe(CARD).mps is False
    (tmp_path / "control").touch()
    assert device.describe(CARD).mps is True
    monkeypatch.setattr(torch.version, "hip", "7.1")
    assert device.describe(CARD).mps is None
    assert device.describe(torch.device("cpu")).mps is None


@pytest.mark.parametrize(("capability", "lanes"), [("AVX512", 16), ("AVX2", 8), ("SVE256", 8), ("DEFAULT", 4)])
def test_lanes_are_those_of_torchs_kernels(capability: str, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert vector_lanes(torch.device("cpu")) == lanes
    assert vector_lanes(CARD) is None


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the CPU, whatever this machine has."""
    for module in (torch.cuda, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("no_card")
def test_a_required_gpu_that_is_missing_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.choose_device("auto", 0).type == "cpu"
    assert device.choose_device("cpu", 0, require_gpu=True).type == "cpu"

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    def none() -> None:
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.setattr(torch.xpu, "init", none)
    with pytest.raises(UserError, match=r"sees no GPU: The NVIDIA .* is too old \(found version 11040\)\.; Assert"):
        device.choose_device("auto", 0, require_gpu=True)
    with pytest.raises(
        UserError, match=r"launch.device=cuda: torch .* too old .*; to use the CPU, set launch.device=cpu$"
    ):
        device.choose_device("cuda", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES is ''"):
        device.choose_device("auto", 0, require_gpu=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(UserError, match="it is built without cuda and xpu; install another build"):
        device.choose_device("auto", 0, require_gpu=True)


def test_a_run_that_requires_a_gpu_trains_nothing_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    campaigns.make(tmp_path, variants=["H"], replicas=1, launch={"device": "auto"})
    found = campaigns.command(tmp_path, "run", "campaign.yaml", "out", "--require-gpu")
    assert found.returncode == 1 and "Traceback" not in found.stderr, found.stderr
    assert found.stderr.splitlines()[-1].count("CUDA_VISIBLE_DEVICES is '-1'") == 1
    assert not list((tmp_path / "out").glob("members/*/*/result.json"))
    assert not list((tmp_path / "out").glob("members/*/*/failure.json")), "it counted as a member's failure"
