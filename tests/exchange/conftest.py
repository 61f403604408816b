"""Data that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.dataset.read.formats import lsms

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "fept_lsms_real_all.npz"
N_REAL = 200


@pytest.fixture(scope="session")
def real_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred structures of the open data set as LSMS text, both pure crystals among them."""
    if not REAL.exists():
        pytest.skip("the open FePt data are not at ../shared/data")
    a = np.load(REAL)
    is_fe = np.unpackbits(a["fe"], axis=1).astype(bool)
    n_fe = is_fe.sum(axis=1)
    rng = np.random.default_rng(0)
    half = rng.choice(np.flatnonzero((n_fe > 14) & (n_fe < 18)), N_REAL - 2, replace=False)
    folder = tmp_path_factory.mktemp("real") / "raw"
    folder.mkdir()
    for k in [int(np.argmin(n_fe)), int(np.argmax(n_fe)), *half.tolist()]:
        z = np.where(is_fe[k], 26, 78)
        charge, moment = (a[name][k].astype(np.float64).round(6) for name in ("dq_e", "moment_mub"))
        sample = lsms.new_sample(f"out_{a['file_id'][k]}", a["energies_ry"][k], z, a["pos_bohr"], (charge + z, moment))
        (folder / sample.name).write_text(lsms.format_sample(sample))
    return folder
