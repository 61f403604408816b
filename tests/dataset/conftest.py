"""Data that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred surrogate samples as LSMS text."""
    folder = tmp_path_factory.mktemp("data") / "raw"
    surrogate.generate(folder, cap=12, seed=1)
    return folder


@pytest.fixture(scope="session")
def real_archive() -> Path:
    """The open data set's archive, beside the checkout."""
    archive = REAL / "fept_lsms_raw.tar.xz"
    if not archive.exists():
        pytest.skip("the open FePt data are not at ../shared/data")
    return archive


@pytest.fixture(scope="session")
def real_bp(real_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The open data set, prepared; no test changes it."""
    path = tmp_path_factory.mktemp("real") / "fept.bp"
    prepare(real_archive, path, Options(cap=1000))
    return path
