"""The distribution of a data set, which ``data info`` shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from synthetic import alloys, write_raw

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build import distribution
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read.options import Options


def test_bins_and_moments_of_known_values() -> None:
    z = np.array([26] * 5 + [26, 78, 78, 78, 78] + [26, 26, 26, 26, 78] + [78] * 5, np.int32)
    arrays = {"atomic_numbers": z, "atom_offsets": np.arange(5) * 5}
    arrays["target_a"] = np.array([[1.0, np.nan], [3.0, 2.0], [5.0, np.nan], [7.0, 4.0]])
    found = distribution.describe(arrays, ["a"]).model_dump()
    # Shares of iron: 1, 1/5 (its bin's upper end), 4/5 (likewise), 0.
    assert found["elements"] == {"26": [1, 1, 0, 0, 1, 0, 1], "78": [1, 1, 0, 0, 1, 0, 1]}
    assert found["targets"]["a"] == {"mean": [4.0, 3.0], "std": [np.sqrt(5.0), 1.0], "missing": [0, 2]}
    assert found["atoms"] == {"minimum": 5, "mean": 5.0, "maximum": 5}


def test_the_manifest_holds_the_distribution(tmp_path: Path) -> None:
    manifest = prepare(write_raw(tmp_path / "raw", alloys(120)), tmp_path / "x.bp", Options())
    kept = manifest.plain()["distribution"]
    _, arrays = store.read(tmp_path / "x.bp")
    assert kept == distribution.describe(arrays, manifest.targets).model_dump()
    assert all(sum(counts) == manifest.sizes["S"] for counts in kept["elements"].values())
