"""Training, checkpoints and their resumption on the emulated device, in one process."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.dataset.staged import copies, requirements
from hydragnn_hpc.ledger import Frozen
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.device import arithmetic, describe
from hydragnn_hpc.member.engine.training_data import from_staged
from hydragnn_hpc.member.training.memory import members_that_fit
from hydragnn_hpc.member.training.stack import WorkerContext
from hydragnn_hpc.member.training.train import StackTraining
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.claim import Claim
from hydragnn_hpc.records.events import Train
from tests import campaigns
from tests.gpu.emulated import Device
from tests.gpu.problems import GPU

CONTENT = {
    **campaigns.SMALL,
    "training": {"epochs": 3, "batch_size": 60, "engine": "torch"},
    "launch": {"device": "cuda"},
}
CAMPAIGN = parse_campaign(CONTENT, "")
ASSIGNMENTS = itertools.count(1)


@pytest.fixture(scope="module")
def staged(small_bp: Path, tmp_path_factory: pytest.TempPathFactory) -> copies.StagedData:
    """The small data set, staged."""
    folder = tmp_path_factory.mktemp("staged")
    copies.copy(small_bp, folder, requirements.of_all(CAMPAIGN))
    return copies.open_staged(folder)


def training(staged: copies.StagedData, out: Path, *replicas: int) -> StackTraining:
    """A stack, from its members' checkpoints where there are any."""
    data = from_staged(staged, CAMPAIGN)
    engine, _ = choose(CAMPAIGN, CAMPAIGN.variant("HCM"), data, GPU)
    frozen = Frozen(CAMPAIGN, config_hash(CAMPAIGN, staged.manifest.sha256), staged.manifest.sha256)
    context = WorkerContext(CampaignFolder(out), frozen, staged.manifest, "host", 0, 0, describe(GPU), {})
    claim = Claim(run=1, assignment=next(ASSIGNMENTS))
    return StackTraining(context, data, engine, Train(variant="HCM", replicas=replicas, attempt=1, claim=claim))


def weights(out: Path) -> list[str]:
    """The hashes of the finished members' weights."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob("members/*/*/result.json"))]
    return [result["weights_sha256"] for result in results]


def test_an_interrupted_training_ends_the_same_and_a_change_of_stack_is_named(
    staged: copies.StagedData, tmp_path: Path, device: Device
) -> None:
    whole = training(staged, tmp_path / "whole", 0, 1)
    while whole.members:
        whole.epoch(lambda: None)
    for _ in range(3):
        part = training(staged, tmp_path / "parts", 0, 1)
        assert not part.engine_changes
        part.epoch(lambda: None)
        part.save()
    assert len(weights(tmp_path / "whole")) == 2 and weights(tmp_path / "parts") == weights(tmp_path / "whole")
    first = training(staged, tmp_path / "alone", 0, 1)
    first.epoch(lambda: None)
    first.save()
    (change,) = training(staged, tmp_path / "alone", 0).engine_changes
    assert change.before == "engine torch on emulated, in a stack of 2"
    assert change.after == "engine torch on emulated, in a stack of 1"


def test_a_device_that_does_not_report_its_free_memory_gives_no_estimate(
    staged: copies.StagedData, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = from_staged(staged, CAMPAIGN)
    engine, _ = choose(CAMPAIGN, CAMPAIGN.variant("HCM"), data, GPU)
    assert members_that_fit(engine, data, CAMPAIGN.training) > 100

    def refused() -> None:
        raise RuntimeError("The device doesn't support querying the available free memory.")  # as torch.xpu says

    monkeypatch.setattr(torch.cuda, "mem_get_info", refused)
    assert members_that_fit(engine, data, CAMPAIGN.training) is None


def test_the_precision_of_products_is_set_and_restored() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with arithmetic(1):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # after which torch does not report its precision
        with arithmetic(1):
            assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
