"""Neighbour lists against brute force: open and periodic, skewed and small cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hydragnn_hpc.dataset import surrogate
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours, parse_length
from hydragnn_hpc.errors import UserError


def brute_force(geometry: Geometry, cutoff: float) -> list[tuple[int, int, tuple[float, ...]]]:
    """All pairs over all images, by looking at each."""
    reach = []
    for axis in range(3):
        if geometry.periodic[axis]:
            others = np.cross(geometry.cell[(axis + 1) % 3], geometry.cell[(axis + 2) % 3])
            height = abs(np.linalg.det(geometry.cell)) / np.linalg.norm(others)
            spread = np.ptp(geometry.pos @ np.linalg.inv(geometry.cell), axis=0)[axis]
            reach.append(int(np.ceil(cutoff / height + spread)) + 1)
        else:
            reach.append(0)
    found = []
    for step in product(*(range(-r, r + 1) for r in reach)):
        vectors = geometry.pos[None] + np.array(step) @ geometry.cell - geometry.pos[:, None]
        near = np.linalg.norm(vectors, axis=2) < cutoff
        if not any(step):
            np.fill_diagonal(near, False)
        found += [(int(i), int(j), tuple(np.round(vectors[i, j], 6) + 0.0)) for i, j in np.argwhere(near)]
    return sorted(found)


@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 12), periodic=st.tuples(*[st.booleans()] * 3), skew=st.floats(0, 0.9)
)
@settings(max_examples=60, deadline=None)
def test_neighbours_are_those_of_brute_force(seed: int, n: int, periodic, skew: float) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.0, 6.0, 3)) if any(periodic) else np.zeros((3, 3))
    if any(periodic):
        cell[1, 0], cell[2, 1] = skew * cell[0, 0], skew * cell[1, 1]
    pos = rng.uniform(0, 1, (n, 3)) @ (cell if any(periodic) else np.eye(3) * 6)
    geometry, cutoff = Geometry(pos, cell, periodic), float(rng.uniform(1.5, 5.0))
    expected = brute_force(geometry, cutoff)
    lengths = [np.linalg.norm(v) for _, _, v in expected]
    assume(all(abs(length - cutoff) > 1e-5 for length in lengths))
    found = find_neighbours(geometry, cutoff)
    i = np.repeat(np.arange(n), np.diff(found.offsets))
    pairs = zip(i.tolist(), found.neighbours.tolist(), found.vectors, strict=True)
    assert sorted((a, b, tuple(np.round(v, 6) + 0.0)) for a, b, v in pairs) == expected


@pytest.mark.parametrize(
    ("cutoff", "periodic", "edges"), [("7bohr", False, 206), ("7angstrom", False, 714), ("7bohr", True, 384)]
)
def test_the_lattice_of_the_paper(cutoff: str, periodic: bool, edges: int) -> None:
    pos, cell = surrogate.sites()
    found = find_neighbours(Geometry(pos, cell, (periodic,) * 3), parse_length(cutoff))
    assert len(found.neighbours) == edges


def test_a_cell_without_volume_is_refused() -> None:
    flat = np.array([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]])
    with pytest.raises(UserError, match="needs a cell with a volume"):
        find_neighbours(Geometry(np.zeros((1, 3)), flat, (True, True, True)), 3.0)


@pytest.mark.parametrize(
    ("text", "told"), [("7", "with its unit"), ("7 nm", "with its unit"), ("-7bohr", "positive"), ("e.bohr", "number")]
)
def test_lengths_that_are_none(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_length(text)


def test_units() -> None:
    assert parse_length("7bohr") == 7
    assert parse_length("7 angstrom") == pytest.approx(13.228, abs=1e-3)
