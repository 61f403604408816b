"""Every sample of a data set leads back to its structure in the source, also where names are equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alloy_frames import frames, write
from synthetic import arrays as synthetic_arrays
from synthetic import facts as synthetic_facts
from synthetic import remarks_of

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build import resplit
from hydragnn_hpc.dataset.build.convert import convert
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read import formats
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.dataset.staged import copies
from hydragnn_hpc.errors import UserError

pytestmark = pytest.mark.usefixtures("written_here")

NONE = Options(cutoff=0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Forty structures of one name: the second cannot be used, the sixth repeats the first, one has an outlier."""
    made = frames()
    made[5] = made[0].copy()
    for number, atoms in enumerate(made):
        atoms.info |= {"name": "same", "value": 1e9 if number == 20 else float(number % 7)}
    made[1].info["value"] = "bad"
    return write(tmp_path / "raw.extxyz", made)


def check(arrays: dict[str, np.ndarray], source: Path) -> None:
    """Assert that every sample has the elements, positions and value of the structure that its number names."""
    found = [f for f in formats.iter_frames(source, "extxyz") if isinstance(f, Frame)]
    for k, index in enumerate(arrays["source_index"].tolist()):
        first, last = arrays["atom_offsets"][k : k + 2]
        np.testing.assert_array_equal(arrays["atomic_numbers"][first:last], found[index].atomic_numbers)
        assert arrays["target_value"][k, 0] == found[index].values["value"]
        start = arrays["geometry_atom_offsets"][arrays["sample_geometry"][k]]
        np.testing.assert_array_equal(arrays["pos"][start : start + last - first], found[index].pos)


def test_each_sample_has_its_number_in_the_source_on_every_path(source: Path, tmp_path: Path) -> None:
    targets = parse_targets(["value=graph:value:eV"])
    options = Options(targets=targets, cap=3, on_error="skip", on_outlier="skip")
    manifest = prepare(source, tmp_path / "a.bp", options)
    arrays = store.read(tmp_path / "a.bp")[1]
    check(arrays, source)
    numbers = arrays["source_index"].tolist()
    assert len(set(numbers)) == len(numbers) < 38 and not {1, 5, 20} & set(numbers) and numbers != sorted(numbers)
    assert manifest.arrays["source_index"].dtype == "int64"

    resplit.split(tmp_path / "a.bp", tmp_path / "split.bp", resplit.SplitOptions(by="random", seed=4))
    again = store.read(tmp_path / "split.bp")[1]
    np.testing.assert_array_equal(again["source_index"], numbers)

    convert(tmp_path / "a.bp", tmp_path / "a.extxyz", NONE)
    written = [f for f in formats.iter_frames(tmp_path / "a.extxyz", "extxyz") if isinstance(f, Frame)]
    assert [f.values["source_index"] for f in written] == numbers
    convert(tmp_path / "a.extxyz", tmp_path / "back.bp", NONE)
    np.testing.assert_array_equal(store.read(tmp_path / "back.bp")[1]["source_index"], numbers)
    # Prepared again, the file itself is the source.
    prepare(tmp_path / "a.extxyz", tmp_path / "new.bp", Options(targets=targets))
    assert sorted(store.read(tmp_path / "new.bp")[1]["source_index"]) == list(range(len(numbers)))

    (tmp_path / "staged").mkdir(mode=0o700)
    copies.copy(tmp_path / "a.bp", tmp_path / "staged")
    for part in (1, 2):
        copies.write_truth(copies.open_staged(tmp_path / "staged"), part, tmp_path / "truth.npz")
        truth = np.load(tmp_path / "truth.npz")
        np.testing.assert_array_equal(truth["source_index"], arrays["source_index"][truth["sample"]])


def test_remarks_name_the_structure_where_names_are_equal(source: Path, tmp_path: Path) -> None:
    options = Options(targets=parse_targets(["value=graph:value:eV"]), on_error="skip")
    remarks = remarks_of(prepare(source, tmp_path / "a.bp", options))
    assert "same (structure 20 of the source)" in remarks["outliers"]


def test_a_data_set_without_numbers_is_the_same_one(tmp_path: Path) -> None:
    """Older data sets open, and have the hash that a new one of the same content has."""
    arrays = synthetic_arrays()
    new = store.write(tmp_path / "new.bp", arrays, synthetic_facts(arrays))
    del arrays["source_index"]
    old = store.write(tmp_path / "old.bp", arrays, synthetic_facts(arrays))
    assert old.sha256 == new.sha256 and "source_index" not in old.arrays
    assert store.read(tmp_path / "old.bp")[1].keys() == arrays.keys()
    (tmp_path / "staged").mkdir(mode=0o700)
    copies.copy(tmp_path / "old.bp", tmp_path / "staged")
    copies.write_truth(copies.open_staged(tmp_path / "staged"), 2, tmp_path / "truth.npz")
    assert "source_index" not in np.load(tmp_path / "truth.npz")
    convert(tmp_path / "old.bp", tmp_path / "old.extxyz", NONE)
    assert "source_index" not in (tmp_path / "old.extxyz").read_text()


@pytest.mark.parametrize("name", ["source_index", "names", "sample", "atom_offsets", "atomic_numbers"])
def test_a_target_cannot_have_the_name_of_what_is_stored_beside_it(name: str) -> None:
    with pytest.raises(UserError, match=f"--target {name}=.*files of true values.*rename the target"):
        parse_targets([f"{name}=graph:value:eV"])
