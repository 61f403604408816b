"""``--target``, units and conversions."""

from __future__ import annotations

import ase.units
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hydragnn_hpc.dataset.read.derive import parse_end_members
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.dataset.read.units import parse_unit, to_angstrom, to_bohr
from hydragnn_hpc.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [("eV", "eV"), ("eV/Ang", "eV/Å"), ("eV/angstrom^3", "eV/Å^3"), ("muB", "μB"), ("1", ""), ("e*Ang", "e*Å"),
     ("kJ/mol", "kJ/mol"), ("1/ps", "1/ps"), ("Å^-1", "Å^-1"), ("hartree/bohr", "Ha/bohr")],
)  # fmt: skip
def test_units_are_shown_in_one_spelling(text: str, shown: str) -> None:
    assert parse_unit(text, "x").text == shown
    assert str(parse_unit(text, "x")) == (shown or "1 (dimensionless)")


@pytest.mark.parametrize(
    ("text", "in_ev"),
    [
        ("eV", 1), ("meV/atom", 1e-3), ("Ry", ase.units.Ry), ("hartree", ase.units.Hartree),
        ("kJ/mol", ase.units.kJ / ase.units.mol), ("kcal/mol", ase.units.kcal / ase.units.mol), ("eV/Ang", None),
    ],
)  # fmt: skip
def test_energies_have_the_size_that_ase_gives_them(text: str, in_ev: float | None) -> None:
    found = parse_unit(text, "x").in_ev
    assert found is None if in_ev is None else found == pytest.approx(in_ev, rel=1e-7)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("energy", "expected NAME=LEVEL:KEY:UNIT"),
        ("energy=graph", "expected NAME=LEVEL:KEY:UNIT"),
        ("energy=graph:energy", "expected NAME=LEVEL:KEY:UNIT"),
        ("energy=graph::eV", "expected NAME=LEVEL:KEY:UNIT"),
        ("e/x=graph:energy:eV", "'e/x' is not a valid name"),
        ("energy=grph:energy:eV", "did you mean 'graph'"),
        ("energy=graph:energy:ev", "unknown unit 'ev'; did you mean 'eV'"),
        ("energy=graph:energy:eV//Ang", "unknown unit"),
        ("energy=graph:energy:eV/Ang^x", "unknown unit"),
        ("h=mixing:energy:muB", "muB is not a unit of energy"),
    ],
)
def test_what_cannot_be_read_is_reported(entry: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_targets([entry])
    assert f"--target {entry}" in str(error.value)


def test_names_and_mixing_enthalpies_are_given_once() -> None:
    with pytest.raises(UserError, match="given twice"):
        parse_targets(["a=graph:x:eV", "a=node:y:e"])
    with pytest.raises(UserError, match="second mixing enthalpy"):
        parse_targets(["a=mixing:x:eV", "b=mixing:y:eV"])
    (one,) = parse_targets(["a=graph:x:eV:total energy: of the cell"])
    assert one.property.label == "total energy: of the cell"


def test_end_members_with_and_without_unit() -> None:
    found = parse_end_members(["Cu=-3.5eV", "Au=-1e-1", "Pd=2 Ry", "Ag=1e2meV/atom"])
    assert found[29] == pytest.approx(-3.5 / ase.units.Ry, rel=1e-7) and found[79] == -0.1 and found[46] == 2
    assert found[47] == pytest.approx(0.1 / ase.units.Ry, rel=1e-7)
    with pytest.raises(UserError, match="not a unit of energy"):
        parse_end_members(["Cu=1Ang"])
    with pytest.raises(UserError, match=r"no element 'fe'; did you mean 'Fe'\?"):
        parse_end_members(["fe=1"])


@given(st.integers(-(10**14), 10**14).map(lambda n: n / 10**10))
@example(92.6417837428)  # its result in bohr is within rounding error of another short decimal
@example(-61.1689341515)  # and here in ångström
def test_lengths_of_ten_decimals_come_back_to_the_bit(length: float) -> None:
    array = np.array([length])
    assert to_bohr(to_angstrom(array)) == array and to_angstrom(to_bohr(array)) == array


@given(st.floats(-1e6, 1e6))
def test_other_lengths_come_back_to_rounding(length: float) -> None:
    assert to_angstrom(to_bohr(np.array([length])))[0] == pytest.approx(length, rel=3e-15, abs=1e-300)
