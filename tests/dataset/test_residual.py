"""References and residuals: fitted to the training set alone, and equal to the target when added."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.dataset.features import residual
from hydragnn_hpc.dataset.features.regression import GroupedRegression
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.recipe import FittedReference, ReferencedTask

FE, PD, PT = 26, 46, 78


def data_set(samples: int = 200, sizes: tuple[int, ...] = (4, 6)) -> dict[str, np.ndarray]:
    """Decorations of random composition, of samples of several sizes; every fourth is of the test set."""
    rng = np.random.default_rng(0)
    n = rng.choice(sizes, samples)
    return {
        "atom_offsets": np.concatenate([[0], np.cumsum(n)]).astype(np.int64),
        "atomic_numbers": rng.choice([FE, PT], n.sum()).astype(np.int32),
        "split": np.where(np.arange(samples) % 4 == 3, 2, 0).astype(np.uint8),
    }


def node_inputs(data: dict[str, np.ndarray]) -> np.ndarray:
    """Three columns for every atom."""
    return np.random.default_rng(7).normal(size=(len(data["atomic_numbers"]), 3)).astype(np.float32)


def of_samples(found: FittedReference, counts: list[list[int]]) -> np.ndarray:
    """The graph-level reference of samples with these counts of atoms."""
    each = np.arange(len(counts))
    return residual.evaluate(found, np.array(counts), each, np.zeros_like(each), np.empty((0, 0)))[:, 0]


def compositions(data: dict[str, np.ndarray]) -> np.ndarray:
    """The fraction of Fe in every sample."""
    iron = np.add.reduceat((data["atomic_numbers"] == FE).astype(float), data["atom_offsets"][:-1])
    share: np.ndarray = iron / np.diff(data["atom_offsets"])
    return share


def fit(
    data: dict[str, np.ndarray], values: np.ndarray, level: str, kind: str, folder: Path
) -> tuple[FittedReference, np.ndarray, np.ndarray]:
    """The fitted reference, and the written arrays."""
    paths = (folder / "reference.npy", folder / "residual.npy")
    task = ReferencedTask(name="T", field="t", level=level, reference=kind)
    found = residual.write(data, task, values.astype(np.float32), node_inputs(data), paths)
    return found, np.load(paths[0]), np.load(paths[1])


@pytest.mark.parametrize("level", ["graph", "node"])
@pytest.mark.parametrize("kind", ["composition", "species", "linear"])
def test_reference_and_residual_add_up_and_the_residual_is_of_order_one(tmp_path: Path, level: str, kind: str) -> None:
    data = data_set()
    rows = 200 if level == "graph" else int(data["atom_offsets"][-1])
    values = np.random.default_rng(1).normal(0.5, 0.1, (rows, 2)).astype(np.float32)
    values[:5, 0] = np.nan
    found, reference, rest = fit(data, values, level, kind, tmp_path)
    back = rest * np.array(found.scale) + reference
    np.testing.assert_allclose(back, values, atol=2e-7)
    assert np.isnan(rest[:5, 0]).all() and np.isfinite(rest[5:]).all() and np.isfinite(reference).all()
    row_split = data["split"] if level == "graph" else np.repeat(data["split"], np.diff(data["atom_offsets"]))
    np.testing.assert_allclose(np.sqrt(np.nanmean(rest[row_split == 0] ** 2, axis=0)), 1, rtol=1e-5)
    np.testing.assert_allclose(np.nanmean(rest[row_split == 0], axis=0), 0, atol=1e-5)
    assert (reference.std(axis=0) > 0).all()


def test_means_are_of_each_composition_and_of_each_element_in_it(tmp_path: Path) -> None:
    data = data_set()
    share, split = compositions(data), data["split"]
    energy = (share**2)[:, None] + 0.01 * np.random.default_rng(2).normal(size=(200, 1))
    _, reference, _ = fit(data, energy, "graph", "composition", tmp_path)
    atom_share = np.repeat(share, np.diff(data["atom_offsets"]))
    iron, atom_split = data["atomic_numbers"] == FE, np.repeat(split, np.diff(data["atom_offsets"]))
    charge = np.where(iron, atom_share, -1.0)[:, None] + 0.01 * np.random.default_rng(3).normal(size=(len(iron), 1))
    _, of_atoms, _ = fit(data, charge, "node", "composition", tmp_path)
    _, of_elements, _ = fit(data, charge, "node", "species", tmp_path)
    for x in np.unique(share):
        chosen = share == x
        np.testing.assert_allclose(reference[chosen], energy[chosen & (split == 0)].mean(), atol=1e-6)
        for is_it in (iron, ~iron):
            atoms = is_it & (atom_share == x)
            if (atoms & (atom_split == 0)).any():
                np.testing.assert_allclose(of_atoms[atoms], charge[atoms & (atom_split == 0)].mean(), atol=1e-6)
    np.testing.assert_allclose(of_elements[iron], charge[iron & (atom_split == 0)].mean(), atol=1e-6)


def test_the_test_set_does_not_affect_the_fit(tmp_path: Path) -> None:
    data = data_set()
    values = np.random.default_rng(1).normal(size=(200, 1))
    before = fit(data, values, "graph", "composition", tmp_path)[0]
    values[data["split"] == 2] += 1e3
    assert fit(data, values, "graph", "composition", tmp_path)[0] == before


def test_a_composition_that_the_training_set_lacks_is_interpolated(tmp_path: Path) -> None:
    data = data_set(sizes=(10,), samples=2000)
    share = compositions(data)
    values = (3 * share)[:, None]
    unseen = np.isclose(share, 0.5)
    data["split"] = np.where(unseen, 2, 0).astype(np.uint8)
    found, reference, _ = fit(data, values, "graph", "composition", tmp_path)
    np.testing.assert_allclose(reference[unseen], 1.5, atol=1e-6)
    # Of another number of atoms.
    np.testing.assert_allclose(of_samples(found, [[45, 55], [46, 54]]), [1.35, 1.38], atol=1e-6)
    # In a ternary, between three; known ones are met exactly.
    corners = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
    ternary = FittedReference(
        kind="composition",
        level="graph",
        elements=[FE, PD, PT],
        compositions=corners,
        values=[[[1.0]], [[2.0]], [[6.0]]],
        scale=[1.0],
    )
    np.testing.assert_allclose(of_samples(ternary, [[1, 1, 1], [0, 4, 0]]), [3.0, 2.0], atol=1e-9)


def test_a_linear_function_of_the_inputs_within_a_composition_is_removed(tmp_path: Path) -> None:
    data = data_set(sizes=(8,), samples=4000)
    x, iron = node_inputs(data).astype(np.float64), data["atomic_numbers"] == FE
    share = np.repeat(compositions(data), 8)
    slope = np.stack([share, share**2, np.where(iron, 2.0, -1.0)], axis=1)
    values = (np.where(iron, share, -share) + (x * slope).sum(axis=1)).reshape(-1, 8)
    for level, target in (("node", values.reshape(-1, 1)), ("graph", values.mean(axis=1)[:, None])):
        found, reference, _ = fit(data, target, level, "linear", tmp_path)
        assert found.scale[0] < 0.05 * target.std()
        assert np.abs(reference - target).mean() < 0.02 * target.std()
        plain = json.dumps(found.model_dump())
        assert json.dumps(FittedReference(**json.loads(plain)).model_dump()) == plain


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_unit_of_a_column_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(0)
    group, x = rng.integers(0, 5, 300), rng.normal(size=(300, 3))
    x[:, 2] = group  # says nothing within a group
    y = x[:, 0] * (1 + group) + rng.normal(size=300)

    def fitted(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = GroupedRegression(5, 1, 3, np.arange(5.0)[:, None])
        sums.add(group, np.zeros(300, np.int64), columns, y)
        return sums.fit()

    at_zero, slopes = fitted(x)
    again, steeper = fitted(x * scale)
    np.testing.assert_allclose(again, at_zero, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(steeper * scale, slopes, rtol=1e-6, atol=1e-9)
    assert np.abs(slopes[:, 0, 2]).max() < 1e-9


def test_slopes_are_shrunk_towards_all_compositions_where_one_has_little_data() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [10000, 2, 0])
    x = rng.normal(size=(10002, 4))
    y = x @ np.array([1.0, 2.0, 3.0, 4.0]) + group
    sums = GroupedRegression(3, 1, 4, np.arange(3.0)[:, None])
    for part in np.array_split(rng.permutation(10002), 7):
        sums.add(group[part], np.zeros(len(part), np.int64), x[part], y[part])
    at_zero, slopes = sums.fit()
    np.testing.assert_allclose(slopes[:, 0], [[1, 2, 3, 4]] * 3, atol=0.02)
    np.testing.assert_allclose(at_zero[:, 0], [0, 1, np.nan], atol=0.05)


def test_slopes_are_shrunk_towards_those_of_nearby_compositions() -> None:
    """A group without information on a column takes the slope of nearby groups, whatever distant groups have."""
    rng = np.random.default_rng(0)
    where = np.linspace(0, 1, 21)
    group = np.repeat(np.arange(21), 1000)
    x = rng.normal(size=(21000, 2))
    x[group == 18, 1] = 0.5
    steep = where + 5 * (where < 0.4)
    sums = GroupedRegression(21, 1, 2, where[:, None])
    sums.add(group, np.zeros(21000, np.int64), x, 2 * x[:, 0] + steep[group] * x[:, 1])
    _, slopes = sums.fit()
    np.testing.assert_allclose(slopes[:, 0, 0], 2, atol=0.01)
    # A cubic polynomial through all of them is off by 0.3 there.
    np.testing.assert_allclose(slopes[:, 0, 1], steep, atol=0.02)


def test_slopes_are_shrunk_towards_those_of_nearby_ternary_compositions() -> None:
    """The slopes of a composition without information are interpolated between those of nearby ones."""
    rng = np.random.default_rng(0)
    places = np.array([(i, j) for i in range(7) for j in range(7 - i)]) / 6
    group = np.repeat(np.arange(len(places)), 300)
    x = rng.normal(size=(len(group), 1))
    silent = int(np.flatnonzero((places == [1 / 3, 1 / 3]).all(axis=1))[0])
    x[group == silent] = 0.5
    steep = 1 + 2 * places[:, 0] - 3 * places[:, 1]
    sums = GroupedRegression(len(places), 1, 1, places)
    sums.add(group, np.zeros(len(group), np.int64), x, steep[group] * x[:, 0])
    np.testing.assert_allclose(sums.fit()[1][silent, 0], steep[silent], atol=0.02)


def test_groups_of_few_rows_look_farther_around() -> None:
    """Three rows cannot determine eight slopes, nor can those of adjacent groups."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 3)
    x, slopes = rng.normal(size=(120, 8)), rng.normal(size=8)
    sums = GroupedRegression(40, 1, 8, np.arange(40.0)[:, None])
    sums.add(group, np.zeros(120, np.int64), x, x @ slopes)
    assert np.abs(sums.fit()[1][:, 0] - slopes).max() < 0.25 * np.abs(slopes).max()


def test_a_column_that_is_shrunk_more_is_trusted_less_where_rows_are_alike() -> None:
    """Two columns are equal in a group of like rows: the one that is shrunk keeps the slope of the groups nearby."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(9), 1000)
    x = rng.normal(size=(9000, 2))
    alike = group == 8
    x[alike] = rng.choice([-1.0, 1.0], alike.sum())[:, None] * [1.0, 1.0]
    y = x.sum(axis=1) + np.where(alike, 2 * x[:, 0], 0.0)  # only their sum, 4, shows in the data
    for strength, expected in (([1.0, 1.0], [2, 2]), ([1.0, 30.0], [2.75, 1.25])):
        sums = GroupedRegression(9, 1, 2, np.zeros((9, 1)), np.array([strength]))
        sums.add(group, np.zeros(9000, np.int64), x, y)
        np.testing.assert_allclose(sums.fit()[1][8, 0], expected, atol=0.05)


@pytest.mark.parametrize("times", [1, 40])
def test_shrinkage_is_chosen_by_rows_that_are_unlike_those_fitted(times: int) -> None:
    """Strong shrinkage predicts better where each group overfits its noise; repeating rows changes nothing."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 12)
    x = rng.normal(size=(360, 6))
    noisy, clean = x.sum(axis=1) + rng.normal(size=360), x @ rng.normal(size=6) * (1 + group % 2)
    weak, strong = np.full(6, 0.01), np.full(6, 100.0)
    for y, expected in ((noisy, strong), (clean, weak)):
        found = []
        for shrinkage in (np.array([weak, strong]), expected[None]):
            sums = GroupedRegression(30, 1, 6, np.arange(30.0)[:, None], shrinkage)
            for _ in range(times):
                some = rng.permutation(360)
                sums.add(group[some], np.zeros(360, np.int64), x[some] + 1e-9 * rng.normal(size=(360, 6)), y[some])
            found.append(sums.fit()[1])
        np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)


def test_the_shrinkage_of_an_input_reaches_the_fit_of_every_element(tmp_path: Path) -> None:
    data = data_set(sizes=(8,), samples=300)
    values = np.random.default_rng(1).normal(size=(300, 1))
    paths = (tmp_path / "reference.npy", tmp_path / "residual.npy")
    task = ReferencedTask(name="T", field="t", level="graph", reference="linear")
    x = node_inputs(data)
    plain = np.array(residual.write(data, task, values, x, paths).slopes)
    shrinkage = np.array([[1.0, 1e12, 1.0]])
    found = np.array(residual.write(data, task, values, x, paths, shrinkage).slopes).reshape(-1, 2, 3)
    assert np.abs(plain.reshape(-1, 2, 3)).min() > 0
    # Shrunk towards the common slopes, which are shrunk towards zero.
    assert np.abs(found[..., 1]).max() < 1e-6 < np.abs(found[..., [0, 2]]).max()


def test_the_species_reference_of_a_graph_level_target_is_linear_in_numbers_of_atoms(tmp_path: Path) -> None:
    data = data_set(sizes=(3, 5, 8))
    n, share = np.diff(data["atom_offsets"]), compositions(data)
    energy = (0.3 + 2.0 * n * share - 1.5 * n * (1 - share))[:, None]
    found, reference, _ = fit(data, energy, "graph", "species", tmp_path)
    np.testing.assert_allclose(reference, energy, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(found.values), [0.3, 2.0, -1.5], rtol=1e-4)
    assert FittedReference(**json.loads(json.dumps(found.model_dump()))) == found


def test_an_element_that_the_training_set_lacks_is_interpolated(tmp_path: Path) -> None:
    data = data_set()
    data["atomic_numbers"][: data["atom_offsets"][1]] = PD
    data["split"][0] = 2
    values = np.where(data["atomic_numbers"] == PT, 1.0, 0.0)[:, None]
    found, reference, _ = fit(data, values, "node", "species", tmp_path)
    np.testing.assert_allclose(reference[0], (PD - FE) / (PT - FE), rtol=1e-6)
    assert found.elements == [FE, PD, PT]


def test_a_mean_over_single_samples_is_refused(tmp_path: Path) -> None:
    data = data_set(samples=4, sizes=(200, 201, 202, 203))
    with pytest.raises(UserError, match=r"tasks\.T\.reference=composition.*too few.*set it to species or none"):
        fit(data, np.zeros((4, 1)), "graph", "composition", tmp_path)


def test_a_target_without_any_value_or_spread_is_left_alone(tmp_path: Path) -> None:
    data = data_set()
    for value in (np.nan, 0.25):
        found, reference, rest = fit(data, np.full((200, 1), value), "graph", "composition", tmp_path)
        assert found.scale == [1.0] and np.isfinite(reference).all()
        assert np.array_equal(rest, np.full((200, 1), value * 0), equal_nan=True)
