"""Every remark on data appears where it should, and does not where it should not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from emt import changed, crystals
from synthetic import remarks_of

from hydragnn_hpc import ledger
from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.build.resplit import SplitOptions, split
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.dataset.remarks import registry
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder

pytestmark = pytest.mark.usefixtures("written_here")

Made = tuple[list[Atoms], str, dict[str, Any]]
"""Structures, the target to take from them, and further options of preparing them."""
ENERGY = "e=graph:e:eV"


def clusters() -> list[Atoms]:
    """Sixty open clusters of four atoms."""
    rng, sites = np.random.default_rng(1), np.eye(4, 3) * 2
    return [Atoms("HHHO", sites + rng.normal(0, 0.3, (4, 3))) for _ in range(60)]


def decorated(n: int = 60) -> list[Atoms]:
    """Cu-Au on one ideal lattice of eight sites: a few configurations, each many times but for a symmetry."""
    rng, made = np.random.default_rng(2), []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.symbols[rng.choice(8, 3, replace=False)] = "Au"
        atoms.info["e"] = rng.normal()
        made.append(atoms)
    return made


def three_numbers(_: int, atoms: Atoms) -> np.ndarray:
    """Three numbers of each atom that do not rotate, of either sign."""
    size = np.linalg.norm(atoms.arrays["f"], axis=1)
    return np.stack([size, np.sin(7 * size), np.cos(9 * size)], axis=1)


def with_pure(made: list[Atoms], pbc: bool) -> list[Atoms]:
    """The alloys, and the pure elements as crystals or clusters, 0.5 eV per atom below."""
    for symbol in ("Cu", "Au"):
        pure = Atoms(bulk("Cu", cubic=True), pbc=pbc)
        pure.symbols[:] = symbol
        pure.info["e"] = min(a.info["e"] / len(a) for a in made) * 4 - 2.0
        made.append(pure)
    return made


ALLOY = "h=mixing:e:eV"
LATTICES = {"sizes": (1, 2), "symbols": "Cu Au", "rattle": 0.0}
CASES: dict[str, tuple[list[Callable[[], Made]], list[Callable[[], Made]]]] = {
    "distances": (
        [lambda: (crystals(), ENERGY, {}), lambda: (crystals(20), ENERGY, {})],
        [lambda: (crystals(**LATTICES), ENERGY, {}), lambda: (decorated(), ENERGY, {})],
    ),
    "rotating-target": (
        [
            lambda: (crystals(), "x=node:f:1", {}),
            lambda: (crystals(), "x=graph:s:1", {}),
            lambda: (changed(crystals(), lambda _, a: a.info["s"][[0, 4, 8, 5, 2, 1]], "v"), "x=graph:v:1", {}),
            lambda: (changed(clusters(), lambda _, a: a.numbers @ (a.positions - a.positions.mean(0)), "d"),
                     "x=graph:d:1", {}),
            lambda: (crystals(**LATTICES), "forces=node:f:1", {}),  # an ideal lattice shows nothing: by name
            lambda: (crystals(**LATTICES), "x=node:f:eV/Ang", {}),
        ],
        [
            lambda: (changed(crystals(), three_numbers, "f"), "x=node:f:1", {}),
            lambda: (changed(crystals(), lambda k, a: np.random.default_rng(k).normal(size=3), "d"), "x=graph:d:1", {}),
            lambda: (changed(crystals(), lambda k, a: np.eye(3).ravel() * a.info["e"] + k % 2, "s"), "x=graph:s:1", {}),
            lambda: (crystals(), ENERGY, {}),
        ],
    ),
    "small-part": (
        [lambda: (crystals(), ENERGY, {}),
         lambda: (crystals(300, symbols="Al Ni Cu Pd Ag Pt Au"), ENERGY, {"split_by": "composition"})],
        [lambda: (crystals(300), ENERGY, {})],
    ),
    "small-compositions": (
        [lambda: (crystals(200, sizes=(3,), symbols="Cu Au"), ENERGY, {"split_by": "composition"})],
        [lambda: (crystals(300, symbols="Cu Au"), ENERGY, {"split_by": "random"}), lambda: (crystals(), ENERGY, {})],
    ),
    "equivalents": (
        [lambda: (decorated(), ENERGY, {"keep_repeated": True})],
        [lambda: (decorated(200), ENERGY, {"keep_repeated": True, "split_by": "symmetry"}),
         lambda: (crystals(), ENERGY, {})],
    ),
    "capped": (
        [lambda: (crystals(), ENERGY, {"cap": 40})],
        [lambda: (crystals(symbols="Cu Au"), ENERGY, {"cap": 10}), lambda: (crystals(), ENERGY, {"cap": 60})],
    ),
    "outliers": (
        [lambda: (changed(crystals(), lambda k, a: 1e6 if k == 7 else a.info["e"]), ENERGY, {})],
        [lambda: (changed(crystals(), lambda k, a: np.random.default_rng(k).standard_t(3)), ENERGY, {}),
         lambda: (changed(crystals(), lambda k, a: float(k % 2)), ENERGY, {})],
    ),
    "missing-values": (
        [lambda: (changed(crystals(), lambda k, a: None if k < 5 else a.info["e"]), ENERGY, {})],
        [lambda: (crystals(), ENERGY, {})],
    ),
    "constant-target": (
        [lambda: (changed(crystals(), lambda k, a: 2.5), ENERGY, {})],
        [lambda: (crystals(), ENERGY, {})],
    ),
    "contradictions": (
        [lambda: (changed([*crystals(), *crystals(1)], lambda k, a: float(k)), ENERGY, {})],
        [lambda: ([*crystals(), *crystals(1)], ENERGY, {})],
    ),
    "end-members": (
        [lambda: (changed(crystals(symbols="Cu Au"), lambda k, a: a.info["e"] - 3.5 * len(a)), ALLOY,
                  {"end_members": {29: 0.0, 79: 0.0}}),
         lambda: (with_pure(crystals(symbols="Cu Au"), pbc=False), ALLOY, {})],
        [lambda: (with_pure(crystals(symbols="Cu Au"), pbc=True), ALLOY, {}),
         lambda: (crystals(symbols="Cu Au"), ALLOY, {"end_members": {29: 0.0, 79: 0.0}})],  # EMT's zero is the bulk
    ),
    "per-atom": (
        [lambda: (changed(crystals(sizes=(1, 2)), lambda k, a: a.info["e"] / len(a) - 3.5), ENERGY, {}),
         lambda: (changed(crystals(sizes=(1, 2), symbols="Cu Au"), lambda k, a: a.info["e"] / len(a) - 3.5), ALLOY,
                  {"end_members": {29: -0.25, 79: -0.25}}),
         lambda: (changed(crystals(sizes=(1, 2)), lambda k, a: a.info["e"] - 3.5 * len(a)), "e=graph:e:eV/atom", {})],
        [lambda: (changed(crystals(sizes=(1, 2)), lambda k, a: a.info["e"] - 3.5 * len(a)), ENERGY, {}),
         lambda: (changed(crystals(sizes=(1, 2)), lambda k, a: a.info["e"] / len(a) - 3.5), "e=graph:e:eV/atom", {}),
         lambda: (crystals(sizes=(1, 2), symbols="Cu Au"), "gap=graph:e:1", {})],
    ),
    "close-atoms": (
        [lambda: ([*crystals(), Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]], info={"e": 1.0})], ENERGY, {})],
        [lambda: (crystals(), ENERGY, {})],
    ),
    "no-neighbours": (
        [lambda: ([*crystals(), Atoms("Cu2", [[0, 0, 0], [0, 0, 30.0]], info={"e": 1.0})], ENERGY, {})],
        [lambda: (crystals(), ENERGY, {})],
    ),
}  # fmt: skip


def prepared(folder: Path, made: Made, name: str = "x.bp") -> store.Manifest:
    """The data set of some structures."""
    structures, target, options = made
    ase.io.write(folder / "raw.extxyz", structures)
    return prepare(folder / "raw.extxyz", folder / name, replace(Options(targets=parse_targets([target])), **options))


def test_every_remark_has_its_cases() -> None:
    assert [kind.name for kind in registry.DATA] == list(CASES)


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, (those, _) in CASES.items() for make in those])
def test_a_remark_appears(name: str, make: Callable[[], Made], tmp_path: Path) -> None:
    assert name in remarks_of(prepared(tmp_path, make()))


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, (_, others) in CASES.items() for make in others])
def test_a_remark_does_not_appear(name: str, make: Callable[[], Made], tmp_path: Path) -> None:
    assert name not in remarks_of(prepared(tmp_path, make()))


def test_remarks_name_numbers_and_samples(tmp_path: Path) -> None:
    made = changed(crystals(), lambda k, a: {7: 1e6, 8: None}.get(k, a.info["e"]))
    found = remarks_of(prepared(tmp_path, (made, ENERGY, {})))
    assert "1 of 60 values are missing" in found["missing-values"]
    assert "1 of 60 values are far from all others" in found["outliers"] and "raw.extxyz@7" in found["outliers"]
    assert "validation set has 9 samples" in found["small-part"]


@pytest.mark.parametrize("target", [ENERGY, ALLOY])
def test_the_remedy_for_energies_per_atom_does_not_depend_on_the_stored_unit(tmp_path: Path, target: str) -> None:
    """Mixing enthalpies are stored in Ry, whatever the unit in --target."""
    structures = changed(crystals(sizes=(1, 2), symbols="Cu Au"), lambda k, a: a.info["e"] / len(a) - 3.5)
    options = {"end_members": {29: -0.25, 79: -0.25}} if target == ALLOY else {}
    line = remarks_of(prepared(tmp_path, (structures, target, options)))["per-atom"]
    assert "Ry/atom" not in line and line.endswith("if these are energies per atom, add /atom to the unit in --target")


def test_outliers_are_refused_or_left_out_where_asked_for(tmp_path: Path) -> None:
    made = changed(crystals(), lambda k, a: 1e6 if k == 7 else a.info["e"])
    with pytest.raises(UserError, match=r"raw.extxyz@7: target 'e' is far from all others \(such samples: 1\)"):
        prepared(tmp_path, (made, ENERGY, {"on_outlier": "fail"}))
    source = prepared(tmp_path, (made, ENERGY, {"on_outlier": "skip"})).source
    assert (source.read, source.skipped, source.kept) == (59, 1, 59) and "raw.extxyz@7" in source.skipped_reasons[0]
    manifest, arrays = store.read(tmp_path / "x.bp")
    assert arrays["target_e"].max() < 100 and "outliers" not in remarks_of(manifest)


def test_a_new_split_keeps_what_only_the_source_showed(tmp_path: Path) -> None:
    made = changed([*crystals(), *crystals(1)], lambda k, a: float(k))
    before = remarks_of(prepared(tmp_path, (made, ENERGY, {})))
    after, _ = split(tmp_path / "x.bp", tmp_path / "y.bp", SplitOptions(by="random", fractions=(0.2, 0.6, 0.2)))
    found = remarks_of(after)
    assert found["contradictions"] == before["contradictions"] and found["distances"] == before["distances"]
    assert "validation" in before["small-part"] and "validation" not in found["small-part"]


def campaign(**changes: Any) -> Campaign:
    """A campaign on the energies and forces of crystals."""
    content = {
        "name": "x",
        "dataset": "x.bp",
        "tasks": {"E": {"level": "graph", "field": "e"}, "F": {"level": "node", "field": "f"}},
        "variants": ["EF", "E"],
        "model": {"pooling": "sum"},
    }
    return parse_campaign({**content, **changes}, "x.yaml")


def of_campaign(manifest: store.Manifest, **changes: Any) -> dict[str, str]:
    """The remarks on a campaign, by name."""
    return {remark.name: remark.text for remark in registry.of_campaign(campaign(**changes), manifest)}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> store.Manifest:
    """Rattled crystals of two sizes and three elements, with energies and forces."""
    folder = tmp_path_factory.mktemp("several")
    ase.io.write(folder / "raw.extxyz", crystals(300, sizes=(1, 2), symbols="Cu Ag Au"))
    options = Options(targets=parse_targets([ENERGY, "f=node:f:eV/Ang"]), split_by="random")
    return prepare(folder / "raw.extxyz", folder / "x.bp", options)


def test_a_campaign_has_the_remarks_that_concern_it(several: store.Manifest) -> None:
    assert of_campaign(several).keys() == {"distances", "rotating-target", "species-as-number"}
    lengths, inputs = {"pooling": "sum", "edges": {"number": 8}}, ["species", "composition"]
    assert of_campaign(several, variants=["E"], model=lengths, inputs=inputs) == {}
    assert of_campaign(several, variants=["E"], model={**lengths, "pooling": "max"}, inputs=inputs).keys() == {
        "mean-pooling"
    }


def test_a_remark_names_the_variants_that_it_concerns(several: store.Manifest) -> None:
    assert of_campaign(several)["rotating-target"].startswith("variant EF: target 'f', 3 components per atom")
    far = {"name": "far", "tasks": ["E"], "model": {"edges": {"number": 8}}, "inputs": ["composition"]}
    found = of_campaign(several, variants=["E", far])
    assert found.keys() == {"distances", "species-as-number"}
    assert all(text.startswith("variant E: ") for text in found.values())
    both = of_campaign(several, variants=["E", "EF", far])["distances"]
    assert both.startswith("variants E, EF: ")


def test_a_task_of_vectors_has_no_remark(several: store.Manifest) -> None:
    vector = {"E": {"level": "graph", "field": "e"}, "F": {"level": "node", "field": "f", "vector": True}}
    lengths = {"convolution": "PaiNN", "pooling": "sum", "edges": {"number": 8}}
    assert of_campaign(several, tasks=vector, model=lengths, inputs=["one_hot"]) == {}


@pytest.mark.parametrize(
    ("fewest_atoms", "samples", "batch_size", "remarked"),
    [(1, 129, 64, True), (1, 128, 64, False), (2, 129, 64, False), (1, 128, 1, True), (1, 129, 129, False)],
)
def test_a_batch_of_one_atom(
    several: store.Manifest, fewest_atoms: int, samples: int, batch_size: int, remarked: bool
) -> None:
    """Whether the last batch of an epoch may be one atom."""
    assert several.distribution
    atoms = several.distribution.atoms.model_copy(update={"minimum": fewest_atoms})
    distribution = several.distribution.model_copy(update={"atoms": atoms})
    manifest = several.model_copy(update={"distribution": distribution, "split": [samples, 40, 40]})
    found = of_campaign(manifest, training={"batch_size": batch_size})
    assert ("one-atom-batch" in found) == remarked


@pytest.mark.parametrize(
    ("theirs", "own", "same_data", "remarks"),
    [
        ("none", "none", True, set()),
        ("none", "none", False, {"start-other-data"}),
        ({"folds": 3}, "none", True, {"start-other-folds"}),
        ("none", {"folds": 3}, True, {"start-other-folds"}),
        ({"folds": 3}, {"folds": 4}, True, {"start-other-folds"}),
        ({"folds": 3}, {"folds": 3}, True, set()),
        ("bootstrap", "none", True, set()),
    ],
)
def test_what_members_start_from(
    several: store.Manifest, tmp_path: Path, theirs: Any, own: Any, same_data: bool, remarks: set[str]
) -> None:
    """Whether it may have been trained on samples on which the members are validated or tested."""
    source = campaign(variants=["E"], replicas=4, training={"resample": theirs})
    ledger.freeze(CampaignFolder(tmp_path), ledger.Frozen(source, "0" * 64, several.sha256 if same_data else "1" * 64))
    start = {"from": str(tmp_path), "variant": "E"}
    found = of_campaign(several, variants=["E"], replicas=4, training={"resample": own}, start=start)
    assert {name for name in found if name.startswith("start-")} == remarks


def test_two_elements_may_be_distinguished_by_a_number(tmp_path: Path) -> None:
    manifest = prepared(tmp_path, (crystals(300, symbols="Cu Au"), ENERGY, {}))
    assert "species-as-number" not in of_campaign(manifest, variants=["E"], tasks={"E": campaign().tasks["E"]})


def test_the_surrogate_has_the_remarks_of_the_papers_data(small_bp: Path) -> None:
    """Equivalent samples leak between its sets, as in the open data; apart from that it is only small."""
    found = remarks_of(store.read_manifest(small_bp))
    assert found.keys() <= {"small-compositions", "equivalents", "small-part"}


@pytest.mark.realdata
def test_the_open_data_have_two_remarks(real_bp: Path) -> None:
    found = remarks_of(store.read_manifest(real_bp))
    assert found.keys() == {"small-compositions", "equivalents"}
    assert "Pt32 (1), Fe32 (1)" in found["small-compositions"]
    assert "at least 138 of 4,186 test samples" in found["equivalents"] and "--cell" in found["equivalents"]
