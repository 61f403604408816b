"""Neighbour lists against brute force and against ASE."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic import neighbours_of

from hydragnn_hpc.dataset import graphs
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours, parse_length
from hydragnn_hpc.errors import UserError

OPEN, PERIODIC = (False,) * 3, (True,) * 3
NO_CELL = np.zeros((3, 3))


@st.composite
def structures(draw: st.DrawFn, periodic: tuple[bool, bool, bool] | None = None) -> tuple[Geometry, float]:
    """Up to 6 atoms, some outside of a skewed cell, and a cutoff that may be longer than the cell."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cell = np.diag(rng.uniform(2.0, 8.0, 3)) + draw(st.sampled_from([0.0, 2.0])) * rng.uniform(-1, 1, (3, 3))
    edges = np.linalg.norm(cell, axis=1)
    assume(abs(np.linalg.det(cell)) > 0.2 * edges.prod())
    pos = rng.uniform(-0.7, 1.7, (draw(st.integers(1, 6)), 3)) @ cell
    chosen = periodic or draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return Geometry(pos, cell, chosen), draw(st.floats(1.0, 9.0))


def by_brute_force(geometry: Geometry, cutoff: float) -> set[tuple[int, int, tuple[float, ...]]]:
    """Every pair and every image within reach, one by one."""
    heights = 1 / np.linalg.norm(np.linalg.inv(geometry.cell).T, axis=1)  # distances between opposite faces
    inside = geometry.pos @ np.linalg.inv(geometry.cell)
    spread = np.ceil(np.ptp(inside, axis=0))
    reach = [
        int(np.ceil(cutoff / h) + s) if p else 0 for h, s, p in zip(heights, spread, geometry.periodic, strict=True)
    ]
    found = set()
    for image in product(*(range(-r, r + 1) for r in reach)):
        vectors = geometry.pos[None] - geometry.pos[:, None] + np.array(image) @ geometry.cell
        near = np.linalg.norm(vectors, axis=2) < cutoff
        if image == (0, 0, 0):
            np.fill_diagonal(near, False)
        for i, j in np.argwhere(near):
            found.add((int(i), int(j), tuple((np.round(vectors[i, j], 6) + 0.0).tolist())))
    return found


def coincides(geometry: Geometry) -> bool:
    """Whether two atoms (or images) come closer than a list accepts."""
    return any(np.linalg.norm(v) < 2e-3 for _, _, v in by_brute_force(geometry, 0.01))


@settings(max_examples=150, deadline=None)
@given(structures())
def test_lists_equal_brute_force(case: tuple[Geometry, float]) -> None:
    geometry, cutoff = case
    assume(not coincides(geometry))
    assert neighbours_of(geometry, cutoff) == by_brute_force(geometry, cutoff)


@pytest.mark.parametrize("periodic", [p for p in product((False, True), repeat=3) if not all(p)])
@pytest.mark.parametrize("distance", [1e3, 1e5, 1e7])
def test_a_stray_atom_changes_no_other_neighbours(periodic: tuple[bool, bool, bool], distance: float) -> None:
    """In the huge box round it, vesin searches for a minute or divides by zero."""
    near = np.array([[0.0, 0.0, 0.0], [0.5, 0.3, 2.0], [3.0, 1.0, 1.0]])
    cell = np.diag([10.0, 11.0, 12.0])
    stray = near[:1] + distance * ~np.array(periodic) + 5.0 * np.array(periodic)
    found = find_neighbours(Geometry(np.concatenate([near, stray, stray + 1.0]), cell, periodic), 4.0)
    expected = find_neighbours(Geometry(near, cell, periodic), 4.0)
    n = expected.offsets[-1]
    assert found.offsets[:4].tolist() == expected.offsets.tolist()
    assert np.array_equal(found.neighbours[:n], expected.neighbours)
    assert np.array_equal(found.vectors[:n], expected.vectors)
    assert found.neighbours[n:].tolist() == [4, 3]


@pytest.mark.parametrize("periodic", list(product((True, False), repeat=3))[:-1])
@pytest.mark.parametrize("turns", [1, 70, 5000])
def test_atoms_that_have_left_the_cell_have_the_same_neighbours(periodic: tuple[bool, bool, bool], turns: int) -> None:
    """As in a long trajectory without wrapping, on which vesin itself stops the process."""
    cell = np.array([[-0.5, 0.9, 0.6], [4.0, 3.0, 0.0], [0.0, 1.0, 5.0]])
    pos = np.array([[0.1, 0.2, 0.3], [1.9, 1.1, 2.5], [2.0, 2.8, 0.4]])
    moved = np.array([[0, 0, 0], [turns, -turns, 0], [-turns, turns, -turns]]) * periodic
    home, away = (find_neighbours(Geometry(p, cell, periodic), 4.5) for p in (pos, pos + moved @ cell))
    assert len(home.neighbours) and home.offsets.tolist() == away.offsets.tolist()
    for first, last in pairwise(home.offsets.tolist()):  # their order is by image
        one, other = (nb.vectors[first:last].round(6).tolist() for nb in (home, away))
        assert np.allclose(sorted(one), sorted(other), atol=2e-6)


@pytest.mark.parametrize("edge", [1e6, 1e9])
def test_a_cell_of_absurd_length_is_refused(edge: float) -> None:
    for cell in (np.diag([10.0, 10.0, edge]), np.diag([edge, edge, edge])):
        with pytest.raises(UserError, match="check its unit"):
            find_neighbours(Geometry(np.zeros((1, 3)), cell, PERIODIC), 7.0)


@settings(max_examples=40, deadline=None)
@given(structures(PERIODIC))
def test_lists_have_the_edges_of_ase(case: tuple[Geometry, float]) -> None:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    geometry, cutoff = case
    assume(not coincides(geometry))
    found = find_neighbours(geometry, cutoff)
    i, j, d = neighbor_list("ijd", Atoms(positions=geometry.pos, cell=geometry.cell, pbc=True), cutoff)
    sites = np.repeat(np.arange(len(geometry.pos)), np.diff(found.offsets))
    ours = sorted(zip(sites, found.neighbours, np.linalg.norm(found.vectors, axis=1).round(6), strict=True))
    assert ours == sorted(zip(i, j, d.round(6), strict=True))


@settings(max_examples=60, deadline=None)
@given(structures())
def test_lists_are_sorted_and_exactly_antisymmetric(case: tuple[Geometry, float]) -> None:
    geometry, cutoff = case
    assume(not coincides(geometry))
    found = find_neighbours(geometry, cutoff)
    sites = np.repeat(np.arange(len(geometry.pos)), np.diff(found.offsets))
    pairs = list(zip(sites.tolist(), found.neighbours.tolist(), strict=True))
    assert pairs == sorted(pairs)
    there = {(i, j, v.tobytes()) for (i, j), v in zip(pairs, found.vectors + 0.0, strict=True)}
    back = {(j, i, v.tobytes()) for (i, j), v in zip(pairs, -found.vectors + 0.0, strict=True)}
    assert len(there) == len(pairs) and there == back
    again = find_neighbours(geometry, cutoff)
    assert again.vectors.tobytes() == found.vectors.tobytes()


@pytest.mark.parametrize(
    ("cutoff", "periodic", "edges"), [("7bohr", False, 206), ("7angstrom", False, 714), ("7bohr", True, 384)]
)
def test_the_lattice_of_the_paper(cutoff: str, periodic: bool, edges: int) -> None:
    pos, cell = surrogate.sites()
    found = find_neighbours(Geometry(pos, cell, (periodic,) * 3), parse_length(cutoff))
    assert len(found.neighbours) == edges


def test_an_atom_has_its_own_images_as_neighbours() -> None:
    simple_cubic = Geometry(np.zeros((1, 3)), 5.0 * np.eye(3), PERIODIC)
    assert [len(find_neighbours(simple_cubic, r).neighbours) for r in (4.9, 5.1, 7.2, 8.7)] == [0, 6, 18, 26]


def test_isolated_atoms_have_no_neighbours() -> None:
    found = find_neighbours(Geometry(np.array([[0.0, 0, 0], [3, 0, 0], [99, 0, 0]]), NO_CELL, OPEN), 7.0)
    assert found.offsets.tolist() == [0, 1, 2, 2] and found.neighbours.tolist() == [1, 0]
    assert found.vectors.tolist() == [[3, 0, 0], [-3, 0, 0]]


@pytest.mark.parametrize(
    ("pos", "cell", "cutoff", "message"),
    [
        ([[0, 0, 0]], np.zeros((3, 3)), 7.0, "cell with a volume.*boundary open"),
        ([[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [5, 5, 0]], 7.0, "cell with a volume"),
        ([[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [0, 0, np.nan]], 7.0, "cell with a volume"),
        ([[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [5, 5, 0.001]], 7.0, "nearly flat: about 2.7e.12 images"),
        ([[0, 0, 0], [5, 0, 0]], 5 * np.eye(3), 4.0, "sites 0 and 1 are 0 bohr apart.*--cell"),
        ([[0, 0, 0]], 5 * np.eye(3), 5.0, "at the cutoff of 5.0 bohr.*5.01bohr"),
        ([[0, 0, 0], [1, 1, 1]], 5 * np.eye(3), 7000.0, r"check the units of .*\(--cutoff and --cell"),
    ],
)
def test_what_cannot_be_listed_is_reported_in_one_line(pos, cell, cutoff: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_neighbours(Geometry(np.array(pos, float), np.array(cell, float), PERIODIC), cutoff)


def test_a_shell_at_the_cutoff_is_reported_under_an_open_boundary_too() -> None:
    third = 1 / 3
    pair = Geometry(np.array([[0.0, 0, 0], [3 * third + 3 * 0.1, 0, 0]]), NO_CELL, OPEN)
    with pytest.raises(UserError, match="rounding, which would decide"):
        find_neighbours(pair, 1.3)
    find_neighbours(pair, 1.3, sharp=False)


def test_a_cutoff_far_beyond_a_large_cluster_is_refused() -> None:
    pos = np.random.default_rng(0).uniform(0, 100, (7000, 3))
    with pytest.raises(UserError, match=r"2\.5e\+07 edges between 7,000 atoms .*check the units"):
        find_neighbours(Geometry(pos, NO_CELL, OPEN), 5000.0)


def test_a_list_that_is_not_symmetric_is_not_accepted() -> None:
    i, j, images = np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    with pytest.raises(RuntimeError, match="not symmetric"):
        graphs._check_symmetric(i, j, images)


@pytest.mark.parametrize(
    ("text", "bohr"), [("7bohr", 7.0), (" 3.5 Bohr ", 3.5), ("7angstrom", 13.2280), ("1e1 Å", 18.8973), ("2å", 3.77945)]
)
def test_lengths(text: str, bohr: float) -> None:
    assert parse_length(text) == pytest.approx(bohr, rel=1e-5)


@pytest.mark.parametrize("text", ["7", "", "bohr", "7 miles", "-7bohr", "0bohr", "1e999bohr", "1.2.3bohr", "nanbohr"])
def test_invalid_lengths_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--cutoff"):
        parse_length(text, "--cutoff")


def test_geometries_are_equal_when_their_bits_are() -> None:
    pos = np.arange(6.0).reshape(2, 3)
    key = Geometry(pos, NO_CELL, OPEN).key()
    assert key == Geometry(pos.copy(), NO_CELL, OPEN).key()
    assert key != Geometry(np.nextafter(pos, 9), NO_CELL, OPEN).key()
    assert key != Geometry(pos, np.eye(3), OPEN).key() != Geometry(pos, np.eye(3), PERIODIC).key()
