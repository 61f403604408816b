"""The mixing enthalpy of any elements and atom counts, compared with plain sums over atoms."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hydragnn_hpc.dataset.read import derive
from hydragnn_hpc.errors import UserError

SPECIES = np.array([26, 46, 78])


@given(
    counts=arrays.arrays(np.int64, (6, 3), elements=st.integers(0, 9)).filter(lambda c: (c.sum(1) > 0).all()),
    energies=arrays.arrays(np.float64, 6, elements=st.floats(-1e6, 0)),
    pure=st.tuples(*[st.floats(-4e4, 0)] * 3),
)
def test_mixing_enthalpy_is_the_energy_less_that_of_the_atoms(
    counts: np.ndarray, energies: np.ndarray, pure: tuple[float, ...]
) -> None:
    members = dict(zip(SPECIES.tolist(), pure, strict=True))
    found = derive.mixing_enthalpy(energies, counts, SPECIES, members)
    expected = [
        energy - sum(members[z] for z, n in zip(SPECIES.tolist(), row, strict=True) for _ in range(n))
        for energy, row in zip(energies, counts, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_pure_cell_of_any_size_mixes_with_nothing() -> None:
    counts = np.array([[n, 0, 0] for n in (1, 2, 27, 32, 54)])
    energies = counts.sum(1) * -36867.261074
    found = derive.find_end_members(energies, counts, SPECIES)
    assert list(found) == [26]
    np.testing.assert_allclose(derive.mixing_enthalpy(energies, counts, SPECIES[:1], found), 0, atol=1e-9)


def test_the_lowest_pure_cell_per_atom_is_taken_in_any_order() -> None:
    counts = np.array([[4, 0, 0], [2, 0, 0], [8, 0, 0], [0, 0, 3], [1, 1, 1]])
    energies = np.array([-40.0, -21.0, -80.0, -60.0, -1000.0])
    for order in (np.arange(5), np.arange(5)[::-1]):
        assert derive.find_end_members(energies[order], counts[order], SPECIES) == {26: -10.5, 78: -20.0}


def test_a_missing_end_member_is_named_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"no end member for Pd, Pt: .* pure cell .*--end-member Pd=ENERGY \(Ry"):
        derive.mixing_enthalpy(np.zeros(1), np.ones((1, 3)), SPECIES, {26: 0.0})


def test_given_end_members() -> None:
    assert derive.parse_end_members(["Fe=-2541.0", "Pt=-3.6e4"]) == {26: -2541.0, 78: -3.6e4}
    assert derive.parse_end_members([]) == {}


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (["Fw=1"], "no element 'Fw'; did you mean"),
        (["=1"], "no element ''"),
        (["X=1"], "no element 'X'"),
        (["Fe"], "expected SYMBOL=ENERGY, Ry per atom"),
        (["Fe=low"], "expected SYMBOL=ENERGY"),
        (["Fe=inf"], "expected SYMBOL=ENERGY"),
        (["Fe=-1", "Pt=-2", "Fe=-1"], "'Fe=-1': Fe is given twice"),
    ],
)
def test_invalid_end_members_are_refused(given_: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        derive.parse_end_members(given_)
