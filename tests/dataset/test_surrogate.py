"""The surrogate: the same bytes for a seed, the known constants, and close to the real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.dataset import surrogate
from hydragnn_hpc.errors import UserError


def test_madelung_constants() -> None:
    """Rock salt's is 1.74756 (times 2 / a for the conventional cell); the lattice's two from its source."""
    cations = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = np.concatenate([cations, cations + np.array([0.5, 0, 0])])
    charges = np.repeat([1.0, -1.0], 4)
    for a in (4.0, 10.0):
        potential = surrogate.madelung_matrix(sites * a, np.eye(3) * a) @ charges
        assert potential[0] * a / 2 == pytest.approx(-1.747565, abs=1e-6)
    matrix = surrogate.lattice().madelung
    assert matrix[0, 0] == pytest.approx(-0.168078, abs=1e-6)
    assert matrix[0, 1] == pytest.approx(0.041009, abs=1e-6)


def test_a_skewed_cell_describes_the_same_crystal() -> None:
    pos, cell = surrogate.sites()
    skewed = cell.copy()
    skewed[1] += cell[0]
    np.testing.assert_allclose(surrogate.madelung_matrix(pos, skewed), surrogate.madelung_matrix(pos, cell), atol=1e-12)


def test_charges_solve_their_law_and_are_neutral() -> None:
    on = surrogate.lattice()
    fe = surrogate.configurations(cap=20, seed=3)
    q = surrogate.charges(fe, on)
    np.testing.assert_allclose(q.sum(1), 0, atol=1e-9)
    assert not q[fe.all(1) | ~fe.any(1)].any(), "pure cells carry charges"
    # A symmetry of the lattice (a shift by one cell along x) permutes the charges with the atoms.
    d = on.pos[:, None] - on.pos[None] + [surrogate.A, 0, 0]
    d -= np.round(d / np.diag(on.cell)) * np.diag(on.cell)
    shift = np.argmin(np.linalg.norm(d, axis=2), axis=1)
    np.testing.assert_allclose(surrogate.charges(fe[:, shift], on), q[:, shift], atol=1e-7)


def test_same_seed_same_bytes_and_every_configuration_once(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        surrogate.generate(tmp_path / name, cap=10, seed=seed)
    content = {n: {p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "abc"}
    assert content["a"] == content["b"] != content["c"]
    fe = surrogate.configurations(cap=40, seed=0)
    assert len(np.unique(fe, axis=0)) == len(fe)
    assert np.bincount(fe.sum(1)).tolist() == [1, 32, *[40] * 29, 32, 1]


def test_full_size() -> None:
    assert len(surrogate.configurations(cap=1000, seed=0)) == 28_058


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists and is not empty"):
        surrogate.generate(tmp_path, cap=2, seed=0)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with pytest.raises(UserError, match="--cap 0"):
        surrogate.generate(tmp_path / "new", cap=0, seed=0)


@pytest.mark.realdata
def test_close_to_the_real_data(real_archive: Path) -> None:
    real = np.load(real_archive.with_name("fept_lsms_real_all.npz"))
    fe = np.unpackbits(real["fe"], axis=1)[:, :32].astype(bool)[::8]
    x, on = fe.mean(1), surrogate.lattice()
    truth = real["energies_ry"][::8, 0] - x * surrogate.PURE_FE - (1 - x) * surrogate.PURE_PT
    q = surrogate.charges(fe, on)
    h = surrogate.enthalpy(q, fe, on)
    assert np.sqrt(np.mean((h - truth) ** 2)) < 0.55
    assert np.corrcoef(h, truth)[0, 1] > 0.999
    assert np.sqrt(np.mean((surrogate.moments(q, fe, on) - real["moment_mub"][::8]) ** 2)) < 0.06
