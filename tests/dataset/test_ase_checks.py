"""Files of which ASE guesses the elements, invents values, or drops the end."""

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
