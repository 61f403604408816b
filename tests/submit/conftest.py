"""Fixtures of the tests of ``submit``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.submit import data_set
from tests.submit.paper import write_campaign


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the paper's campaign and its data set; programs in its ``bin`` come first on PATH."""
    (tmp_path / "bin").mkdir()
    data_set.write(tmp_path / "data.bp")
    write_campaign(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path
