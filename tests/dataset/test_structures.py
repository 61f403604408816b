"""Extended XYZ and ASE databases, as ASE writes them or damaged, become data sets or one clear line."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import ase.db
import ase.io
import numpy as np
import pytest
from alloy_frames import PURE, frames, write
from ase import Atoms

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read import sources
from hydragnn_hpc.dataset.read.compression import is_compressed
from hydragnn_hpc.dataset.read.formats import detect, extxyz, iter_frames
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import BOHR_IN_ANGSTROM, RYDBERG_IN_EV

pytestmark = pytest.mark.usefixtures("written_here")

TARGETS = parse_targets(
    ["energy=graph:energy:eV", "forces=node:forces:eV/Ang:force", "dipole=graph:dipole_moment:e*Ang", "q=node:bader:e"]
)
OPTIONS = Options(targets=TARGETS, fractions=(0.5, 0.25, 0.25))


def database(path: Path, made: list[Atoms]) -> Path:
    """Write an ASE database; what ASE keeps no column for goes into its data."""
    with ase.db.connect(path) as db:
        for atoms in made:
            data = {"dipole_moment": atoms.info["dipole_moment"], "bader": atoms.arrays["bader"]}
            db.write(atoms, data=data)
    return path


def folder_of(path: Path, made: list[Atoms]) -> Path:
    for k in range(0, len(made), 7):
        write(path / f"part_{k}.extxyz", made[k : k + 7])
    return path


def tar_of(path: Path, made: list[Atoms]) -> Path:
    folder = folder_of(path.with_suffix(".parts"), made)
    with tarfile.open(path, "w:xz") as tar:
        tar.add(folder, "deep")
    return path


def compressed(path: Path, made: list[Atoms]) -> Path:
    plain = write(path.with_suffix(".xyz"), made)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def tar_of_database(path: Path, made: list[Atoms]) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(database(path.with_suffix(".db"), made), "a.db")
    return path


@pytest.mark.parametrize(
    ("make", "name", "form"),
    [
        (write, "a.extxyz", "extxyz"),
        (write, "whatever", "extxyz"),
        (folder_of, "folder", "extxyz"),
        (tar_of, "a.tar", "extxyz"),
        (compressed, "a.gz", "extxyz"),
        (database, "a.db", "ase-db"),
        (database, "a.json", "ase-db"),
        (tar_of_database, "a.tar", "ase-db"),
    ],
)
def test_every_source_gives_what_was_written(make: Callable, name: str, form: str, tmp_path: Path) -> None:
    made = frames()
    source = make(tmp_path / name, made)
    assert detect(source) == form
    manifest = prepare(source, tmp_path / "x.bp", OPTIONS)
    assert manifest.plain()["source"]["format"] == form and manifest.sizes["S"] == manifest.sizes["G"] == len(made)
    assert manifest.plain()["neighbours"]["boundary"] == "periodic"
    assert manifest.targets["forces"].model_dump() | {"minimum": 0, "maximum": 0} == {
        "level": "node", "unit": "eV/Å", "label": "force", "width": 3, "missing": 0, "minimum": 0, "maximum": 0,
    }  # fmt: skip
    assert manifest.targets["dipole"].unit == "e*Å" and manifest.targets["dipole"].width == 3
    _, a = store.read(tmp_path / "x.bp")
    np.testing.assert_array_equal(a["atomic_numbers"], np.concatenate([m.numbers for m in made]))
    digits = 1e-7 if form == "extxyz" else 1e-12  # ASE writes 8 decimals of positions
    np.testing.assert_allclose(a["pos"] * BOHR_IN_ANGSTROM, np.concatenate([m.positions for m in made]), atol=digits)
    np.testing.assert_allclose(a["cell"] * BOHR_IN_ANGSTROM, [m.cell.array for m in made], atol=1e-12)
    for key, expected in (
        ("energy", [[m.get_potential_energy()] for m in made]),
        ("forces", np.concatenate([m.get_forces() for m in made])),
        ("dipole", [m.info["dipole_moment"] for m in made]),
        ("q", np.concatenate([m.arrays["bader"] for m in made])[:, None]),
    ):
        np.testing.assert_allclose(a[f"target_{key}"], expected, atol=1e-7)


def test_neighbours_under_the_files_own_boundary(tmp_path: Path) -> None:
    """Bulk, slab and molecule in one file: each along its own axes; held to a sum over explicit images."""
    made = [a for p in ((1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)) for a in frames(12, sum(p), tuple(map(bool, p)))]
    for atoms in made[12:24]:
        atoms.cell[2] = 0  # a slab often has no third vector
    made[-1].cell[:] = 0
    bp = tmp_path / "x.bp"
    manifest = prepare(write(tmp_path / "a.xyz", made), bp, OPTIONS)
    assert manifest.plain()["neighbours"]["boundary"] == "mixed"
    _, a = store.read(bp)
    for g in range(manifest.sizes["G"]):
        sites = slice(*a["geometry_atom_offsets"][g : g + 2])
        pos, cell, periodic = a["pos"][sites], a["cell"][g], a["periodic"][g]
        reach = [range(-4, 5) if p else (0,) for p in periodic]
        shifts = np.array([(i, j, k) for i in reach[0] for j in reach[1] for k in reach[2]]) @ cell
        d = np.linalg.norm(pos[None, :, None] + shifts - pos[:, None, None], axis=-1)
        expected = ((d < 7.0) & (d > 1e-9)).sum(axis=(1, 2))
        found = np.diff(a["neighbour_offsets"])[sites]
        np.testing.assert_array_equal(found, expected, f"geometry {g}, periodic {periodic}")


def test_the_boundary_can_be_overridden(tmp_path: Path) -> None:
    source = write(tmp_path / "a.xyz", frames(40))
    for periodic, word in ((True, "periodic"), (False, "open"), (None, "periodic")):
        manifest = prepare(source, tmp_path / "x.bp", replace(OPTIONS, periodic=periodic), force=True)
        assert manifest.plain()["neighbours"]["boundary"] == word


def test_a_cell_for_structures_without_one(tmp_path: Path) -> None:
    made = frames(40)
    for atoms in made:
        atoms.cell[:], atoms.pbc = 0, False
    source = write(tmp_path / "a.xyz", made)
    cell = tuple((np.eye(3) * 20.0).ravel().tolist())
    options = replace(OPTIONS, periodic=True, cell=cell)
    prepare(source, tmp_path / "x.bp", options)
    assert (store.read(tmp_path / "x.bp")[1]["cell"] == np.eye(3) * 20).all()
    with pytest.raises(UserError, match=r"a\.xyz, frame 0: a periodic boundary needs a cell with a volume"):
        prepare(source, tmp_path / "y.bp", Options(targets=TARGETS, periodic=True))
    with pytest.raises(UserError, match=r"its cell, .* differs from --cell; leave --cell out"):
        prepare(write(tmp_path / "b.xyz", frames()), tmp_path / "y.bp", options)


def test_mixing_enthalpy_from_energies_in_any_unit(tmp_path: Path) -> None:
    made = frames()
    source = write(tmp_path / "a.xyz", made)
    options = replace(OPTIONS, targets=parse_targets(["h=mixing:energy:eV"]))
    manifest = prepare(source, tmp_path / "x.bp", options)
    assert manifest.targets["h"].unit == "Ry" and manifest.targets["h"].level == "graph"
    for z, symbol in ((29, "Cu"), (46, "Pd"), (79, "Au")):
        assert manifest.plain()["source"]["end_members"][str(z)] * RYDBERG_IN_EV == pytest.approx(PURE[symbol])
    _, a = store.read(tmp_path / "x.bp")
    expected = [m.get_potential_energy() - sum(PURE[s] for s in m.get_chemical_symbols()) for m in made]
    np.testing.assert_allclose(a["target_h"][:, 0] * RYDBERG_IN_EV, expected, atol=1e-9)
    # The same energies given per atom, in another unit.
    for atoms in made:
        atoms.info["e"] = atoms.get_potential_energy() / len(atoms) / RYDBERG_IN_EV * 1000
    options = replace(OPTIONS, targets=parse_targets(["h=mixing:e:mRy/atom"]))
    prepare(write(tmp_path / "b.xyz", made), tmp_path / "y.bp", options)
    np.testing.assert_allclose(store.read(tmp_path / "y.bp")[1]["target_h"], a["target_h"], atol=1e-9)


def test_missing_values_are_counted_and_stay_missing(tmp_path: Path) -> None:
    made = frames()
    del made[5].info["dipole_moment"], made[6].arrays["bader"]
    made[7].calc.results["forces"][0, 1] = np.nan
    manifest = prepare(write(tmp_path / "a.xyz", made), tmp_path / "x.bp", OPTIONS)
    missing = {name: t.missing for name, t in manifest.targets.items()}
    assert missing == {"energy": 0, "forces": 1, "dipole": 3, "q": len(made[6])}
    _, a = store.read(tmp_path / "x.bp")
    assert np.isnan(a["target_dipole"][5]).all() and np.isfinite(np.delete(a["target_dipole"], 5, 0)).all()


BAD_FRAMES: dict[str, tuple[Callable[[list[Atoms]], object], str]] = {
    "no volume": (lambda m: m[4].cell.__setitem__(2, m[4].cell[1]), "frame 4: a periodic boundary needs a cell"),
    "no cell": (lambda m: m[4].cell.__setitem__(slice(None), 0), "frame 4: a periodic boundary needs a cell"),
    "exploded": (lambda m: m[4].positions.__setitem__((1, 2), 1e12), "frame 4: atom 1 is at .*beyond"),
    "nan position": (lambda m: m[4].positions.__setitem__((1, 2), np.nan), "frame 4: atom 1 is at .*not finite"),
    "coincide": (lambda m: m[4].positions.__setitem__(1, m[4].positions[0]), "frame 4: atoms 0 and 1 are at the same"),
    "no element": (lambda m: m[4].numbers.__setitem__(0, 0), "frame 4: atom 0 is not an element"),
    "width": (lambda m: m[4].info.update(dipole_moment=[1.0, 2.0]), "frame 4: .*2 components, but 3 in .*frame 0"),
    "infinite": (lambda m: m[4].info.update(dipole_moment=[1.0, np.inf, 2.0]), "frame 4: .*infinite"),
    "text": (lambda m: m[4].info.update(dipole_moment="large"), "frame 4: 'dipole_moment' is 'large', which is not a"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_bad_frame_fails_or_is_skipped(case: str, tmp_path: Path) -> None:
    spoil, message = BAD_FRAMES[case]
    made = frames()
    spoil(made)
    source = write(tmp_path / "a.xyz", made)
    with pytest.raises(UserError, match=message) as error:
        prepare(source, tmp_path / "x.bp", OPTIONS)
    assert "--on-error skip" in str(error.value) and "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.xyz"]
    facts = prepare(source, tmp_path / "x.bp", replace(OPTIONS, on_error="skip")).plain()["source"]
    assert (facts["read"], facts["skipped"]) == (39, 1) and "frame 4" in facts["skipped_reasons"][0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["f=node:energy:eV"], "'energy' has 1 value for 2 atoms"),
        (["f=graph:forces:eV/Ang"], "is given for every atom; its level is node"),
        (["f=node:dipole_moment:eV"], "'dipole_moment' has 3 values for 2 atoms"),
        (["e=graph:enrgy:eV"], "no structure has 'enrgy' for target 'e'; did you mean 'energy'"),
        (["e=graph:xyzzy:eV"], r"no structure has 'xyzzy'.*the files hold: .*forces \(node\)"),
        ([], "no --target says what to learn; graph-level keys: dipole_moment, energy; node-level keys: bader, forces"),
    ],
)
def test_targets_that_the_file_does_not_have(wrong: list[str], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.xyz", frames())
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path / "x.bp", Options(targets=parse_targets(wrong)))


LINES = ["2", "Properties=species:S:1:pos:R:3 energy=-1.5", "Cu 0 0 0", "Au 0 0 2.5"]
GOOD = "\n".join(LINES) + "\n"
CUT = "\n".join(LINES[:3])
BAD_TEXT: dict[str, tuple[str, str, int]] = {
    "truncated": (GOOD * 2 + CUT, "frame 2, line 9: 2 atoms are declared, and the file ends after 1", 2),
    "an atom too few": (GOOD + CUT + "\n" + GOOD, "frame 1, line 5: .*the next frame starts after 1", 2),
    "an atom too many": (GOOD + GOOD + "Cu 1 1 1\n" + GOOD, "frame 1, line 5: .*then comes 'Cu 1 1 1', which", 2),
    "no comment": (GOOD + "2\nCu 0 0 0\nCu 0 0 2\n" + GOOD, "frame 1, line 5: .*the next frame starts after 1", 2),
    "a word": (GOOD + GOOD.replace("2.5", "2,5") + GOOD, "frame 1: the column 'pos' holds '2,5', which is not a", 2),
    "a column too few": (GOOD + GOOD.replace("0 2.5", "2.5") + GOOD, "frame 1, atom 1: 3 columns, expected 4", 2),
    "a column too many": (GOOD + GOOD.replace("2.5", "2.5 1") + GOOD, "frame 1, atom 1: 5 columns, expected 4", 2),
    "no symbol": (GOOD + GOOD.replace("Au", "Ubn") + GOOD, "frame 1, atom 1: 'Ubn' is not an element's symbol", 2),
    "a boundary of words": (GOOD + GOOD.replace("energy", "pbc=maybe energy") + GOOD, "frame 1: pbc='maybe' is", 2),
    "two boundaries": (GOOD + GOOD.replace("energy", 'pbc="T F" energy') + GOOD, "frame 1: pbc='T F' is not", 2),
    "Properties cut": (GOOD + GOOD.replace(":1:pos:R:3", "") + GOOD, "Properties=species:S is not", 2),
    "species of 2 columns": (GOOD + GOOD.replace("S:1:pos:R:3", "S:2:pos:R:2"), "column 'species' is 2 wide, not 1", 1),
    "positions of 2": (GOOD + GOOD.replace("pos:R:3", "pos:R:2:q:R:1"), "column 'pos' is 2 wide, not 3", 1),
    "infinitely far": (GOOD + GOOD.replace("2.5", "inf") + GOOD, "frame 1: atom 1 is at", 2),
    "a lattice of 6": (GOOD + GOOD.replace("energy", 'Lattice="1 0 0 0 1 0" energy') + GOOD, "frame 1: Lattice='1", 2),
    "no atoms": (GOOD + "0\n\n" + GOOD, "frame 1: no atoms", 2),
    "garbage": ("\x00\x01\x02garbage", "frame 0, line 1: expected the number of atoms, found", 0),
    "empty": ("", "holds no structure", 0),
    "blank": ("\n\n", "holds no structure", 0),
    "not text": (GOOD + GOOD.replace("Au", "\udcff") + GOOD, "frame 1: byte 0xff is not UTF-8", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TEXT)
def test_damaged_text_costs_one_frame(case: str, tmp_path: Path) -> None:
    text, message, good = BAD_TEXT[case]
    source = tmp_path / "a.extxyz"
    source.write_bytes(text.encode("utf-8", "surrogateescape"))
    targets = parse_targets(["e=graph:energy:eV"])
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path / "x.bp", Options(targets=targets))
    options = Options(targets=targets, on_error="skip")
    if not good:
        with pytest.raises(UserError, match=message):
            prepare(source, tmp_path / "x.bp", options)
        return
    raw = sources.read(source, options, folder=tmp_path)
    assert len(raw.samples.names) == good and raw.skipped.count == 1


def test_a_frame_is_not_kept_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of atoms and what follows it, in long lines or in many, could take all memory."""
    monkeypatch.setattr(extxyz, "_LARGEST_FRAME", 10_000)
    source, kept = tmp_path / "a.extxyz", []
    taken = extxyz._take
    monkeypatch.setattr(extxyz, "_take", lambda *given: kept.append(chunk := taken(*given)) or chunk)
    for line in ("Cu 0 0 0" + " 1" * 200_000 + "\n", "Cu 0 0 0\n" * 2_000, "\n" * 9_000):
        source.write_text(GOOD + "999999999\nProperties=species:S:1:pos:R:3\n" + line + GOOD)
        first, second, third = iter_frames(source, "extxyz")
        assert "frame 1, line 5: 999999999 atoms are declared, and more than 10,000 bytes follow" in str(second)
        assert not isinstance(first, UserError) and not isinstance(third, UserError)
    assert max(map(len, kept)) == 4


def test_the_limit_of_a_frame_leaves_room_for_a_million_atoms() -> None:
    """Each atom has a species, position, force, velocity and two tensors, in 16 digits."""
    assert (16 * 24 + extxyz._LINE_BYTES) * 10**6 < extxyz._LARGEST_FRAME


@pytest.mark.parametrize("shown", ['"T F T"', "'T F T'", "[T, F, T]", '"1 0 1"', '"True False True"'])
def test_a_boundary_in_every_spelling(shown: str, tmp_path: Path) -> None:
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9"'
    (tmp_path / "a.xyz").write_text(GOOD.replace("energy", f"{lattice} pbc={shown} energy"))
    (frame,) = iter_frames(tmp_path / "a.xyz", "extxyz")
    assert not isinstance(frame, UserError) and frame.periodic == (True, False, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.cif", b"data_image0\n_cell_length_a 4.08\n", "x.cif: holds no structure that ASE can read as cif"),
        ("x.bin", b"\x00\x80garbage", "is in none of the formats"),
        ("x.gz", b"\x1f\x8b\x08garbage", "x.gz: cannot be read: .* damaged or truncated"),
        ("x", b"", "the file is empty"),
    ],
)
def test_a_file_of_no_known_format(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for options in (OPTIONS, Options(periodic=True)):
        with pytest.raises(UserError, match=message):
            prepare(tmp_path / name, tmp_path / "x.bp", options)


LAMMPS = """LAMMPS data file

1 atoms
1 atom types
0 9 xlo xhi
0 9 ylo yhi
0 9 zlo zhi

Atoms # atomic

1 1 0 0 0
"""


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("x.data", LAMMPS, "runnerdata"), ("x.DATA", "begin\natom 0 0\n", "runnerdata"), ("x.arc", "!DATE\n", "dmol-arc")],
)
def test_a_format_that_only_an_ambiguous_name_states(name: str, content: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    (message,) = iter_frames(tmp_path / name, "ase")
    wanted = f"as {kind}.*; if it is of another format, convert it to extended XYZ: only its name says {kind}"
    assert isinstance(message, UserError) and re.search(wanted, str(message)), message


def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.extxyz", frames())
    with patch("pathlib.Path.open", side_effect=PermissionError(13, "Permission denied")):
        (message,) = iter_frames(tmp_path / "raw", "extxyz")
        assert isinstance(message, UserError) and "Permission denied; make it readable" in str(message)
        with pytest.raises(UserError, match="Permission denied; make it readable"):
            is_compressed(tmp_path / "raw" / "a.extxyz")


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / ".hidden").write_text(GOOD)
    for options in (OPTIONS, Options(periodic=True)):
        with pytest.raises(UserError, match="contains no files"):
            prepare(tmp_path / "raw", tmp_path / "x.bp", options)


def test_damaged_databases_are_reported(tmp_path: Path) -> None:
    whole = database(tmp_path / "a.db", frames()).read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "rubbish.db").write_bytes(b"rubbish" * 100)
    (tmp_path / "empty.db").write_bytes(b"")
    text = database(tmp_path / "a.json", frames()).read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
    for name in ("cut.db", "rubbish.db", "empty.db", "cut.json", "other.json"):
        with pytest.raises(UserError, match=name):
            prepare(tmp_path / name, tmp_path / "x.bp", OPTIONS)


def test_a_note_beside_the_data_does_not_decide_what_they_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "parts", frames(60))
    (folder / "NOTE.json").write_text(json.dumps({"made": "by hand"}))
    (folder / "README").write_text("Read me.\n")
    assert detect(folder) == "extxyz"
    source = prepare(folder, tmp_path / "x.bp", replace(OPTIONS, on_error="skip")).plain()["source"]
    assert (source["read"], source["skipped"]) == (60, 2)


def test_a_format_that_is_given_is_used(tmp_path: Path) -> None:
    source = write(tmp_path / "a.extxyz", frames())
    with pytest.raises(UserError, match=r"--format extxzy; did you mean 'extxyz'\?"):
        prepare(source, tmp_path / "x.bp", Options(form="extxzy", targets=TARGETS))
    with pytest.raises(UserError, match=r"a\.extxyz"):
        prepare(source, tmp_path / "x.bp", Options(form="ase-db", targets=TARGETS))
    with pytest.raises(UserError, match=r"LSMS text.*leave out --target"):
        prepare(source, tmp_path / "x.bp", Options(form="lsms", targets=TARGETS))


def test_end_members_without_a_mixing_enthalpy_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.extxyz", frames())
    with pytest.raises(UserError, match="--end-member is for a mixing enthalpy"):
        prepare(source, tmp_path / "x.bp", Options(targets=TARGETS, end_members={29: -1.0}))


def test_samples_that_share_a_lattice_share_its_geometry(tmp_path: Path) -> None:
    """A decimal number that ASE reads twice must become the same number of bohr."""
    rng = np.random.default_rng(0)
    lattice, made = frames(2)[1], []
    for k in range(30):
        atoms = lattice.copy()
        atoms.numbers = rng.choice([29, 46, 79], 4) if k > 1 else [29] * 4
        atoms.info["energy"] = float(k)
        made.append(atoms)
    options = replace(OPTIONS, targets=parse_targets(["e=graph:energy:eV"]))
    facts = prepare(write(tmp_path / "a.xyz", made), tmp_path / "x.bp", options)
    assert facts.sizes["G"] == 1 and facts.plain()["source"]["repeated"] >= 1


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    made = frames()
    folder = folder_of(tmp_path / "parts", made)
    first = prepare(folder, tmp_path / "a.bp", OPTIONS)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        for file in sorted(folder.iterdir(), reverse=True):
            tar.add(file, file.name)
    assert prepare(tmp_path / "a.tgz", tmp_path / "b.bp", OPTIONS).sha256 == first.sha256
