"""Duplicates, caps and splits: nothing twice, every composition in proportion, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc.dataset import derive, select
from hydragnn_hpc.errors import UserError

FRACTIONS = (0.7, 0.15, 0.15)
counts_strategy = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=40, max_size=200)


@given(counts=counts_strategy, seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_composition_is_split_in_proportion(counts: list[tuple[int, int]], seed: int) -> None:
    array = np.array([*counts, *[(9, 9)] * 20])
    split = select.split_by_composition(array, FRACTIONS, seed)
    small = {tuple(c) for c, _ in split.too_small}
    for composition in np.unique(array, axis=0):
        part = split.part[(array == composition).all(1)]
        n = len(part)
        assert np.bincount(part, minlength=3)[0] >= 1, "a composition is missing from the training part"
        if tuple(composition) not in small:
            for value in (1, 2):
                assert abs((part == value).sum() - 0.15 * n) <= 0.5


def test_the_parts_depend_on_the_composition_and_the_seed_alone() -> None:
    counts = np.repeat([[1, 3], [2, 2]], [40, 60], axis=0)
    whole = select.split_by_composition(counts, FRACTIONS, 4).part
    alone = select.split_by_composition(counts[40:], FRACTIONS, 4).part
    np.testing.assert_array_equal(whole[40:], alone)
    assert (select.split_by_composition(counts, FRACTIONS, 5).part != whole).any()


def test_small_compositions_are_told_and_never_doubled() -> None:
    counts = np.array([[1, 0]] * 40 + [[0, 1]])
    split = select.split_by_composition(counts, FRACTIONS, 0)
    assert split.too_small == [([0, 1], 1)]
    assert split.part[-1] == 0


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)])
def test_fractions_that_are_none(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        select.split_by_composition(np.ones((50, 1), int), fractions, 0)


def test_too_few_samples_to_split() -> None:
    with pytest.raises(UserError, match="part is empty"):
        select.split_by_composition(np.eye(3, dtype=int), FRACTIONS, 0)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), cap=st.integers(1, 20), seed=st.integers(0, 99))
@settings(deadline=None)
def test_the_cap_keeps_at_most_so_many_of_each(sizes: list[int], cap: int, seed: int) -> None:
    counts = np.repeat(np.arange(len(sizes))[:, None], sizes, axis=0)
    kept = select.cap_per_composition(counts, cap, seed)
    assert len(np.unique(kept)) == len(kept) and (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(np.bincount(counts[kept, 0]), np.minimum(sizes, cap))


def test_of_repeated_samples_the_first_is_kept() -> None:
    assert select.first_of_repeated([b"a", b"b", b"a", b"c", b"b"]).tolist() == [0, 1, 3]


def test_mixing_enthalpy_of_any_elements() -> None:
    species, counts = np.array([29, 79]), np.array([[4, 0], [0, 2], [2, 2]])
    energies = np.array([-40.0, -14.0, -35.5])
    found = derive.find_end_members(energies, counts, species)
    assert found == {29: -10.0, 79: -7.0}
    np.testing.assert_allclose(derive.mixing_enthalpy(energies, counts, species, found), [0, 0, -1.5])
    with pytest.raises(UserError, match=r"no end member for Au.*--end-member Au="):
        derive.mixing_enthalpy(energies, counts, species, {29: -10.0})
    assert derive.parse_end_members(["Au=-7.5"]) == {79: -7.5}
    for wrong, told in (("Xx=1", "no element 'Xx'"), ("Au", "SYMBOL=ENERGY"), ("Au=much", "SYMBOL=ENERGY")):
        with pytest.raises(UserError, match=told):
            derive.parse_end_members([wrong])
