"""A small data set and campaign for the tests of this stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options

CAMPAIGN = """\
name: small
dataset: small.bp
tasks:
  H: {level: graph, field: mixing_enthalpy}
  C: {level: node, field: charge_transfer}
  M: {level: node, field: magnetic_moment}
variants: [HCM, H, M]
replicas: 2
model: {layers: 2, channels: 8, graph_head: [8], node_head: [8]}
training: {epochs: 4, batch_size: 16}
launch: {device: cpu, checkpoint_seconds: 0}
"""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.bp and campaign.yaml."""
    folder = tmp_path_factory.mktemp("small")
    surrogate.generate(folder / "raw", cap=8, seed=2)
    prepare(folder / "raw", folder / "small.bp", Options())
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    return folder
