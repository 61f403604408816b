"""The surrogate alloys: identities of their physics, their files, and data sets prepared from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import lsms_samples

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build import convert
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.generate import alloys, surrogate
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError

pytestmark = pytest.mark.usefixtures("written_here")

SIZES = alloys.parse_sizes("1x1x1,2x1x1")


def generate(out: Path, system: str, seed: int = 0, cap: int = 2) -> int:
    """Write a surrogate of two sizes; return the number of structures."""
    return alloys.write(out, alloys.structures(alloys.SYSTEMS[system], cap, seed, SIZES))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_forces_are_the_slope_of_the_energy_and_charges_neutral(seed: int) -> None:
    structures = list(alloys.structures(alloys.SYSTEMS["ternary"], 1, seed, SIZES))
    z, pos, cell = structures[seed % len(structures)]
    _, forces, charge = alloys.properties(z, pos, cell)
    assert abs(charge.sum()) < 1e-12 and np.abs(forces.sum(axis=0)).max() < 1e-12
    rng = np.random.default_rng(seed)
    step = rng.normal(size=pos.shape) * 1e-4
    up, down = (alloys.properties(z, pos + sign * step, cell)[0] for sign in (1, -1))
    assert -(up - down) / 2 == pytest.approx(float((forces * step).sum()), abs=1e-9)
    # Two cells side by side have twice the energy.
    double = np.concatenate([pos, pos + cell[0]])
    twice = alloys.properties(np.tile(z, 2), double, np.diag([2.0, 1, 1]) @ cell)
    assert twice[0] == pytest.approx(2 * alloys.properties(z, pos, cell)[0], abs=1e-9)


@pytest.mark.parametrize(("z", "cohesion"), [(29, -3.50), (47, -2.96), (79, -3.78)])
def test_pure_metals_bind_as_the_potential_was_fitted_to(z: int, cohesion: float) -> None:
    """Cohesive energies (eV per atom) that Cleri & Rosato fitted; the shorter range costs a few hundredths."""
    pure = [s for s in alloys.structures((z, z), 1, 0, ((1, 1, 1),)) if len(set(s[0].tolist())) == 1]
    assert alloys.properties(*pure[0])[0] / 4 == pytest.approx(cohesion, abs=0.05)


def test_same_seed_same_bytes_and_an_existing_file_is_kept(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(tmp_path / f"{name}.extxyz", "ternary", seed)
    a, b, c = ((tmp_path / f"{name}.extxyz").read_bytes() for name in "abc")
    assert a == b != c
    with pytest.raises(UserError, match="--force"):
        generate(tmp_path / "a.extxyz", "CuAu")
    assert (tmp_path / "a.extxyz").read_bytes() == a


def test_the_fept_surrogate_stays_what_it_was(tmp_path: Path) -> None:
    """Campaigns were trained on it: a change of a byte is a change of the interface."""
    surrogate.generate(tmp_path / "raw", cap=3, seed=0)
    digest = hashlib.sha256()
    for k in range(95):
        header, _, atoms = (tmp_path / "raw" / f"out_{k}").read_text().partition("\n")
        # The header's last digits are beyond a double's, and another machine's libraries may round them otherwise.
        digest.update(" ".join(f"{float(word):.5f}" for word in header.split()).encode() + atoms.encode())
    assert not (tmp_path / "raw" / "out_95").exists()
    assert digest.hexdigest() == "695be89e8920e39414ccce10b8af7ded61e95ea3db96da1558616614cfc93ec3"


def test_ase_reads_what_was_computed(tmp_path: Path) -> None:
    count = generate(tmp_path / "a.extxyz", "CuAu", seed=3)
    read = ase.io.read(tmp_path / "a.extxyz", index=":")
    made = list(alloys.structures(alloys.SYSTEMS["CuAu"], 2, 3, SIZES))
    assert len(read) == len(made) == count
    for atoms, (z, pos, cell) in zip(read, made, strict=True):
        np.testing.assert_array_equal(atoms.numbers, z)
        np.testing.assert_array_equal(atoms.positions, pos)
        np.testing.assert_array_equal(atoms.cell.array, cell)
        assert atoms.pbc.all()
        energy, forces, charge = alloys.properties(z, pos, cell)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-6)
        np.testing.assert_allclose(atoms.get_charges(), charge, atol=1e-6)


def test_a_ternary_of_several_sizes_is_split_by_composition(tmp_path: Path) -> None:
    generate(tmp_path / "a.extxyz", "ternary", cap=8)
    targets = ["mixing_enthalpy=mixing:energy:eV", "forces=node:forces:eV/Ang", "q=node:charge:e"]
    manifest = prepare(tmp_path / "a.extxyz", tmp_path / "x.bp", Options(targets=parse_targets(targets)))
    source = manifest.plain()["source"]
    assert source["species"] == [29, 47, 79] and source["end_members"].keys() == {"29", "47", "79"}
    _, a = store.read(tmp_path / "x.bp")
    assert set(np.diff(a["atom_offsets"]).tolist()) == {4, 8}
    counts = np.stack([np.add.reduceat(a["atomic_numbers"] == z, a["atom_offsets"][:-1], dtype=int)
                       for z in source["species"]], axis=1)  # fmt: skip
    for composition in np.unique(counts, axis=0):
        chosen = (counts == composition).all(axis=1)
        if chosen.sum() == 8:
            assert np.bincount(a["split"][chosen], minlength=3).tolist() == [6, 1, 1]
    h = a["target_mixing_enthalpy"][:, 0]
    pure = (counts > 0).sum(axis=1) == 1
    assert np.abs(h[pure]).max() < 1e-9
    assert manifest.targets["forces"].width == 3


def test_fept_as_extended_xyz_is_the_lsms_text(tmp_path: Path) -> None:
    assert convert.generate_fept(tmp_path / "a.extxyz", 3, 0) == 95
    surrogate.generate(tmp_path / "raw", 3, 0)
    read = ase.io.read(tmp_path / "a.extxyz", index=":")
    for atoms, sample in zip(read, lsms_samples(tmp_path / "raw"), strict=True):
        assert atoms.info["total_energy"] == sample.energies[0] and atoms.pbc.all()
        np.testing.assert_allclose(atoms.get_charges(), sample.charge, rtol=0, atol=1e-13)


@pytest.mark.parametrize("text", ["", "2x2", "0x1x1", "1x1x1,1x1x1", "axbxc", "20x20x20"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--sizes"):
        alloys.parse_sizes(text)
