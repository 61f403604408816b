"""A small data set and campaign for the tests of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import campaigns


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.bp and campaign.yaml."""
    return campaigns.make(tmp_path_factory.mktemp("small")).parent


@pytest.fixture(scope="session")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign of ``small``, run to its end without a launcher; copy it to change it."""
    out = tmp_path_factory.mktemp("finished") / "out"
    campaigns.done(small, "run", "campaign.yaml", str(out))
    return out
