"""The surrogate: the same bytes for a seed, known constants, and similarity to the real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import lsms_samples

from hydragnn_hpc.dataset.features.ewald import madelung_matrix
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.errors import UserError


def test_madelung_constants() -> None:
    """Rock salt's is 1.74756 (times 2 / a for the conventional cell); FePt's are those that the fit was made with."""
    cations = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = np.concatenate([cations, cations + np.array([0.5, 0, 0])])
    charges = np.repeat([1.0, -1.0], 4)
    for a in (4.0, 10.0):
        potential = madelung_matrix(sites * a, np.eye(3) * a) @ charges
        assert potential[0] * a / 2 == pytest.approx(-1.747565, abs=1e-6)
    matrix = surrogate.fept_lattice().madelung
    assert matrix[0, 0] == pytest.approx(-0.168078, abs=1e-6)
    assert matrix[0, 1] == pytest.approx(0.041009, abs=1e-6)


def test_a_skewed_cell_describes_the_same_crystal() -> None:
    pos, cell = surrogate.sites()
    skewed = cell.copy()
    skewed[1] += cell[0]
    np.testing.assert_allclose(madelung_matrix(pos, skewed), madelung_matrix(pos, cell), atol=1e-12)


def test_charges_are_neutral_and_follow_the_symmetry_of_the_lattice() -> None:
    lattice = surrogate.fept_lattice()
    fe = surrogate.configurations(cap=20, seed=3)
    q = surrogate.charges(fe, lattice)
    np.testing.assert_allclose(q.sum(1), 0, atol=1e-9)
    assert not q[fe.all(1) | ~fe.any(1)].any(), "pure cells carry charges"
    # A symmetry of the lattice (a shift by one cell along x) permutes the charges with the atoms.
    d = lattice.pos[:, None] - lattice.pos[None] + [surrogate.A, 0, 0]
    d -= np.round(d / np.diag(lattice.cell)) * np.diag(lattice.cell)
    shift = np.argmin(np.linalg.norm(d, axis=2), axis=1)
    np.testing.assert_allclose(surrogate.charges(fe[:, shift], lattice), q[:, shift], atol=1e-7)


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
    with pytest.raises(UserError, match=r"holds 'mine.txt'; --force replaces only LSMS text"):
        surrogate.generate(tmp_path, cap=2, seed=0, force=True)
    with pytest.raises(UserError, match="is a file"):
        surrogate.generate(tmp_path / "mine.txt", cap=2, seed=0, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_the_current_folder_is_not_pulled_from_under_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    for out in (".", "..", str(tmp_path)):
        with pytest.raises(UserError, match="is the current folder, or contains it"):
            surrogate.generate(Path(out), cap=2, seed=0, force=True)


def test_an_empty_folder_is_filled_and_data_replaced_where_forced(tmp_path: Path) -> None:
    real, link, total = tmp_path / "real", tmp_path / "link", 2 + 31 * 2
    real.mkdir()
    link.symlink_to(real)
    assert surrogate.generate(link, cap=2, seed=0) == total
    first = (real / "out_0").read_text()
    (real / "out_99999").write_text("of an earlier, larger set")
    assert surrogate.generate(link, cap=2, seed=1, force=True) == total
    assert link.is_symlink() and len(list(real.iterdir())) == total and (real / "out_0").read_text() != first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_an_interruption_leaves_nothing_new(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    surrogate.generate(out, cap=2, seed=0)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surrogate.generate(out, 2, seed=1, force=True, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_progress_counts_up_to_the_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    n = surrogate.generate(tmp_path / "raw", 25, 0, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (n, n) and len(seen) > 1 and [d for d, _ in seen] == sorted({d for d, _ in seen})
    assert capfd.readouterr() == ("", "")


def test_the_files_hold_what_the_law_gives(raw: Path) -> None:
    """Neutral cells, the pure cells' energies as given, and H from the written energies."""
    samples = lsms_samples(raw)
    lattice = surrogate.fept_lattice()
    for sample in samples[::17] + samples[-2:]:
        fe = sample.atomic_numbers == surrogate.FE
        transfer = sample.charge - sample.atomic_numbers
        assert abs(transfer.sum()) < 32 * 0.5e-6 + 1e-9
        h = sample.energies[0] - fe.mean() * surrogate.PURE_FE - (1 - fe.mean()) * surrogate.PURE_PT
        assert h == pytest.approx(surrogate.enthalpy(transfer[None], fe[None], lattice)[0], abs=1e-8)
    ends = {int(s.atomic_numbers.sum()): s for s in samples[-2:]}
    assert ends[32 * 26].energies[0] == surrogate.PURE_FE and ends[32 * 78].energies[0] == surrogate.PURE_PT
    assert not any((s.charge - s.atomic_numbers).any() for s in ends.values())


@pytest.mark.realdata
def test_close_to_the_real_data(real_archive: Path) -> None:
    """The law on every eighth real configuration. On all 32,015: RMSE of H 0.4825 Ry, C 0.0523 e, M 0.0466 μB."""
    real = np.load(real_archive.with_name("fept_lsms_real_all.npz"))
    fe = np.unpackbits(real["fe"], axis=1)[:, :32].astype(bool)[::8]
    x, lattice = fe.mean(1), surrogate.fept_lattice()
    truth = real["energies_ry"][::8, 0] - x * surrogate.PURE_FE - (1 - x) * surrogate.PURE_PT
    q = surrogate.charges(fe, lattice)
    h, m = surrogate.enthalpy(q, fe, lattice), surrogate.moments(q, fe, lattice)

    def rmse(predicted: np.ndarray, expected: np.ndarray) -> float:
        return float(np.sqrt(np.mean((predicted - expected) ** 2)))

    assert rmse(h, truth) == pytest.approx(0.473, abs=0.01)
    assert np.corrcoef(h, truth)[0, 1] > 0.9995
    assert rmse(q, real["dq_e"][::8]) == pytest.approx(0.0521, abs=0.001)
    assert rmse(m, real["moment_mub"][::8]) == pytest.approx(0.0463, abs=0.001)
    # As in the data: 0.984 and -0.989.
    assert np.corrcoef(m.sum(1), x)[0, 1] == pytest.approx(0.984, abs=0.002)
    assert np.corrcoef(h, m.sum(1))[0, 1] == pytest.approx(-0.989, abs=0.002)
