"""From raw files to the checked store and its node-local copy."""

from __future__ import annotations

import random
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import SOURCE, frame_of, lsms_samples, raw_samples

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import facts_of, prepare, structure_arrays
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.formats.lsms import format_sample, new_sample, parse_sample
from hydragnn_hpc.dataset.read.gathered import RawSamples, SampleCollector
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.staged import match
from hydragnn_hpc.dataset.staged.copies import open_staged, write_truth
from hydragnn_hpc.dataset.staged.staging import Staging, remove_abandoned
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PROPERTIES, Property, sample_names
from tests.storage import small_disk


@pytest.fixture(scope="module")
def bp(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The surrogate data, prepared."""
    path = tmp_path_factory.mktemp("bp") / "small.bp"
    prepare(raw, path, Options())
    return path


def test_the_data_set_holds_what_the_files_held(raw: Path, bp: Path) -> None:
    manifest, a = store.read(bp)
    names = sample_names(a)
    assert manifest.sizes["G"] == 1 and manifest.sizes["E"] == 206
    for position, sample in enumerate(lsms_samples(raw)):
        assert names[position] == sample.name
        atoms = slice(a["atom_offsets"][position], a["atom_offsets"][position + 1])
        np.testing.assert_array_equal(a["atomic_numbers"][atoms], sample.atomic_numbers)
        np.testing.assert_array_equal(a["target_magnetic_moment"][atoms, 0], sample.moment)
        np.testing.assert_allclose(
            a["target_charge_transfer"][atoms, 0], sample.charge - sample.atomic_numbers, atol=1e-12
        )
        x = (sample.atomic_numbers == 26).mean()
        h = sample.energies[0] - x * surrogate.PURE_FE - (1 - x) * surrogate.PURE_PT
        assert a["target_mixing_enthalpy"][position, 0] == pytest.approx(h, abs=1e-6)
    assert np.unique(a["split"]).tolist() == [0, 1, 2]


def test_the_content_does_not_depend_on_where_the_files_come_from(raw: Path, bp: Path, tmp_path: Path) -> None:
    files = sorted(raw.iterdir())
    random.Random(1).shuffle(files)
    with tarfile.open(tmp_path / "raw.tar.xz", "w:xz") as tar:
        for file in files:
            tar.add(file, file.name)
    again = prepare(tmp_path / "raw.tar.xz", tmp_path / "again.bp", Options())
    assert again.sha256 == store.read_manifest(bp).sha256
    assert prepare(raw, tmp_path / "other.bp", Options(seed=1)).sha256 != again.sha256


def test_repeated_samples_are_dropped_and_counted(raw: Path, bp: Path, tmp_path: Path) -> None:
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    shutil.copy(copy / "out_5", copy / "out_90001")
    manifest = prepare(copy, tmp_path / "x.bp", Options())
    assert manifest.plain()["source"]["repeated"] == 1
    assert manifest.sha256 == store.read_manifest(bp).sha256


def test_mixed_atom_counts_and_geometries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for k in range(60):
        n = 2 + k % 3
        z = np.full(n, 26) if k < 3 else np.full(n, 78) if k < 6 else np.where(np.arange(n) == 0, 26, 78)
        pos = rng.uniform(0, 9, (n, 3))
        sample = new_sample(f"out_{k}", rng.normal(size=3), z, pos, (z + rng.normal(size=n), rng.normal(size=n)))
        (tmp_path / "raw" / sample.name).write_text(format_sample(sample))
    manifest = prepare(tmp_path / "raw", tmp_path / "x.bp", Options(cap=0))
    assert (manifest.sizes["S"], manifest.sizes["G"], manifest.sizes["A"]) == (60, 60, 180)
    store.read(tmp_path / "x.bp")


def test_isolated_atoms_and_data_without_any_edge(tmp_path: Path) -> None:
    geometry = Geometry(np.array([[0.0, 0, 0], [50, 0, 0]]), np.zeros((3, 3)), (False,) * 3)
    z = [np.array([26, 78], np.int32)] * 3
    samples = raw_samples(["a", "b", "c"], [geometry], np.zeros(3, np.int32), z)
    arrays = structure_arrays(samples, np.arange(3, dtype=np.uint8), 7.0)
    arrays["target_mixing_enthalpy"] = np.arange(3.0)[:, None]
    store.write(tmp_path / "x.bp", arrays, facts_of(arrays, list(PROPERTIES.values()), Options(), SOURCE))
    _, again = store.read(tmp_path / "x.bp")
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    assert again["neighbours"].shape == (0,) and again["edge_vectors"].shape == (0, 3)


def test_edges_are_on_disk_while_they_are_gathered() -> None:
    """Edges make up most of a large data set."""
    rng = np.random.default_rng(0)
    cell = np.eye(3) * 14.0
    grid = np.stack(np.meshgrid(*[np.arange(4) * 3.5] * 3), axis=-1).reshape(-1, 3)
    geometries = [Geometry(grid + rng.uniform(0, 0.3, grid.shape), cell, (True,) * 3) for _ in range(60)]
    z, n = [np.full(64, 26, np.int32)] * 60, np.arange(60, dtype=np.int32)
    samples = raw_samples([f"s{k}" for k in range(60)], geometries, n, z)
    structure_arrays(samples, np.zeros(60, np.uint8), 7.0)  # so that imports and compilation are not measured
    tracemalloc.start()
    try:
        arrays = structure_arrays(samples, np.zeros(60, np.uint8), 7.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(arrays["neighbours"]) > 100_000
    assert peak < 0.5 * sum(a.nbytes for a in arrays.values())


def test_atoms_of_samples_are_on_disk_while_they_are_gathered(tmp_path: Path) -> None:
    """Apart from a kilobyte for each sample, memory does not grow with the data."""
    rng = np.random.default_rng(0)
    target = Property("charge", "node", "e", "charge")

    def collect(n: int, atoms: int) -> tuple[RawSamples, int]:
        tracemalloc.start()
        try:
            collector = SampleCollector(tmp_path)
            for k in range(n):
                geometry = Geometry(rng.uniform(0, 9, (atoms, 3)), np.eye(3) * 9.0, (True,) * 3)
                frame = frame_of(f"s{k}", geometry, np.full(atoms, 26 + k, np.int32))
                collector.add(frame, geometry, {"charge": np.full((atoms, 1), k)})
            return collector.samples([target], {"charge": 1}), tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    samples, in_use = collect(60, 20_000)  # 43 MB, in several files
    assert in_use < 2_000_000
    for k, (geometry, z, charge) in enumerate(
        zip(samples.geometries, samples.atomic_numbers, samples.values["charge"], strict=True)
    ):
        assert (z == 26 + k).all() and (charge == k).all() and charge.shape == (20_000, 1)
        assert geometry.pos.shape == (20_000, 3) and 0 <= geometry.pos.min() < geometry.pos.max() < 9
    assert not list(tmp_path.iterdir())


def test_a_missing_spool_folder_is_reported(tmp_path: Path) -> None:
    geometry = Geometry(np.zeros((1, 3)), np.eye(3), (True,) * 3)
    with pytest.raises(UserError, match=r"cannot write .*gone: No such file or directory; free space, check"):
        SampleCollector(tmp_path / "gone").add(frame_of("s", geometry, np.array([26], np.int32)), geometry, {})


def test_periodic_needs_a_cell(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --cell"):
        prepare(raw, tmp_path / "x.bp", Options(periodic=True))
    cell = tuple(surrogate.sites()[1].ravel().tolist())
    assert prepare(raw, tmp_path / "x.bp", Options(periodic=True, cell=cell)).sizes["E"] == 384


def test_scaling_over_the_training_set(raw: Path, tmp_path: Path) -> None:
    manifest = prepare(raw, tmp_path / "x.bp", Options(scale_over="train"))
    _, a = store.read(tmp_path / "x.bp")
    h = a["target_mixing_enthalpy"][a["split"] == 0]
    assert manifest.targets["mixing_enthalpy"].minimum == h.min(0).tolist()
    assert manifest.targets["mixing_enthalpy"].maximum == h.max(0).tolist()


def campaign(dataset: Path, **changes: Any) -> Campaign:
    """A campaign of one task on the data set."""
    content = {
        "name": "x",
        "dataset": str(dataset),
        "tasks": {"H": {"level": "graph", "field": "mixing_enthalpy"}},
        "variants": ["H"],
    }
    return parse_campaign({**content, **changes}, "test")


def test_a_campaign_is_checked_against_its_data_set(raw: Path, bp: Path, tmp_path: Path) -> None:
    manifest = store.read_manifest(bp)
    match.check(campaign(bp), manifest)
    wrong = {
        "did you mean 'mixing_enthalpy'": {"tasks": {"H": {"level": "graph", "field": "mixing_entalpy"}}},
        "tasks.H.level=graph": {"tasks": {"H": {"level": "node", "field": "mixing_enthalpy"}}},
        "batch_size=64": {"training": {"batch_size": 100_000}},
        "cannot be used: it supports only PNA": {"training": {"engine": "fused"}, "model": {"convolution": "GIN"}},
    }
    for message, changes in wrong.items():
        with pytest.raises(UserError, match=message):
            match.check(campaign(bp, **changes), manifest)
    (tmp_path / "raw").mkdir()
    for file in raw.iterdir():
        sample = parse_sample(file.read_bytes(), str(file))
        sample.table[:, 6] = 0.25
        (tmp_path / "raw" / file.name).write_text(format_sample(sample))
    constant = prepare(tmp_path / "raw", tmp_path / "constant.bp", Options())
    tasks = {"H": {"level": "node", "field": "magnetic_moment"}}
    with pytest.raises(UserError, match=r"task 'H': target 'magnetic_moment' is constant \(0.25 μB\)"):
        match.check(campaign(bp, tasks=tasks), constant)
    planar = manifest.targets["magnetic_moment"].model_copy(update={"minimum": [0.0, 2.0], "maximum": [1.0, 2.0]})
    partly = manifest.model_copy(update={"targets": {"magnetic_moment": planar}})
    with pytest.raises(UserError, match=r"component 1 of target 'magnetic_moment' is constant \(2 μB\)"):
        match.check(campaign(bp, tasks=tasks), partly)


def test_existing_data_is_not_overwritten(raw: Path, bp: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small.bp"
    shutil.copytree(bp, copy)
    with pytest.raises(UserError, match="--force"):
        prepare(raw, copy, Options(seed=3))
    assert store.read(copy)[0].sha256 == store.read_manifest(bp).sha256
    assert prepare(raw, copy, Options(seed=3), force=True).sha256 == store.read(copy)[0].sha256
    (tmp_path / "mine.bp").mkdir()
    with pytest.raises(UserError, match="remove it by hand"):
        prepare(raw, tmp_path / "mine.bp", Options(), force=True)
    with pytest.raises(UserError, match=r"ends in \.bp"):
        prepare(raw, tmp_path / "data", Options())


def test_anything_but_a_data_set_is_refused(tmp_path: Path) -> None:
    for name, message in (("missing.bp", "no such data set"), ("file.bp", "is a file"), ("folder.bp", "manifest.json")):
        path = tmp_path / name
        if name.startswith("file"):
            path.write_text("x")
        elif name.startswith("folder"):
            path.mkdir()
        with pytest.raises(UserError, match=message):
            store.read(path)


def test_a_full_disk_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "100k") as disk:
        with pytest.raises(UserError, match="cannot write"):
            prepare(raw, disk / "x.bp", Options())
        assert not list(disk.iterdir())


def test_the_node_local_copy_is_scaled_and_shared(bp: Path, tmp_path: Path) -> None:
    with Staging(bp, tmp_path) as staging:
        staged = open_staged(staging.folder)
        manifest, arrays = store.read(bp)
        for name, array in arrays.items():
            np.testing.assert_array_equal(staged.arrays[name], array)
        for name in manifest.targets:
            scaled = staged.arrays[f"scaled_{name}"]
            assert scaled.dtype == np.float32 and scaled.min() == 0 and scaled.max() == 1
        assert set(np.unique(staged.arrays["node_inputs"])) == {0.0, 1.0}
        assert not staged.arrays["pos"].flags.writeable
        assert staging.folder.stat().st_mode & 0o077 == 0
        assert remove_abandoned(tmp_path) == 0, "a living run's copy was removed"
        write_truth(staged, 2, tmp_path / "test_set.npz")
    assert not list(tmp_path.glob("hydragnn-hpc-*"))
    test = np.load(tmp_path / "test_set.npz", allow_pickle=False)
    chosen = np.flatnonzero(arrays["split"] == 2)
    np.testing.assert_array_equal(test["sample"], chosen)
    np.testing.assert_array_equal(test["mixing_enthalpy"], arrays["target_mixing_enthalpy"][chosen])
    assert test["magnetic_moment"].shape == (32 * len(chosen), 1)


def test_the_copying_child_reports_a_damaged_data_set(bp: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small.bp"
    shutil.copytree(bp, copy)
    (copy / "data.0").write_bytes((copy / "data.0").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"data\.0 has .* bytes, expected"), Staging(copy, tmp_path):
        pass
    assert not list(tmp_path.glob("hydragnn-hpc-*"))
