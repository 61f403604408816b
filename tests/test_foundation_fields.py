"""Arrays of a data set are checked against their declarations."""

from __future__ import annotations

import numpy as np
import pytest

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PROPERTIES, STRUCTURE, target_field


def test_the_first_array_fixes_sizes_and_later_ones_must_have_them() -> None:
    sizes: dict[str, int] = {}
    declared = {f.name: f for f in STRUCTURE}
    declared["pos"].check(np.zeros((5, 3)), sizes, "x.bp")
    assert sizes == {"B": 5}
    with pytest.raises(UserError, match=r"x\.bp: array 'pos' has shape \(4, 3\), expected \(5, 3\)"):
        declared["pos"].check(np.zeros((4, 3)), sizes, "x.bp")
    with pytest.raises(UserError, match=r"expected \('G', 3, 3\)"):
        declared["cell"].check(np.zeros((2, 3)), sizes, "x.bp")
    with pytest.raises(UserError, match="dtype float32, expected float64"):
        declared["pos"].check(np.zeros((5, 3), np.float32), sizes, "x.bp")


def test_each_target_has_a_width_of_its_own() -> None:
    sizes: dict[str, int] = {}
    target_field("a", "node", "e").check(np.zeros((4, 1)), sizes, "")
    target_field("b", "node", "e").check(np.zeros((4, 3)), sizes, "")
    assert sizes == {"A": 4}
    assert target_field("c", "graph", "Ry").shape == "S d"


def test_declarations_are_consistent() -> None:
    assert len({f.name for f in STRUCTURE}) == len(STRUCTURE)
    for field in STRUCTURE:
        assert np.dtype(field.dtype).kind in "iuf"
        assert field.meaning
    assert {p.level for p in PROPERTIES.values()} == {"graph", "node"}
