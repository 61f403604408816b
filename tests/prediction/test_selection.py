"""``select``: by spread and distance, the same whatever the order, within its limits; at random for comparison."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest

from hydragnn_hpc import Ensemble, TaskPrediction
from hydragnn_hpc.dataset import symmetry
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.prediction.selection import Limits, Pool, at_random, farthest
from tests.campaigns import called, done
from tests.prediction.structures import some


def pool_of(features: np.ndarray, compositions: str = "") -> Pool:
    """A pool with these features."""
    found = Pool(("H",), index=list(range(len(features))), features=list(features))
    found.composition = list(compositions or "A" * len(features))
    return found


def test_without_differences_in_spread_the_farthest_points_are_chosen() -> None:
    line = np.array([[0.0], [1.0], [2.0], [10.0], [9.5], [5.0]])
    assert farthest(pool_of(line), np.array([1.0, 1, 1, 1.1, 1, 1]), Limits(4)) == [3, 0, 5, 2]


def test_the_spread_weighs_the_distance() -> None:
    """A large spread draws two of a cluster before a certain one far away; duplicates come last."""
    points = np.array([[0.0], [1.0], [10.0], [0.0]])
    assert farthest(pool_of(points), np.array([5.0, 4.0, 0.1, 5.0]), Limits(3)) == [0, 1, 2]
    assert farthest(pool_of(points), np.array([5.0, 4.0, 0.1, 5.0]), Limits(9)) == [0, 1, 2, 3]


def test_limits_hold_for_both_ways() -> None:
    rng = np.random.default_rng(0)
    pool = pool_of(rng.normal(size=(60, 3)), "AB" * 20 + "C" * 20)
    classes = np.repeat(np.arange(30), 2)
    limits = Limits(25, per_composition=7, classes=classes)
    for chosen in (farthest(pool, rng.random(60), limits), at_random(pool, 0, limits)):
        assert len(set(chosen)) == len(chosen) == 21  # seven of each
        assert max(Counter(pool.composition[k] for k in chosen).values()) == 7
        assert max(Counter(classes[chosen].tolist()).values()) == 1
    assert at_random(pool, 0, Limits(9)) == at_random(pool, 0, Limits(9)) != at_random(pool, 1, Limits(9))


def test_a_task_has_one_kind_of_spread_throughout_the_pool() -> None:
    """Calibrated, unless that of any atom of any batch is infinite, as where an element's calibration is."""
    pool = Pool(("calibrated", "raw", "noisy"))
    pair = Geometry(np.eye(3)[:2], np.zeros((3, 3)), (False, False, False))
    frames = [Frame("s", "s", "s", np.array([26, 78]), pair.pos, pair.cell, None)]
    batch = UnseenStructures(
        frames, [0], [SimpleNamespace(geometry=pair)], np.array([0]), np.array([0, 2]), frames[0].atomic_numbers,
        np.ones((2, 1)),
    )  # fmt: skip

    def spread(value: float, calibrated: float, between: float | None = None) -> TaskPrediction:
        std, other = np.array([[value], [value]]), np.array([[3.0], [calibrated]])
        noise = None if between is None else np.full((2, 1), between)
        return TaskPrediction("", "node", "", std, std, other, std, std, std[None], np.array([0, 2]), noise, noise)

    for value in (4.0, math.inf):
        predicted = {"calibrated": spread(1.0, 4.0), "raw": spread(2.0, value), "noisy": spread(1.0, value, 5.0)}
        pool.add(SimpleNamespace(apply=lambda _, predicted=predicted: predicted), None, batch)
    assert pool.uncalibrated() == ["raw"]
    np.testing.assert_allclose(pool.spreads(), [[12.5**0.5, 2.0, 5.0]] * 2)
    assert np.array_equal(pool.scores(), [1.0, 1.0])
    assert [row[-3:] for row in pool.rows([1], pool.scores())] == [("3.5355339059327378", "2.0", "5.0")]


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_the_command_chooses_by_calibrated_spread_in_any_order(plain: Path) -> None:
    folder = plain.parent
    structures = some(folder)
    for number, atoms in enumerate(structures):
        atoms.info["name"] = f"s-{number}"
    ase.io.write(folder / "pool.extxyz", structures)
    ase.io.write(folder / "loop.extxyz", structures[::-1])
    chosen, other = (
        table(done(folder, "select", "out-plain", name, "--task", "M", "--number", "4"))
        for name in ("pool.extxyz", "loop.extxyz")
    )
    assert [r["rank"] for r in chosen] == ["1", "2", "3", "4"] and len({r["index"] for r in chosen}) == 4
    without = ("index", "frame")
    assert [{k: v for k, v in r.items() if k not in without} for r in chosen] == [
        {k: v for k, v in r.items() if k not in without} for r in other
    ]
    predicted = Ensemble(plain).predict(structures)["M"]
    spreads = [np.sqrt((predicted.of(k).std_calibrated ** 2).mean()) for k in range(len(structures))]
    assert int(chosen[0]["index"]) == int(np.argmax(spreads))
    for row in chosen:
        assert float(row["std_M"]) == float(row["score"]) == pytest.approx(spreads[int(row["index"])], rel=1e-12)
    every = table(done(folder, "select", "out-plain", "pool.extxyz", "--number", "4", "--out", "next.csv") or "rank\n")
    assert every == [] and [*table((folder / "next.csv").read_text())[0]][-3:] == ["std_H", "std_C", "std_M"]


@pytest.mark.slow
def test_one_of_each_class_and_composition(plain: Path) -> None:
    """Equivalents by a symmetry of the cluster are recognised."""
    folder = plain.parent
    structures = some(folder)[1:4]
    pos = structures[0].positions
    turns = symmetry.site_permutations(Geometry(pos, np.zeros((3, 3)), (False, False, False)))
    assert len(turns) > 1
    pool = []
    for atoms in structures:
        for turn in turns[:2]:
            same = atoms.copy()
            same.numbers[turn] = atoms.numbers
            pool.append(same)
    ase.io.write(folder / "twins.extxyz", pool)
    for how in ((), ("--random",)):
        found = called(folder, "select", "out-plain", "twins.extxyz", "--one-per-class", *how)
        rows = table(found.stdout)
        assert sorted({int(r["index"]) // 2 for r in rows}) == [0, 1, 2] and len(rows) == 3
        assert "3 of 6 structures chosen, all that the limits allow" in found.stderr
    rows = table(done(folder, "select", "out-plain", "twins.extxyz", "--per-composition", "1"))
    irons = {int((atoms.numbers == 26).sum()) for atoms in pool}
    assert len({r["composition"] for r in rows}) == len(rows) == len(irons)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out-plain", "few.extxyz", "--task", "X"), "--task X: the variant HCM has the tasks H, C, M"),
        (("out-plain", "none.xyz"), "no such file or folder: none.xyz"),
        (("out-plain", "nothing.xyz"), "nothing.xyz"),
        (("out-plain", "few.extxyz", "--task", "X", "--random"), "--task X: the variant HCM has the tasks H, C, M"),
        (("out-plain", "few.extxyz", "--device", "gpu"), "--device gpu; known: cpu, cuda, xpu, auto"),
        (("out", "few.extxyz"), "several variants have finished members"),
        (("raw", "few.extxyz"), "raw holds no campaign"),
        (("out-plain", "few.extxyz", "--out", "raw"), "--out raw: raw is a folder; give a file in"),
        (("out-plain", "few.extxyz", "--out", "campaign.yaml"), "--out campaign.yaml: the suffix must be .csv"),
    ],
)
def test_what_cannot_be_chosen_from_is_reported_in_one_line(
    fept: Path, plain: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert plain.parent == fept
    some(fept)
    (fept / "nothing.xyz").write_text("")
    found = called(fept, "select", *arguments)
    assert found.returncode == 2 and message in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr


@pytest.mark.slow
def test_one_member_has_no_spread_but_chance_remains(ternary: Path) -> None:
    some(ternary)
    found = called(ternary, "select", "out", "few.extxyz")
    assert found.returncode == 2 and "one member has no spread to choose by" in found.stderr
    rows = table(done(ternary, "select", "out", "few.extxyz", "--random", "--number", "2", "--task", "F"))
    assert [(row["score"], row["std_F"]) for row in rows] == [("", "")] * 2 and "std_H" not in rows[0]
