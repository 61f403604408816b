"""Selection: repeats, the cap, every kind of split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import frame_of

from hydragnn_hpc.compositions import species_counts
from hydragnn_hpc.dataset.build import select
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.gathered import SampleCollector
from hydragnn_hpc.errors import UserError

pytestmark = pytest.mark.usefixtures("written_here")

FRACTIONS = (0.7, 0.15, 0.15)
groups = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def counts_of(sizes: list[int]) -> np.ndarray:
    """``sizes[k]`` samples of a ternary composition of its own for every k, mixed up."""
    rows = [[k, 2 * k + 1, 20 - k] for k, n in enumerate(sizes) for _ in range(n)]
    return np.random.default_rng(0).permutation(np.array(rows))


@given(st.lists(st.lists(st.sampled_from([26, 27, 46, 78]), min_size=1, max_size=9), min_size=1, max_size=9))
def test_species_are_counted(cells: list[list[int]]) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in cells])])
    species, counts = species_counts(np.concatenate(cells).astype(np.int32), offsets)
    assert species.tolist() == sorted({z for c in cells for z in c})
    assert counts.tolist() == [[c.count(z) for z in species.tolist()] for c in cells]


def test_of_repeated_samples_the_first_stays() -> None:
    keys = [b"a", b"b", b"a", b"c", b"b"]
    assert select.first_of_repeated(keys, lambda position: 0).tolist() == [0, 1, 3]
    assert select.first_of_repeated(keys, [2, 0, 1, 5, 0].__getitem__).tolist() == [1, 2, 3]


@given(groups, st.integers(0, 40), st.integers(0, 5))
def test_the_cap_limits_the_samples_of_each_composition(sizes: list[int], cap: int, seed: int) -> None:
    counts = counts_of(sizes)
    kept = select.cap_per_composition(counts, cap, seed)
    assert np.array_equal(kept, np.unique(kept))
    found = {tuple(c): n for c, n in zip(*np.unique(counts[kept], axis=0, return_counts=True), strict=True)}
    for composition, n in zip(*np.unique(counts, axis=0, return_counts=True), strict=True):
        assert found[tuple(composition)] == (min(n, cap) if cap else n)
    assert np.array_equal(kept, select.cap_per_composition(counts, cap, seed))


def test_what_the_cap_draws_depends_on_the_seed_and_on_its_composition_alone() -> None:
    many = np.array([[1, 2]] * 50 + [[2, 1]] * 50)
    alone = select.cap_per_composition(many[:50], 10, seed=3)
    together = select.cap_per_composition(many, 10, seed=3)
    assert np.array_equal(together[together < 50], alone)
    assert not np.array_equal(alone, select.cap_per_composition(many[:50], 10, seed=4))


@given(groups.map(lambda sizes: [20, *sizes]), st.integers(0, 9), st.sampled_from([FRACTIONS, (0.5, 0.3, 0.2)]))
def test_every_composition_is_split_in_the_same_proportion(sizes, seed, fractions) -> None:
    counts = counts_of(sizes)
    split = select.split("composition", counts, fractions, seed)
    small = {tuple(c): n for c, n in split.too_small}
    for composition, n in zip(*np.unique(counts, axis=0, return_counts=True), strict=True):
        parts = np.bincount(split.part[(counts == composition).all(axis=1)], minlength=3)
        assert parts.sum() == n
        if tuple(composition) in small:
            assert small[tuple(composition)] == n and parts.tolist() == [n, 0, 0]
        else:
            assert parts.min() >= 1
            assert np.abs(parts - n * np.array(fractions)).max() <= 1.0 + 1e-9
    assert np.array_equal(split.part, select.split("composition", counts, fractions, seed).part)


def test_the_parts_depend_on_the_composition_and_the_seed_alone() -> None:
    counts = np.repeat([[1, 3], [2, 2]], [40, 60], axis=0)
    whole = select.split("composition", counts, FRACTIONS, 4).part
    alone = select.split("composition", counts[40:], FRACTIONS, 4).part
    np.testing.assert_array_equal(whole[40:], alone)
    assert (select.split("composition", counts, FRACTIONS, 5).part != whole).any()


def test_seeds_split_differently_into_parts_of_one_size() -> None:
    counts = counts_of([100])
    parts = [select.split("composition", counts, FRACTIONS, seed).part for seed in (0, 1)]
    assert not np.array_equal(*parts)
    assert [np.bincount(p).tolist() for p in parts] == [[70, 15, 15]] * 2


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_composition_too_small_to_split_goes_whole_into_training(n: int) -> None:
    counts = np.array([[3, 0]] * n + [[1, 2]] * 20)
    split = select.split("composition", counts, FRACTIONS, 0)
    assert split.too_small == [([3, 0], n)]
    assert (split.part[:n] == 0).all()


@pytest.mark.parametrize(
    "fractions",
    [(0.7, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.5, float("nan"), 0.5)],
)
def test_invalid_fractions_are_refused(fractions) -> None:
    with pytest.raises(UserError, match="--fractions"):
        select.split("composition", counts_of([40]), fractions, 0)


def test_a_part_that_stays_empty_is_refused() -> None:
    with pytest.raises(UserError, match=r"validation set is empty: too few samples .*\(samples: 4, compositions: 2\)"):
        select.split("composition", counts_of([2, 2]), FRACTIONS, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=150), st.integers(0, 100))
def test_classes_stay_whole_and_every_part_gets_its_share(labels: list[tuple[int, int]], seed: int) -> None:
    counts = np.array([[composition, 4 - composition] for composition, _ in labels])
    classes = np.array([composition * 100 + which for composition, which in labels])
    try:
        found = select.split("symmetry", counts, (0.6, 0.2, 0.2), seed, classes)
    except UserError as error:
        assert "set is empty" in str(error)
        return
    for c in np.unique(classes):
        assert len(np.unique(found.part[classes == c])) == 1
    small = {tuple(c) for c, _ in found.too_small}
    for composition in np.unique(counts, axis=0):
        chosen = (counts == composition).all(axis=1)
        sizes = np.bincount(found.part[chosen], minlength=3)
        if tuple(composition.tolist()) in small:
            assert sizes[1] == sizes[2] == 0
        else:
            largest = np.unique(classes[chosen], return_counts=True)[1].max()
            assert sizes.min() > 0
            assert np.abs(sizes - chosen.sum() * np.array([0.6, 0.2, 0.2])).max() <= 2 * largest + 1
    again = select.split("symmetry", counts, (0.6, 0.2, 0.2), seed, classes)
    np.testing.assert_array_equal(found.part, again.part)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), by=st.sampled_from(select.SPLIT_BY), seed=st.integers(0, 9))
def test_the_order_in_which_samples_are_read_and_classes_are_numbered_does_not_matter(
    data: st.DataObject, by: str, seed: int
) -> None:
    numbers = [*range(8), *data.draw(st.lists(st.integers(8, 200), max_size=40, unique=True))]
    geometry = Geometry(np.zeros((1, 3)), np.zeros((3, 3)), (False,) * 3)
    found = []
    for order in (numbers, data.draw(st.permutations(numbers))):
        read = SampleCollector()
        for k in order:
            read.add(frame_of(f"out_{k}", geometry, np.array([26 + k % 2], np.int32)), geometry, {})
        samples = read.samples([], {})
        _, counts = species_counts(np.concatenate(samples.atomic_numbers), samples.atom_offsets())
        called = dict(zip(range(500), data.draw(st.permutations(range(500))), strict=True))
        classes = np.array([called[int(name.removeprefix("out_")) // 2 * 2 + z[0] % 2] for name, z in
                            zip(samples.names, samples.atomic_numbers, strict=True)])  # fmt: skip
        part = select.split(by, counts, (0.5, 0.25, 0.25), seed, classes).part
        found.append(dict(zip(samples.names, part.tolist(), strict=True)))
    assert found[0] == found[1]
    assert found[0].keys() == {f"out_{k}" for k in numbers} and set(found[0].values()) == {0, 1, 2}


def test_a_random_split_ignores_compositions() -> None:
    counts = np.array([[1, 0]] * 20)
    counts[:2] = [0, 1]
    found = select.split("random", counts, (0.5, 0.25, 0.25), 0)
    assert np.bincount(found.part).tolist() == [10, 5, 5] and found.too_small == []


def test_classes_are_split_in_proportion() -> None:
    counts = np.ones((100, 1), np.int64)
    singles = select.split("symmetry", counts, (0.6, 0.2, 0.2), 0, np.arange(100))
    assert np.bincount(singles.part).tolist() == [60, 20, 20]
    # Classes of 10, 8, 5 and 2 samples, four of each: no part is off by more than the smallest.
    classes = np.repeat(np.arange(16), np.tile([10, 8, 5, 2], 4))
    mixed = select.split("symmetry", counts, (0.6, 0.2, 0.2), 0, classes)
    assert np.abs(np.bincount(mixed.part) - [60, 20, 20]).max() <= 2
    others = [select.split("symmetry", counts, (0.6, 0.2, 0.2), seed, classes).part for seed in range(1, 5)]
    assert any((other != mixed.part).any() for other in others), "the seed does not matter"


def many_compositions() -> np.ndarray:
    """Counts of 300 samples: most compositions are unique, and one has forty samples."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.integers(0, 50, (260, 3)), np.full((40, 3), 7)])


def test_a_split_by_composition_that_can_be_judged_is_taken() -> None:
    counts = np.repeat([[1, 3], [2, 2], [3, 1]], 20, axis=0)
    by, made = select.split_by_default(counts, (0.7, 0.15, 0.15), 3)
    assert by == "composition"
    np.testing.assert_array_equal(made.part, select.split("composition", counts, (0.7, 0.15, 0.15), 3).part)


def test_many_compositions_are_split_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    counts = many_compositions()
    by, made = select.split_by_default(counts, (0.7, 0.15, 0.15), 3)
    assert by == "random" and np.bincount(made.part).tolist() == [210, 45, 45]
    assert (
        "split at random: by composition, only 6 and 6 of 300 samples would be in the validation and test sets"
        in capsys.readouterr().err
    )
    np.testing.assert_array_equal(made.part, select.split("random", counts, (0.7, 0.15, 0.15), 3).part)


def test_equivalents_stay_together_where_there_are_any() -> None:
    counts, classes = many_compositions(), np.arange(300) // 2
    by, made = select.split_by_default(counts, (0.7, 0.15, 0.15), 3, classes)
    assert by == "groups" and 40 <= np.bincount(made.part)[1] <= 50
    assert (made.part[::2] == made.part[1::2]).all()


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UserError, match="too few samples to split at random"):
        select.split_by_default(np.eye(3, dtype=np.int64)[:2], (0.7, 0.15, 0.15), 3)
    with pytest.raises(UserError, match=r"too few samples to split by groups \(samples: 2\)"):
        select.split("groups", np.eye(3, dtype=np.int64)[:2], (0.7, 0.15, 0.15), 3, np.arange(2))
