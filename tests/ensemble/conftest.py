"""A small data set and campaign for the tests of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import campaigns


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.bp and campaign.yaml."""
    return campaigns.make(tmp_path_factory.mktemp("small")).parent
