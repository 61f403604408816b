"""Symmetry groups of lattices and clusters, compared with textbooks, and the classes that follow from them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc.dataset import store, symmetry
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.build.resplit import SplitOptions, split
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.errors import UserError

pytestmark = pytest.mark.usefixtures("written_here")

ALL, NONE = (True, True, True), (False, False, False)
FEPT = (20.872, 0, 0, 0, 10.436, 0, 0, 0, 14.116)  # the cell of the FePt data, bohr


def crystal(atoms: Atoms) -> Geometry:
    return Geometry(atoms.positions, np.asarray(atoms.cell.array), tuple(map(bool, atoms.pbc)))


def cluster(name: str) -> Geometry:
    return Geometry(molecule(name).positions, np.zeros((3, 3)), NONE)


def cube(n: int, periodic: tuple[bool, bool, bool] = ALL) -> Geometry:
    return Geometry(np.array(list(product(range(n), repeat=3))) * 4.0, np.eye(3) * 4.0 * n, periodic)


def layer(n: int) -> Geometry:
    pos = np.array([(i, j, 0) for i in range(n) for j in range(n)]) * 4.0
    return Geometry(pos, np.diag([4.0 * n, 4.0 * n, 0]), (True, True, False))


@pytest.mark.parametrize(
    ("geometry", "operations"),
    [
        (cube(3), 48 * 27),  # point group m-3m, times 27 shifts
        (cube(2), 48),  # mirrors move nothing, since -x = x modulo 2: 6 permutations of the axes times 8 shifts
        (cube(2, NONE), 48),
        (layer(3), 8 * 9),  # p4mm; the mirror in the plane moves nothing
        (crystal(bulk("Cu", cubic=True)), 24),  # any permutation of the 4 sites
        (crystal(bulk("Mg", "hcp", a=3.2, c=5.2)), 2),
        (crystal(bulk("Cu") * (3, 3, 3)), 48 * 27),
        (crystal(graphene(size=(3, 3, 1), vacuum=None)), 12 * 9),  # p6mm
        (Geometry(*surrogate.sites(), ALL), 8 * 32),  # mmm, times 32 shifts of the body-centred lattice
        (cluster("CH4"), 24),
        (cluster("H2O"), 2),
        (cluster("CO2"), 2),
        (cluster("C6H6"), 12),  # of 24, the mirror in the plane moves nothing
        (Geometry(np.zeros((1, 3)), np.eye(3), ALL), 1),
        (Geometry(np.array([[0, 0, 0], [0, 0, 2.0], [0, 0.1, 5.0]]), np.diag([0, 0, 9.0]), (False, False, True)), 1),
        (Geometry(np.array([[0, 0, 0], [0, 0, 3.0], [0, 0, 6.0]]), np.diag([0, 0, 9.0]), (False, False, True)), 6),
    ],
)
def test_groups_have_the_known_order(geometry: Geometry, operations: int) -> None:
    # Species are ignored: the sites of hydrogen and oxygen in water differ by geometry alone.
    found = symmetry.site_permutations(geometry)
    assert len(found) == operations
    rows = {tuple(p) for p in found.tolist()}
    assert tuple(range(len(geometry.pos))) in rows
    some = found[:: max(1, len(found) // 12)]
    assert all(tuple(a[b].tolist()) in rows for a in some for b in some), "not a group"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_group_is_of_the_crystal_not_of_its_description(seed: int) -> None:
    """Another origin, orientation, choice of lattice vectors, and images of the sites: the same permutations."""
    rng = np.random.default_rng(seed)
    plain = Geometry(*surrogate.sites(), ALL)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    skew = np.eye(3)
    skew[1, 0], skew[2, 0], skew[2, 1] = rng.integers(-3, 4, 3)
    pos = plain.pos + rng.integers(-2, 3, (32, 3)) @ plain.cell + rng.normal(size=3)
    other = Geometry(pos @ rotation, skew @ plain.cell @ rotation, ALL)
    np.testing.assert_array_equal(symmetry.site_permutations(other), symmetry.site_permutations(plain))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 31))
def test_equivalent_decorations_are_of_one_class_and_others_are_not(seed: int, n_iron: int) -> None:
    rng = np.random.default_rng(seed)
    geometry = Geometry(*surrogate.sites(), ALL)
    group = symmetry.site_permutations(geometry)
    z = np.where(rng.permutation(32) < n_iron, 26, 78)
    same = z[group[rng.integers(len(group))]]
    other = np.where(rng.permutation(32) < n_iron, 26, 78)
    offsets = np.arange(4) * 32
    found = symmetry.classes([geometry], np.zeros(3, np.int32), np.concatenate([z, same, other]), offsets)
    assert found[0] == found[1]
    assert (found[2] == found[0]) == bool((z[group] == other).all(axis=1).any())


def test_samples_of_different_geometries_are_of_different_classes() -> None:
    one, other = cube(2), cube(2, NONE)
    z = np.tile([26, 26, 26, 26, 78, 78, 78, 78], 3)
    found = symmetry.classes([one, other], np.array([0, 1, 0], np.int32), z, np.arange(4) * 8)
    assert found[0] == found[2] != found[1]


@pytest.fixture(scope="module")
def bp(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The surrogate with an open graph, split by composition; many of its samples are equivalent."""
    path = tmp_path_factory.mktemp("bp") / "small.bp"
    prepare(raw, path, Options(cap=40))
    return path


def test_no_class_is_split(bp: Path, tmp_path: Path) -> None:
    manifest, found = split(bp, tmp_path / "x.bp", SplitOptions(by="symmetry", cell=FEPT))
    assert found.before > 0 == found.after and found.classes < manifest.sizes["S"]
    _, a = store.read(tmp_path / "x.bp")
    classes = symmetry.classes_of(a, FEPT)
    for c in np.unique(classes):
        assert len(np.unique(a["split"][classes == c])) == 1
    _, old = store.read(bp)
    for name in old:
        if name != "split":
            np.testing.assert_array_equal(a[name], old[name])
    assert manifest.targets == store.read_manifest(bp).targets  # scaled over all, whatever the split
    source = manifest.plain()["source"]
    assert source["split_by"] == "symmetry" and source["split_again_from"] == store.read_manifest(bp).sha256
    n_iron = np.add.reduceat(a["atomic_numbers"] == 26, a["atom_offsets"][:-1], dtype=int)
    for n in np.unique(n_iron):
        chosen = n_iron == n
        if len(np.unique(classes[chosen])) > 8:
            share = (a["split"][chosen] == 0).mean()
            assert 0.55 <= share <= 0.85, f"{n} iron atoms: {share:.2f} of the samples are in the training set"


def test_preparing_by_symmetry_gives_the_same_split_as_splitting_again(raw: Path, bp: Path, tmp_path: Path) -> None:
    split(bp, tmp_path / "x.bp", SplitOptions(by="symmetry", cell=FEPT, seed=3))
    prepare(raw, tmp_path / "y.bp", Options(cap=40, split_by="symmetry", cell=FEPT, seed=0))
    again, _ = split(bp, tmp_path / "z.bp", SplitOptions(by="symmetry", cell=FEPT))
    (_, y), (_, z) = store.read(tmp_path / "y.bp"), store.read(tmp_path / "z.bp")
    np.testing.assert_array_equal(y["split"], z["split"])
    assert again.sha256 != store.read_manifest(tmp_path / "x.bp").sha256


def test_a_new_split_uses_the_period_that_the_data_set_states(raw: Path, bp: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "x.bp", Options(cap=40, cell=FEPT))
    _, with_period = split(tmp_path / "x.bp", tmp_path / "y.bp", SplitOptions(by="symmetry"))
    _, without = split(bp, tmp_path / "z.bp", SplitOptions(by="symmetry"))
    assert with_period.classes < without.classes
    manifest, _ = split(bp, tmp_path / "again.bp", SplitOptions(by="symmetry", cell=FEPT))
    _, again = split(tmp_path / "again.bp", tmp_path / "other.bp", SplitOptions(by="symmetry", seed=1))
    assert again.classes == with_period.classes and manifest.source.cell == list(FEPT)


def test_scaling_over_the_training_part_follows_the_split(bp: Path, tmp_path: Path) -> None:
    manifest, _ = split(bp, tmp_path / "x.bp", SplitOptions(by="random", seed=5, scale_over="train"))
    _, a = store.read(tmp_path / "x.bp")
    h = a["target_mixing_enthalpy"][a["split"] == 0]
    target = manifest.targets["mixing_enthalpy"]
    assert (target.minimum, target.maximum) == (h.min(0).tolist(), h.max(0).tolist())
    assert manifest.scaled_over == "train"
    back, _ = split(tmp_path / "x.bp", tmp_path / "y.bp", SplitOptions(scale_over="all"))
    assert back.sha256 == store.read_manifest(bp).sha256, "the same choice does not give the same data set back"
    assert manifest.split == pytest.approx([len(a["split"]) * f for f in (0.7, 0.15, 0.15)], abs=1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (SplitOptions(by="symetry"), "did you mean 'symmetry'"),
        (SplitOptions(fractions=(0.9, 0.2, 0.1)), "--fractions"),
        (SplitOptions(by="symmetry", cell=(1.0, *FEPT[1:])), "bohr apart in the cell of --cell"),
        (SplitOptions(by="symmetry", cell=(0.0,) * 9), "cell with a volume"),
    ],
)
def test_options_that_do_not_fit_are_reported(bp: Path, tmp_path: Path, choice: SplitOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(bp, tmp_path / "x.bp", choice)
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
@pytest.mark.slow
def test_the_open_data_have_the_known_number_of_classes(real_bp: Path, tmp_path: Path) -> None:
    _, found = split(real_bp, tmp_path / "x.bp", SplitOptions(by="symmetry", cell=FEPT))
    assert found.classes == 22_479 and found.after == 0
    assert 850 < found.before < 1050
