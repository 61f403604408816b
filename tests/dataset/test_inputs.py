"""Node inputs by name, against explicit sums, on lattices, clusters and crystals with displaced atoms."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from synthetic import arrays as synthetic_arrays

from hydragnn_hpc import compositions
from hydragnn_hpc.dataset import graphs
from hydragnn_hpc.dataset.features import elements, inputs, shells
from hydragnn_hpc.dataset.features.ewald import potential_matrix
from hydragnn_hpc.dataset.features.inputs import GeometryOperators
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import Geometry, Neighbours, find_neighbours
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.dataset import NumberRange
from hydragnn_hpc.records.recipe import InputRecipe, RequiredInput

FE, PD, PT = 26, 46, 78
EVERYTHING = [
    RequiredInput(name="species"),
    RequiredInput(name="composition"),
    RequiredInput(name="shells", number=4),
    RequiredInput(name="ewald"),
]
FACTS = (NumberRange(minimum=FE, maximum=PT), 7.0)  # elements; cutoff, bohr
ALWAYS, NEVER = (True, True, True), (False, False, False)


def lattice() -> Geometry:
    """The supercell of the open FePt data."""
    return Geometry(*surrogate.sites(), ALWAYS)


def data_set(geometries: list[Geometry], which: list[int], elements: list[int]) -> dict[str, np.ndarray]:
    """Random decorations as a data set's arrays; two of three samples are of the training set."""
    rng = np.random.default_rng(0)
    sizes = [len(g.pos) for g in geometries]
    found = [find_neighbours(g, 7.0) for g in geometries]
    n_of_sample = np.array(sizes)[which]
    return {
        "sample_geometry": np.array(which, np.int32),
        "split": (np.arange(len(which)) % 3 == 2).astype(np.uint8),
        "atom_offsets": np.concatenate([[0], np.cumsum(n_of_sample)]).astype(np.int64),
        "atomic_numbers": np.concatenate([rng.choice(elements, n) for n in n_of_sample]).astype(np.int32),
        "geometry_atom_offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "pos": np.concatenate([g.pos for g in geometries]),
        "cell": np.stack([g.cell for g in geometries]),
        "periodic": np.array([g.periodic for g in geometries], np.uint8),
        "edge_vectors": np.concatenate([f.vectors for f in found]),
    }


def brute_counts(geometry: Geometry, numbers: np.ndarray, element: int, low: float, high: float) -> np.ndarray:
    """Images of atoms of an element at a distance from ``low`` to below ``high``, by trying all of them."""
    reach = range(-3, 4) if any(geometry.periodic) else range(1)
    counts = np.zeros(len(numbers), int)
    for shift in product(reach, repeat=3):
        r = np.linalg.norm(geometry.pos + np.array(shift) @ geometry.cell - geometry.pos[:, None], axis=2)
        counts += ((r >= max(low, 1e-6)) & (r < high) & (numbers == element)).sum(axis=1)
    return counts


def cluster() -> Geometry:
    """The same sites without a cell."""
    return Geometry(surrogate.sites()[0], np.zeros((3, 3)), NEVER)


@pytest.mark.parametrize("geometry", [lattice(), cluster()], ids=["cell", "cluster"])
def test_shells_count_images_as_trying_all_of_them_does(geometry: Geometry) -> None:
    numbers = np.random.default_rng(1).choice([FE, PD, PT], 32)
    found = shells.find([geometry], 4, 7.0, 5.0)
    assert found.kind == "shells"
    np.testing.assert_allclose(found.radii, [5.1056, 5.218, 7.058, 7.3794], atol=1e-4)
    recipe = InputRecipe(names=["shells"], elements=[FE, PD, PT], species=[FE, PT], shells=found)
    columns = GeometryOperators(recipe, geometry).columns(numbers[None])[0].reshape(32, 4, 3)
    for s, k in product(range(4), range(3)):
        expected = brute_counts(geometry, numbers, [FE, PD, PT][k], *found.bounds[s : s + 2])
        np.testing.assert_array_equal(columns[:, s, k], expected)


@pytest.mark.parametrize(
    ("cell", "pos", "madelung"),
    [
        (np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], 1.76267477),  # CsCl; in units of the nearest distance
        (0.5 * (1 - np.eye(3)), [[0, 0, 0], [0.5, 0.5, 0.5]], 1.74756459),  # NaCl
        (0.5 * (1 - np.eye(3)), [[0, 0, 0], [0.25, 0.25, 0.25]], 1.63805505),  # zinc blende
    ],
)
@pytest.mark.parametrize("size", [3.0, 20.0])
def test_potentials_of_known_crystals(cell: np.ndarray, pos: list, madelung: float, size: float) -> None:
    """Madelung constants from Borwein, Borwein & Taylor, J. Math. Phys. 26, 2999 (1985), and Crandall (1999)."""
    geometry = Geometry(np.array(pos) * size + 7.7, cell * size, ALWAYS)  # not inside the cell
    nearest = np.linalg.norm(find_neighbours(geometry, 1.234 * size).vectors, axis=1).min()
    columns = GeometryOperators(InputRecipe(names=["ewald"], elements=[FE, PT], species=[FE, PT]), geometry).columns(
        np.array([[FE, PT]])
    )[0]
    # Charges +1 on Fe and -1 on Pt are the first column less the second.
    np.testing.assert_allclose((columns[:, 0] - columns[:, 1]) * nearest, [-madelung, madelung], rtol=1e-8)


def test_a_cell_and_its_double_have_the_same_potentials() -> None:
    rng = np.random.default_rng(3)
    cell = np.diag([8.0, 9.0, 7.0]) + rng.uniform(-1, 1, (3, 3))
    pos, numbers = rng.uniform(0, 1, (5, 3)) @ cell, rng.choice([FE, PD, PT], 5)
    recipe = InputRecipe(names=["ewald"], elements=[FE, PD, PT], species=[FE, PT])
    single = GeometryOperators(recipe, Geometry(pos, cell, ALWAYS)).columns(numbers[None])[0]
    double = np.concatenate([pos, pos + cell[1]])
    twice = GeometryOperators(recipe, Geometry(double, cell * [[1], [2], [1]], ALWAYS)).columns(
        np.tile(numbers, 2)[None]
    )[0]
    np.testing.assert_allclose(twice, np.tile(single, (2, 1)), atol=1e-9)


def test_clusters_follow_coulombs_law_and_slabs_are_refused() -> None:
    pos = np.array([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]])
    columns = GeometryOperators(
        InputRecipe(names=["ewald"], elements=[FE, PT], species=[FE, PT]), Geometry(pos, np.zeros((3, 3)), NEVER)
    ).columns(np.array([[FE, PT, PT]]))
    q = np.array([2 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(columns[0, :, 0], [q[1] / 3 + q[2] / 4, q[0] / 3 + q[2] / 5, q[0] / 4 + q[1] / 5])
    with pytest.raises(UserError, match="leave 'ewald' out"):
        potential_matrix(Geometry(pos, np.eye(3) * 9, (True, True, False)))


def test_powers_of_the_potential_follow_it(tmp_path: Path) -> None:
    data = data_set([lattice()], [0] * 60, [FE, PT])
    wanted = [RequiredInput(name="shells", number=4), RequiredInput(name="ewald", powers=3)]
    recipe = inputs.write(data, inputs.plan(data, wanted, *FACTS), tmp_path / "x.npy")
    # With two elements, the potentials are each other's negative, and one is redundant.
    assert recipe.columns[4:] == ["ewald Fe", "ewald^2 Fe", "ewald^3 Fe"]
    restored = InputRecipe.model_validate_json(recipe.model_dump_json())
    again = GeometryOperators(restored, lattice()).inputs(data["atomic_numbers"].reshape(-1, 32))
    np.testing.assert_allclose(again.reshape(-1, 7), np.load(tmp_path / "x.npy"), atol=1e-5)
    raw = again * np.array(recipe.scale) + np.array(recipe.mean)
    np.testing.assert_allclose(raw[..., 5], raw[..., 4] ** 2, atol=1e-6)
    np.testing.assert_allclose(raw[..., 6], raw[..., 4] ** 3, atol=1e-6)


def test_shells_may_be_shrunk_more_than_other_inputs(tmp_path: Path) -> None:
    data = data_set([lattice()], [0] * 60, [FE, PT])
    for wanted in (EVERYTHING, [EVERYTHING[2]]):
        recipe = inputs.write(data, inputs.plan(data, wanted, *FACTS), tmp_path / "x.npy")
        shell = np.array([c.startswith("shell ") for c in recipe.columns])
        shrinkage = inputs.shrinkage(recipe)
        assert shrinkage.shape[1] == len(recipe.columns) and (shrinkage == 1).all(axis=1).any()
        assert all(len(set(row[shell])) == 1 for row in shrinkage)
        assert len(np.unique(shrinkage, axis=0)) == len(shrinkage)
        others = shrinkage[:, ~shell].max(axis=1, initial=0)
        assert (shrinkage[:, shell].max(axis=1) >= others).all()
        assert (shrinkage[:, shell].max(axis=1) > others).any()


def test_all_inputs_of_a_lattice(tmp_path: Path) -> None:
    data = data_set([lattice()], [0] * 90, [FE, PT])
    recipe = inputs.write(data, inputs.plan(data, EVERYTHING, *FACTS), tmp_path / "x.npy")
    x = np.load(tmp_path / "x.npy")
    # With two elements, the second column of each is redundant: species, composition, four shells, potential.
    assert [c.split()[0] for c in recipe.columns] == ["species", "composition", *["shell"] * 4, "ewald"]
    assert all(c.endswith("Fe") for c in recipe.columns[1:])
    assert x.dtype == np.float32 and x.shape == (90 * 32, 7) and not list(tmp_path.glob("raw*"))
    assert set(x[:, 0]) == {0.0, 1.0}
    train = x[np.repeat(data["split"], 32) == 0]
    np.testing.assert_allclose(train[:, 1:].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train[:, 1:].std(axis=0), 1, atol=1e-5)
    share = (data["atomic_numbers"].reshape(90, 32) == FE).mean(axis=1)
    assert np.corrcoef(share, x.reshape(90, 32, 7)[:, 0, 1])[0, 1] == pytest.approx(1)


def test_elements_have_a_column_each_and_their_properties(tmp_path: Path) -> None:
    names = ["one_hot", "electronegativity", "period", "group"]
    data = data_set([lattice()], [0] * 60, [FE, PD, PT])
    recipe = inputs.write(data, inputs.plan(data, [RequiredInput(name=n) for n in names], *FACTS), tmp_path / "x.npy")
    # The third indicator follows from the two others.
    assert recipe.columns == ["one_hot Fe", "one_hot Pd", *names[1:]]
    raw = np.load(tmp_path / "x.npy") * np.array(recipe.scale) + np.array(recipe.mean)
    expected = {FE: [1, 0, 1.83, 4, 8], PD: [0, 1, 2.20, 5, 10], PT: [0, 0, 2.2, 6, 10]}
    np.testing.assert_allclose(raw, [expected[z] for z in data["atomic_numbers"]], atol=1e-5)
    iron_cobalt = data_set([lattice()], [0] * 60, [26, 27])
    plan = inputs.plan(iron_cobalt, [RequiredInput(name="period"), RequiredInput(name="group")], *FACTS)
    assert inputs.write(iron_cobalt, plan, tmp_path / "x.npy").columns == ["group"]


def test_a_property_that_an_element_lacks_is_refused() -> None:
    recipe = InputRecipe(names=["electronegativity"], elements=[2, 8, 18], species=[2, 18])
    with pytest.raises(UserError, match=r"'electronegativity' is not known for He, Ar; leave it out, or use one_hot"):
        GeometryOperators(recipe, lattice())


def test_rows_and_columns_of_the_periodic_table() -> None:
    """The noble gases end the rows; the groups of a row ascend; lanthanides and actinides are of group 3."""
    rows = {1: (1, 2), 2: (3, 10), 3: (11, 18), 4: (19, 36), 5: (37, 54), 6: (55, 86), 7: (87, 118)}
    for row, (first, last) in rows.items():
        numbers = range(first, last + 1)
        assert {elements.period(z) for z in numbers} == {row}
        groups = [elements.group(z) for z in numbers]
        assert groups == sorted(groups) and groups[0] == 1 and groups[-1] == 18
        assert groups.count(3) == {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 15, 7: 15}[row]
        for z, column in zip(numbers, groups, strict=True):
            if column != 3 and z != 2:
                assert elements.valence_electrons(z) == (column if column <= 12 else column - 10), z
    assert [elements.valence_electrons(z) for z in (2, 21, 57, 58, 63, 71)] == [2, 3, 3, 4, 9, 3]
    assert elements.electronegativity(9) == max(elements.electronegativity(z) for z in range(3, 10)) == 3.98
    assert elements.radius(78) == 1.36 and np.isnan([elements.radius(97), elements.electronegativity(95)]).all()


def test_the_test_set_does_not_affect_the_standardisation(tmp_path: Path) -> None:
    data = data_set([lattice()], [0] * 30, [FE, PT])
    recipes = []
    for seed in (0, 1):
        atoms = np.repeat(data["split"], 32) != 0
        changed = data["atomic_numbers"].copy()
        changed[atoms] = np.random.default_rng(seed).choice([FE, PT], atoms.sum())
        changed_data = {**data, "atomic_numbers": changed}
        recipes.append(inputs.write(changed_data, inputs.plan(data, EVERYTHING, *FACTS), tmp_path / "x.npy"))
    assert recipes[0] == recipes[1]


def test_a_crystal_shifted_onto_itself_keeps_its_inputs() -> None:
    """Site 0 goes to site 2 in a shift by a lattice vector along x: the inputs move with the atoms."""
    geometry = lattice()
    data = data_set([geometry], [0] * 12, [FE, PD, PT])
    recipe = inputs.plan(data, [RequiredInput(name="shells", number=13), RequiredInput(name="ewald")], *FACTS)
    step = np.array([surrogate.A, 0, 0])
    fraction = (geometry.pos[:, None] + step - geometry.pos) @ np.linalg.inv(geometry.cell)
    onto = np.argmin(np.abs(fraction - np.round(fraction)).sum(axis=2), axis=1)
    assert sorted(onto) == list(range(32)) and (onto != np.arange(32)).all()
    numbers = data["atomic_numbers"].reshape(12, 32)
    shifted = np.empty_like(numbers)
    shifted[:, onto] = numbers
    operators = GeometryOperators(recipe, geometry)
    np.testing.assert_allclose(operators.columns(shifted)[:, onto], operators.columns(numbers), atol=1e-12)


def test_constant_and_redundant_columns_are_left_out(tmp_path: Path) -> None:
    pure = data_set([lattice()], [0] * 6, [FE])
    recipe = inputs.write(pure, inputs.plan(pure, EVERYTHING, *FACTS), tmp_path / "x.npy")
    assert recipe.columns == ["species"] and np.isfinite(np.load(tmp_path / "x.npy")).all()
    recipe = inputs.write(pure, inputs.plan(pure, EVERYTHING[1:], *FACTS), tmp_path / "x.npy")
    assert len(recipe.kept) == 1 and (np.load(tmp_path / "x.npy") == 0).all()
    ternary = data_set([lattice()], [0] * 60, [FE, PD, PT])
    recipe = inputs.write(ternary, inputs.plan(ternary, EVERYTHING, *FACTS), tmp_path / "x.npy")
    kinds = [c.split()[0] for c in recipe.columns]
    assert [kinds.count(k) for k in ("species", "composition", "shell", "ewald")] == [1, 2, 8, 2]


def shaken(number: int) -> list[Geometry]:
    """Crystals of several sizes with their atoms off their sites, and clusters among them."""
    rng = np.random.default_rng(5)
    found = []
    for k in range(number):
        size = (2, 2, 1 + k % 2)
        corners = np.array(list(product(*map(range, size))), float)
        pos = (corners[:, None] + [[0, 0, 0], [0.5, 0.5, 0.5]]).reshape(-1, 3) * 5.4
        found.append(Geometry(pos + 0.2 * rng.normal(size=pos.shape), np.diag(size) * 5.4, NEVER if k % 3 else ALWAYS))
    return found


def test_geometries_without_common_shells_get_smooth_bins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometries = shaken(12)
    which = [k % 12 for k in range(40)]
    data = data_set(geometries, which, [FE, PD, PT])
    plan = inputs.plan(data, EVERYTHING, *FACTS)
    assert plan.shells is not None and plan.shells.kind == "radial" and plan.shells.bounds[1] == 14.0
    recipe = inputs.write(data, plan, tmp_path / "x.npy")
    x = np.load(tmp_path / "x.npy")
    assert np.isfinite(x).all()
    # The recipe that is stored with a model gives the same inputs for every structure alone.
    restored = InputRecipe.model_validate_json(recipe.model_dump_json())
    for sample, g in enumerate(which):
        atoms = slice(*data["atom_offsets"][sample : sample + 2])
        alone = GeometryOperators(restored, geometries[g]).inputs(data["atomic_numbers"][atoms][None])[0]
        np.testing.assert_allclose(alone, x[atoms], atol=2e-5)
    monkeypatch.setattr(inputs, "BATCH", 7)
    inputs.write(data, plan, tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), x, atol=1e-5)


def chain() -> Geometry:
    """A chain of atoms between which every distance from 3 bohr on occurs, around many atoms each."""
    x = np.cumsum(np.random.default_rng(0).permutation(np.linspace(3, 7, 400)))
    return Geometry(x[:, None] * [1.0, 0, 0], np.eye(3) * [x[-1], 0, 0], (True, False, False))


def amorphous() -> Geometry:
    """A large cell without order."""
    pos = np.array(list(product(range(6), repeat=3))) * 5.0
    return Geometry(pos + np.random.default_rng(0).normal(size=pos.shape) * 0.6, np.eye(3) * 30.0, ALWAYS)


@pytest.mark.parametrize("geometry", [chain(), amorphous()], ids=["no gaps", "few gaps"])
def test_geometries_without_shells_are_not_searched_far(geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[float] = []

    def listed(geometry: Geometry, cutoff: float, **options: bool) -> Neighbours:
        radii.append(cutoff)
        assert cutoff < 20.0
        return find_neighbours(geometry, cutoff, **options)

    monkeypatch.setattr(shells, "find_neighbours", listed)
    assert shells.find([geometry], 13, 7.0, 3.0).kind == "radial" and radii


def test_more_shells_than_can_be_listed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_MOST_EDGES", 10_000)
    with pytest.raises(UserError, match=r"inputs: 50 shells would reach beyond 21\.36 bohr, .*; set fewer shells"):
        shells.find([lattice()], 50, 7.0, 5.0)


def test_bins_do_not_jump_where_an_atom_crosses_the_range() -> None:
    found = shells.find(shaken(2), 6, 7.0, 4.0)
    recipe = InputRecipe(names=["shells"], elements=[FE], species=[FE, FE], shells=found)
    end = found.bounds[1]
    seen = []
    for r in (end - 1e-3, end + 1e-3, 5.0, 5.001):
        pair = Geometry(np.array([[0.0, 0, 0], [r, 0, 0]]), np.zeros((3, 3)), NEVER)
        seen.append(GeometryOperators(recipe, pair).columns(np.array([[FE, FE]]))[0])
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)
    np.testing.assert_allclose(seen[2], seen[3], atol=5e-3)
    assert seen[2].max() > 0.5


def test_supercells_of_one_lattice_share_shells() -> None:
    pos, cell = surrogate.sites()
    double = Geometry(np.concatenate([pos, pos + cell[2]]), cell * [[1], [1], [2]], ALWAYS)
    assert shells.find([lattice(), double], 5, 7.0, 5.0).kind == "shells"
    # The distances of one shaken crystal are not shells either: each is around two sites only.
    assert shells.find(shaken(1), 5, 7.0, 4.0).kind == "radial"
    assert shells.find([], 5, 7.0, 4.0).kind == "radial"
    atom = Geometry(np.zeros((1, 3)), np.zeros((3, 3)), NEVER)
    assert shells.find([atom], 5, 7.0, 4.0).kind == "radial"
    assert GeometryOperators(
        InputRecipe(names=["shells"], elements=[FE], species=[FE, FE], shells=shells.find([atom], 2, 7.0, 4.0)), atom
    ).columns(np.array([[FE]])).tolist() == [[[0.0, 0.0]]]


def test_blocks_hold_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compositions, "BLOCK", 10)
    data = synthetic_arrays(sizes=(4, 1, 6, 25, 3))
    found = list(compositions.blocks(data["atom_offsets"]))
    assert [b for _, b in found][:-1] == [f for f, _ in found][1:] and found[0][0] == 0 and found[-1][1] == 10
    counts = compositions.counts_of(data["atomic_numbers"], data["atom_offsets"], np.array([26, 27, 78]))
    for sample in range(10):
        own = data["atomic_numbers"][slice(*data["atom_offsets"][sample : sample + 2])]
        assert counts[sample].tolist() == [(own == z).sum() for z in (26, 27, 78)]
    assert compositions.elements_of(data["atomic_numbers"]).tolist() == sorted(set(data["atomic_numbers"].tolist()))
