"""Files of which ASE would guess the elements, invent values, or drop the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydragnn_hpc.dataset.read import formats
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.errors import UserError


def dump(columns: str, atoms: tuple[str, str], start: str = "") -> str:
    """A LAMMPS dump of two frames."""
    bounds = "ITEM: BOX BOUNDS pp pp pp\n0 5\n0 5\n0 5\n"
    rows = "\n".join(atoms)
    return "".join(
        f"{start}ITEM: TIMESTEP\n{k}\nITEM: NUMBER OF ATOMS\n2\n{bounds}ITEM: ATOMS {columns}\n{rows}\n" for k in (0, 1)
    )


def lammps_data(sections: str, first: str = "made by hand") -> str:
    """A LAMMPS data file of two atoms."""
    size = "2 atoms\n2 atom types\n0 5 xlo xhi\n0 5 ylo yhi\n0 5 zlo zhi\n"
    return f"{first}\n\n{size}\n{sections}\nAtoms # atomic\n\n1 1 0 0 0\n2 2 0 0 2.5\n"


def poscar(elements: str = "Cu Au\n", comment: str = "made by hand", after: str = "") -> str:
    """A POSCAR of two atoms."""
    return f"{comment}\n1.0\n5 0 0\n0 5 0\n0 0 5\n{elements}1 1\nDirect\n0 0 0\n0 0 .5\n{after}"


def cif(atoms: str, *, cell: bool = True, group: str = "P 1") -> str:
    """A CIF of a cubic cell."""
    lengths = "".join(f"_cell_{key} {4 if key.startswith('length') else 90}\n" for key in CELL)
    columns = "".join(f"_atom_site_{c}\n" for c in ("type_symbol", "fract_x", "fract_y", "fract_z"))
    return f"data_a\n{lengths * cell}_symmetry_space_group_name_H-M '{group}'\nloop_\n{columns}{atoms}"


def pdb(name: str, element: str, other: str = " ") -> str:
    """A PDB file of an atom."""
    return (
        f"ATOM      1 {name:4s}{other}MOL     1       0.000   0.000   1.000  1.00  0.00          {element:>2s}\nEND\n"
    )


def gro(*names: str) -> str:
    """A .gro file; lengths are in nm."""
    rows = "".join(f"    1MOL  {name:>5s}{k:5d}   0.000   0.000{k / 5:8.3f}\n" for k, name in enumerate(names))
    return f"made by hand\n{len(names)}\n{rows}   1.0   1.0   1.0\n"


CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
MOL = "a\n\n\n  1  0  0  0  0  0            999 V2000\n    0.0000    0.0000    0.0000 Cu  0\nM  END\n"
GEN = "2 S\nCu Au\n1 1 0 0 0\n2 2 0 0 2.5\n0 0 0\n5 0 0\n0 5 0\n0 0 5\n"
L10 = "Cu 0 0 0\nCu .5 .5 0\nAu .5 0 .5\nAu 0 .5 .5\n"
MORE = "goes on after its first structure"
FORCES = "id type {} x y z fx fy fz"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.lammpstrj", dump("id type x y z", ("1 1 0 0 0", "2 2 0 0 2")), "a type is not an element.*dump_modify"),
        (
            "a.lammpstrj",
            dump("id element x y z", ("1 Cu 0 0 0", "2 Au 0 0 2"), "ITEM: UNITS\nelectron\n"),
            "units 'electron', not in ångström",
        ),
        ("a.lammps-data", lammps_data(""), "no masses, and a type is not an element; add the section Masses"),
        ("a.lammps-data", lammps_data("Atom Type Labels\n\n1 big\n2 small\n"), "a type is not an element"),
        (
            "a.lammps-data",
            lammps_data("Masses\n\n1 63.5\n2 197.0\n", "LAMMPS data file via write_data, units = lj"),
            "units 'lj', not in ångström",
        ),
        ("POSCAR", poscar("", "FCC Cu, Au"), "no line of elements, and the comment 'FCC Cu, Au' does not name 2"),
        ("POSCAR", poscar("", "In As relaxed"), "no line of elements"),
        ("POSCAR", poscar(after="0 .5 0\n"), MORE),
        ("POSCAR", poscar(after=poscar()), MORE),
        ("a.sdf", f"{MOL}$$$$\n{MOL}$$$$\n", MORE),
        ("a.mol", MOL + MOL, MORE),
        ("a.gen", GEN + GEN, MORE),
        ("a.gen", GEN.replace("2 S", f"{'9' * 5000} S"), "ASE cannot read it as gen"),
        ("POSCAR", poscar().replace("1 1\n", "99999999999999999999 1\n"), "ASE cannot read it as vasp"),
        ("a.gro", gro("Cu", "CL"), "an atom is named 'CL', from which ASE would guess its element"),
        ("a.pdb", pdb("CA", ""), "the atom 'CA' has no element in columns 77 and 78"),
        ("a.pdb", pdb(" CA ", "C", "A"), "alternate locations"),
        ("a.cif", cif("Cu 0 0 0\n", cell=False), "coordinates are fractional, but there is no cell"),
        ("a.cif", cif("Cu 0 0 0\nAu 0 0 1\n"), "Au and Cu are at the same position"),
        ("a.cif", cif(L10, group="F m -3 m"), "Au and Cu are at the same position, or at equivalent ones"),
    ],
)
def test_what_ase_would_guess_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    (error,) = formats.iter_frames(tmp_path / name, formats.detect(tmp_path / name))
    assert isinstance(error, UserError)
    with pytest.raises(UserError, match=message):
        raise error


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.lammpstrj", dump(FORCES.format("element"), ("1 1 Cu 0 0 0 1 2 3", "2 2 Au 0 0 2 4 5 6"))),
        ("a.lammpstrj", dump(FORCES.format("mass"), ("1 1 63.546 0 0 0 1 2 3", "2 2 196.97 0 0 2 4 5 6"))),
        ("a.lammps-data", lammps_data("Masses\n\n1 63.546\n2 196.97\n", "written, units = metal")),
        ("a.lammps-data", lammps_data("Atom Type Labels\n\n1 Cu\n2 Au\n")),
    ],
)
def test_elements_that_a_lammps_file_states(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    for frame in formats.iter_frames(tmp_path / name, formats.detect(tmp_path / name)):
        assert isinstance(frame, Frame) and frame.atomic_numbers.tolist() == [29, 79]
        assert "energy" not in frame.values, "a dump holds none"
        assert name != "a.lammpstrj" or frame.columns["forces"].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("name", "content", "numbers"),
    [
        ("POSCAR", poscar("", "Cu Au"), [29, 79]),
        ("POSCAR", poscar("", "Cu1Au1"), [29, 79]),
        ("POSCAR", poscar(comment="FCC"), [29, 79]),
        ("POSCAR", poscar(after="\n0 0 1\n1 0 0\n"), [29, 79]),  # velocities
        ("a.sdf", f"{MOL}$$$$\n", [29]),
        ("a.gen", GEN, [29, 79]),
        ("a.gro", gro("Cu", "Au"), [29, 79]),
        ("a.pdb", pdb("CU", "CU"), [29]),
        ("a.cif", cif(L10), [29, 29, 79, 79]),
        ("a.cif", cif("Cu 0 0 0\nCu .5 .5 1\n", group="F m -3 m"), [29] * 4),  # all sites, and the symmetry too
    ],
)
def test_what_a_file_states_is_read(name: str, content: str, numbers: list[int], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    (frame,) = formats.iter_frames(tmp_path / name, formats.detect(tmp_path / name))
    assert isinstance(frame, Frame), frame
    assert frame.atomic_numbers.tolist() == numbers
    assert not [key for key in frame.values if key.startswith("_")]


def vectors(name: str, rows: list[str]) -> str:
    """An array of a vasprun.xml."""
    return f'<varray name="{name}">' + "".join(f"<v>{row}</v>" for row in rows) + "</varray>"


def vasprun(steps: int) -> str:
    """A vasprun.xml as VASP writes it, as far as it is read."""
    structure = (
        f"<crystal>{vectors('basis', ['5 0 0', '0 5 0', '0 0 5'])}</crystal>{vectors('positions', ['0 0 0', '0 0 .5'])}"
    )
    energies = '<energy><i name="e_fr_energy">-1</i><i name="e_wo_entrp">-1</i><i name="e_0_energy">-1</i></energy>'
    step = (
        f"<calculation><scstep>{energies}</scstep><structure>{structure}</structure>"
        f"{vectors('forces', ['0 0 1', '0 0 -1'])}{energies}</calculation>\n"
    )
    points = f"<kpoints><generation/>{vectors('kpointlist', ['0 0 0'])}{vectors('weights', ['1'])}</kpoints>"
    atoms = '<atominfo><array name="atoms"><set><rc><c>Cu</c></rc><rc><c>Au</c></rc></set></array></atominfo>'
    start = f'<modeling>{points}<parameters/>{atoms}<structure name="initialpos">{structure}</structure>\n'
    return start + step * steps + "</modeling>\n"


def test_a_vasprun_that_is_truncated_says_so(tmp_path: Path) -> None:
    path, whole = tmp_path / "vasprun.xml", vasprun(5)
    for cut, kept in ((0, 5), (20, 5), (200, 4), (len(whole) // 2, 2)):
        path.write_text(whole[: len(whole) - cut])
        *found, last = formats.iter_frames(path, formats.detect(path))
        if not cut:
            assert len(found) + 1 == kept and isinstance(last, Frame)
        else:
            assert len(found) == kept and all(isinstance(frame, Frame) for frame in found)
            assert f"after frame {kept - 1}: the file ends before </modeling>" in str(last)


def outcar(steps: int) -> str:
    """An OUTCAR, as far as it is read."""
    head = " POTCAR:    PAW_PBE Cu 05Jan2001\n POTCAR:    PAW_PBE Cu 05Jan2001\n ions per type =               1\n"
    step = """\
----------------------------------------- Iteration    1(   1)  ---------------------------------------
      direct lattice vectors                 reciprocal lattice vectors
     5.000000000  0.000000000  0.000000000     0.200000000  0.000000000  0.000000000
     0.000000000  5.000000000  0.000000000     0.000000000  0.200000000  0.000000000
     0.000000000  0.000000000  5.000000000     0.000000000  0.000000000  0.200000000

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000      0.100000
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        -1.00000000 eV

  energy  without entropy=       -1.00000000  energy(sigma->0) =       -1.00000000
"""
    return head + step * steps


def test_an_outcar_that_ends_within_a_step_says_so(tmp_path: Path) -> None:
    path, whole = tmp_path / "OUTCAR", outcar(3)
    path.write_text(whole)
    assert [type(frame) for frame in formats.iter_frames(path, "ase")] == [Frame] * 3
    path.write_text(whole[:-800])
    *found, last = formats.iter_frames(path, "ase")
    assert len(found) == 2 and "after frame 1: the file ends within an ionic step" in str(last)
