"""The small campaign that the fault suite disturbs, and its outcome when it is undisturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import campaigns
from tests.faults import harness
from tests.outcomes import outcome

CAMPAIGN = campaigns.text(
    name="faults",
    variants=["HCM", "HC", "M"],
    seed=5,
    training={"epochs": 60, "batch_size": 8, "early_stopping": None},
    launch={"attempts": 3, "checkpoint_seconds": 0, "device": "cpu"},
)


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred surrogate samples, prepared; every test of the suite trains from it or from a copy."""
    folder = tmp_path_factory.mktemp("faults")
    campaigns.data_set(folder, cap=12, seed=3)
    return folder


@dataclass(frozen=True)
class Undisturbed:
    """The campaign's folder and outcome, and the time it takes, without any fault."""

    out: Path
    outcome: dict[str, Any]
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The campaign, run once without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    arena = make_arena(folder, raw_data)
    started = time.monotonic()
    arena.finish(folder / "out")
    seconds = time.monotonic() - started
    harness.check_files(folder / "out")
    harness.check_status(folder / "out")
    return Undisturbed(folder / "out", outcome(folder / "out"), seconds)


@pytest.fixture
def arena(raw_data: Path, undisturbed: Undisturbed, tmp_path: Path) -> Iterator[harness.Arena]:
    """A campaign file beside the data, a folder for outputs, and a separate one for node-local copies."""
    arena = make_arena(tmp_path, raw_data)
    arena.undisturbed = undisturbed.outcome
    yield arena
    for launch in arena.launches:
        launch.kill()


def make_arena(folder: Path, raw_data: Path) -> harness.Arena:
    """Make the campaign's files."""
    campaign = raw_data / "campaign.yaml"
    campaign.write_text(CAMPAIGN)
    (folder / "node-local").mkdir()
    return harness.Arena(folder, campaign, folder / "node-local")
