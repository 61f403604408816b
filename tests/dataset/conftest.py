"""Data that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.store import bp5, bp5_writer, spool

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def written_here() -> Iterator[None]:
    """Data sets are written by this process: starting another takes most of the time of a small one.

    Not for tests of a full disk, on which ADIOS2 ends its process.
    """

    def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
        chunks = (
            (name, array.shape, rows, np.array(array[rows]))
            for name, array in arrays.items()
            if array.size
            for rows in spool.ranges(array.shape, array.itemsize)
        )
        bp5_writer._write_here(str(folder), chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bp5, "write", write)
        yield


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
