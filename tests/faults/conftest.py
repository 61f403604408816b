"""The small campaign that the fault suite hurts, and what it gives when nobody does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import harness

CAMPAIGN = """\
name: faults
dataset: small.bp
tasks:
  H: {level: graph, field: mixing_enthalpy}
  C: {level: node, field: charge_transfer}
  M: {level: node, field: magnetic_moment}
variants: [HCM, HC, M]
replicas: 2
seed: 5
model: {layers: 2, channels: 8, graph_head: [8], node_head: [8]}
training: {epochs: 300, batch_size: 8, early_stopping: null}
launch: {attempts: 3, checkpoint_seconds: 0, device: cpu}
"""


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred surrogate samples, prepared; every test of the suite trains from it or from a copy."""
    folder = tmp_path_factory.mktemp("faults")
    for arguments in (
        ["data", "generate", str(folder / "raw"), "--cap", "12", "--seed", "3"],
        ["data", "prepare", str(folder / "raw"), str(folder / "small.bp")],
    ):
        subprocess.run([str(harness.BIN / "hydragnn-hpc"), *arguments], check=True, timeout=120, capture_output=True)
    return folder


@pytest.fixture
def arena(raw_data: Path, tmp_path: Path) -> Iterator[harness.Arena]:
    """A campaign file beside the data, a folder for outputs, a private place for node-local copies."""
    campaign = raw_data / "campaign.yaml"
    campaign.write_text(CAMPAIGN)
    stage = tmp_path / "node-local"
    stage.mkdir()
    arena = harness.Arena(tmp_path, campaign, stage)
    yield arena
    for launch in arena.launches:
        launch.kill()


@pytest.fixture(scope="session")
def undisturbed(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | bytes]:
    """The outcome of the campaign when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (raw_data / "campaign.yaml").write_text(CAMPAIGN)
    (folder / "node-local").mkdir()
    arena = harness.Arena(folder, raw_data / "campaign.yaml", folder / "node-local")
    arena.finish(folder / "out")
    harness.check_clean(arena, folder / "out")
    return harness.outcome(folder / "out")
