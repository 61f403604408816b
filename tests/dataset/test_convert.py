"""Conversions: what both formats can hold comes back, and what one of them cannot hold is reported."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from alloy_frames import frames, write
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from synthetic import SOURCE, alloys, frame_of, write_raw

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.convert import convert
from hydragnn_hpc.dataset.build.prepare import arrays_of, facts_of, prepare
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read import formats
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.read.gathered import SampleCollector
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.dataset.read.units import LENGTH_KEYS
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import RYDBERG_IN_EV, Property

pytestmark = pytest.mark.usefixtures("written_here")

CELL = tuple(surrogate.sites()[1].ravel().tolist())
UNITS = ["", "eV/Å", "μB", "e*Å^2", "kJ/mol", "eV/atom"]
NONE = Options(cutoff=0.0)
# Names that have another meaning for readers of extended XYZ, here or in ASE.
TAKEN = ["stress", "target_stress", "target_target_stress", "virial", "name", "split", "energy", "forces", "T", "x",
         "Z", "z", "charge", "charges", "f", "f0", "Lattice", "lattice", "pbc", "Properties", "species", "Species",
         "pos", "numbers", "symbols", "positions", "magmoms", "hydragnn_hpc", "uid", "config_type", "true",
         "cell", "Unit_cell", "length_unit"]  # fmt: skip
numbers = st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(float("nan"))


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Any small data set: names, species, boundaries, targets of any width with gaps."""
    n = draw(st.integers(3, 6))
    names = st.sampled_from(TAKEN) | st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True)
    properties = [
        Property(name, draw(st.sampled_from(["graph", "node"])), draw(st.sampled_from(UNITS)),
                 draw(st.text(min_size=1, max_size=8).filter(lambda t: t.strip() == t and not t.startswith(":"))))
        for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ]  # fmt: skip
    widths = {p.name: draw(st.sampled_from([1, 2, 9])) for p in properties}
    collector = SampleCollector()
    for k in range(n):
        size = draw(st.integers(1, 3))
        pos = np.arange(size)[:, None] * [0, 0, 2.5] + draw(npst.arrays(float, (size, 3), elements=st.floats(0, 1)))
        cell = draw(st.sampled_from([np.zeros((3, 3)), np.diag([11.0, 12.0, 13.3])]))
        periodic = tuple(draw(st.lists(st.booleans(), min_size=3, max_size=3))) if cell.any() else (False,) * 3
        z = np.array(draw(st.lists(st.integers(1, 118), min_size=size, max_size=size)), np.int32)
        values = {}
        for p in properties:
            shape = (size if p.level == "node" else 1, widths[p.name])
            values[p.name] = draw(npst.arrays(float, shape, elements=numbers))
            if k < 2:
                values[p.name][:] = np.where(np.isnan(values[p.name]), float(k), values[p.name])
        name = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)) + f"_{k}"
        geometry = Geometry(pos, cell, periodic)
        collector.add(frame_of(name, geometry, z), geometry, values)
    samples = collector.samples(properties, widths)
    # In the order in which reading finds them again.
    arrays = arrays_of(samples.chosen(np.arange(n)), np.arange(n, dtype=np.uint8) % 3, 4.0)
    return arrays, facts_of(arrays, properties, Options(cutoff=4.0), SOURCE)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=data_sets())
def test_any_data_set_comes_back_from_extended_xyz(made, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("round")
    arrays, facts = made
    first = store.write(folder / "a.bp", arrays, facts)
    convert(folder / "a.bp", folder / "a.extxyz", NONE)
    convert(folder / "a.extxyz", folder / "b.bp", NONE)
    second, again = store.read(folder / "b.bp")
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        if name in ("pos", "cell", "edge_vectors"):  # through ångström and back
            np.testing.assert_allclose(again[name], array, rtol=0, atol=1e-13)
        else:
            np.testing.assert_array_equal(again[name], array, name)
    assert second.targets == first.targets and second.plain()["neighbours"] == first.plain()["neighbours"]


# Values of a structure, and why extended XYZ cannot hold them.
ODD_VALUES = [(np.zeros((2, 3)), "a table"), (np.zeros(0), "empty"), (None, "neither"), ({"x": 1}, "neither"),
              ([1, [2, 3]], "neither"), (True, ""), (np.array([True, False]), ""), ("T", ""), ("two words", ""),
              ([1, 2], ""), (7, "")]  # fmt: skip
ODD_NAMES = ["a b", "a=b", 'a"b', "a:b", "{a}", "[a]", "a\\", "", "_x", "x_unit"]


@st.composite
def rows_of_databases(draw: st.DrawFn) -> tuple[dict[str, tuple[Any, str]], dict[str, Any], dict[str, str]]:
    """Values of a row with the reason why they cannot be written, its calculator's results, and units by key."""
    names = st.sampled_from([*TAKEN, *ODD_NAMES]) | st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True)
    plain = st.sampled_from([1, 2, 9]).flatmap(lambda n: npst.arrays(float, n, elements=numbers))
    value = st.tuples(plain | numbers, st.just("")) | st.sampled_from(ODD_VALUES)
    values = draw(st.dictionaries(names, value, min_size=1, max_size=5))
    results = {
        "energy": draw(numbers), "stress": draw(npst.arrays(float, 6, elements=numbers)),
        "forces": draw(npst.arrays(float, (2, 3), elements=numbers)),
        "magmoms": draw(npst.arrays(float, 2, elements=numbers)),
    }  # fmt: skip
    results = {key: v for key, v in results.items() if key not in values and draw(st.booleans())}
    units = {
        key: draw(st.sampled_from(["eV", "e*Å^2", "my unit"]))
        for key in (*values, *results)
        if draw(st.booleans()) and key.casefold().lstrip("_") not in LENGTH_KEYS
    }
    return {k: v for k, v in values.items() if k not in ("name", "magmoms")}, results, units


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=rows_of_databases())
def test_what_a_database_holds_comes_back_under_its_own_name_or_is_listed(
    made: tuple[dict[str, tuple[Any, str]], dict[str, Any], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    values, results, units = made
    folder = tmp_path_factory.mktemp("database")
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 5], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, **results)
    connect: Any = ase.db.connect
    with connect(folder / "a.db") as db:
        db.metadata = {"key_descriptions": {key: ["", "", unit] for key, unit in units.items()}}
        db.write(atoms, data={key: value for key, (value, _) in values.items()})
    lost = convert(folder / "a.db", folder / "a.extxyz", NONE).lost
    (source,), (back,) = (
        list(formats.iter_frames(folder / name, form)) for name, form in (("a.db", "ase-db"), ("a.extxyz", "extxyz"))
    )
    assert isinstance(source, Frame) and isinstance(back, Frame)
    np.testing.assert_array_equal(back.cell, source.cell)
    assert (back.periodic, back.name) == (source.periodic, source.name)
    for key, value in (*source.values.items(), *source.columns.items()):
        listed = [line for line in lost if line.startswith(f"'{key}' (")]
        reason = values[key][1] if key in values else ""
        if key in ODD_NAMES[:-2]:
            reason = "such a name cannot be written"
        if reason:
            assert len(listed) == 1 and reason in listed[0]
            continue
        own = back.columns if key in source.columns else back.values
        new = key
        if listed:
            assert "written as" in listed[0]
            new = listed[0].split("'")[3]
        assert (new in own) and ((new != key) == bool(listed)), (new, lost)
        np.testing.assert_array_equal(np.squeeze(own[new]), np.squeeze(value), key)
        if key in units and f"the unit of '{key}'" not in lost:
            assert back.units[new] == units[key]


@pytest.mark.parametrize(("name", "form"), [("a.db", "auto"), ("a.traj", "ase")])
def test_names_that_extended_xyz_uses_itself_are_listed(name: str, form: str, tmp_path: Path) -> None:
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 5], pbc=True)
    own = {"Lattice": 1.0, "pbc": 2.0, "Properties": 3.0, "numbers": 4.0, "a b": 3.0, "fine": 5.0}
    if name.endswith(".db"):
        connect: Any = ase.db.connect
        connect(tmp_path / name).write(atoms, data=own)
    else:
        atoms.info |= own
        ase.io.write(tmp_path / name, atoms)
    lost = convert(tmp_path / name, tmp_path / "a.extxyz", replace(NONE, form=form)).lost
    written = "written as 'target_{0}': the name has another meaning in extended XYZ"
    assert set(lost) == {
        "'a b' (such a name cannot be written in extended XYZ)",
        *(f"'{key}' ({written.format(key)})" for key in ("Lattice", "pbc", "Properties", "numbers")),
    }
    (back,) = formats.iter_frames(tmp_path / "a.extxyz", "extxyz")
    assert isinstance(back, Frame) and back.values["fine"] == 5.0 and back.values["target_Lattice"] == 1.0


def test_lsms_text_comes_back_byte_for_byte(tmp_path: Path) -> None:
    surrogate.generate(tmp_path / "raw", cap=3, seed=0)
    done = convert(tmp_path / "raw", tmp_path / "a.extxyz", Options(cutoff=0.0, cell=CELL))
    assert (done.kind, done.count, done.lost) == ("extxyz", 95, ())
    back = convert(tmp_path / "a.extxyz", tmp_path / "back", NONE)
    assert back.lost == ("cell and boundary",)
    for file in (tmp_path / "raw").iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_a_data_set_of_lsms_text_comes_back_as_text(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", alloys(60))
    done = convert(raw, tmp_path / "a.bp", NONE)
    assert "band and Fermi energies" in done.lost[0] and done.count == 60
    lost = convert(tmp_path / "a.bp", tmp_path / "back", NONE).lost
    assert any("written as 0" in line for line in lost) and any("neighbour lists" in line for line in lost)
    again = convert(tmp_path / "back", tmp_path / "b.bp", NONE)
    assert again.count == 60
    assert store.read_manifest(tmp_path / "b.bp").sha256 == store.read_manifest(tmp_path / "a.bp").sha256
    # And by way of extended XYZ, which keeps the split and the end members.
    convert(tmp_path / "a.bp", tmp_path / "a.extxyz", NONE)
    convert(tmp_path / "a.extxyz", tmp_path / "c.bp", NONE)
    convert(tmp_path / "c.bp", tmp_path / "c.extxyz", NONE)
    assert (tmp_path / "c.extxyz").read_bytes() == (tmp_path / "a.extxyz").read_bytes()
    convert(tmp_path / "c.extxyz", tmp_path / "by_way", NONE)
    for file in (tmp_path / "back").iterdir():
        one, other = (np.loadtxt(tmp_path / f / file.name, skiprows=1) for f in ("back", "by_way"))
        np.testing.assert_allclose(one, other, atol=1e-13)
        assert (tmp_path / "by_way" / file.name).read_text().split()[:3] == file.read_text().split()[:3]


def test_other_structures_need_targets_for_the_columns_of_lsms_text(tmp_path: Path) -> None:
    made = frames()
    for atoms in made:
        atoms.new_array("moment", np.ones(len(atoms)))
        atoms.info["kind"] = "bulk metal"
    source = write(tmp_path / "a.extxyz", made)
    with pytest.raises(UserError, match=r"frame 0: LSMS text needs total_energy and charge and magnetic_moment.*--tar"):
        convert(source, tmp_path / "raw", NONE)
    assert not (tmp_path / "raw").exists()
    given = ["total_energy=graph:energy:eV", "charge_transfer=node:bader:e", "magnetic_moment=node:moment:muB"]
    done = convert(source, tmp_path / "raw", Options(cutoff=0.0, targets=parse_targets(given)))
    assert {"'forces'", "'dipole_moment'", "'kind'"} <= set(done.lost)
    manifest = prepare(tmp_path / "raw", tmp_path / "x.bp", Options(fractions=(0.5, 0.25, 0.25)))
    found = manifest.plain()["source"]["end_members"]
    assert found["29"] * RYDBERG_IN_EV == pytest.approx(-3.5, abs=1e-9)
    wrong = parse_targets([given[0], given[1].replace(":e", ":muB"), given[2]])
    with pytest.raises(UserError, match="LSMS text holds it in e, not in μB"):
        convert(source, tmp_path / "raw2", Options(cutoff=0.0, targets=wrong))


@pytest.mark.parametrize(("stated", "lost"), [("train", True), (0, True), (None, False)])
def test_a_split_that_other_structures_state_is_named_as_lost(tmp_path: Path, stated: object, lost: bool) -> None:
    made = frames()
    if stated is not None:
        made[1].info["split"] = stated
    source = write(tmp_path / "a.extxyz", made)
    done = convert(source, tmp_path / "a.bp", Options(cutoff=0.0, targets=parse_targets(["E=graph:energy:eV"])))
    assert done.lost == ("'split' (data prepare --split-by source keeps it)",) * lost


def test_the_split_in_a_converted_file_may_be_edited(tmp_path: Path) -> None:
    options = Options(targets=parse_targets(["E=graph:energy:eV"]), split_by="random", seed=3)
    prepare(write(tmp_path / "a.extxyz", frames()), tmp_path / "a.bp", options)
    convert(tmp_path / "a.bp", tmp_path / "b.extxyz", NONE)
    text, split = (tmp_path / "b.extxyz").read_text(), store.read(tmp_path / "a.bp")[1]["split"]
    words = re.sub(r" split=(\d)", lambda match: f" split={('train', 'val', 'Test')[int(match[1])]}", text)
    for name, changed, kept in (("words", words, True), ("none", re.sub(r" split=\d", "", text), False)):
        (tmp_path / f"{name}.extxyz").write_text(changed)
        assert convert(tmp_path / f"{name}.extxyz", tmp_path / f"{name}.bp", replace(NONE, seed=4)).lost == ()
        assert np.array_equal(store.read(tmp_path / f"{name}.bp")[1]["split"], split) == kept


def test_what_cannot_be_converted_is_skipped_and_counted_on_request(tmp_path: Path) -> None:
    """Damage that its reader notices, a value that LSMS text needs, and a name that two structures have."""
    head = "2\nProperties=species:S:1:pos:R:3:q:R:1:m:R:1 name={} energy={}\nCu 0 0 0 29 1\nAu 0 0 {} 79 1\n"
    rows = [
        ("a", 1, 2),
        ("b", 1, "two"),
        ("c", "none", 2),
        ("i", "inf", 2),
        ("a", 2, 3),
        *((f"d{k}", k, k) for k in range(2, 9)),
    ]
    (tmp_path / "a.xyz").write_text("".join(head.format(*row) for row in rows))
    targets = parse_targets(["total_energy=graph:energy:Ry", "charge=node:q:e", "magnetic_moment=node:m:muB"])
    options = Options(cutoff=0.0, targets=targets)
    skipping = replace(options, on_error="skip")
    for out, count, skipped in (("text", 8, 4), ("b.bp", 9, 3)):
        with pytest.raises(UserError, match=r"frame 1.*\(--on-error skip leaves it out\)$"):
            convert(tmp_path / "a.xyz", tmp_path / out, options)
        assert not (tmp_path / out).exists()
        done = convert(tmp_path / "a.xyz", tmp_path / out, skipping)
        assert (done.count, done.skipped.count, len(done.skipped.reasons)) == (count, skipped, skipped)
    assert len(list((tmp_path / "text").iterdir())) == 8
    (tmp_path / "text" / "out_bad").write_text("1 2 3\n4 5\n")
    done = convert(tmp_path / "text", tmp_path / "back.xyz", replace(NONE, on_error="skip"))
    assert (done.count, done.skipped.count) == (8, 1)
    (tmp_path / "a.xyz").write_text(head.format(*rows[1]))
    with pytest.raises(UserError, match=r"none of 1 structure can be converted; the first: .*frame 0"):
        convert(tmp_path / "a.xyz", tmp_path / "none", skipping)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "3",
        '"_JSON {"',
        r'"_JSON {\"targets\": 3}"',
        r'"_JSON {\"end_members\": {\"Fe\": \"x\"}}"',
        '"_JSON ' + "[" * 9000 + '"',
    ],
)
def test_a_damaged_entry_of_the_first_frame_is_one_line(tmp_path: Path, damage: str) -> None:
    convert(write_raw(tmp_path / "raw", alloys(60)), tmp_path / "a.bp", NONE)
    convert(tmp_path / "a.bp", tmp_path / "a.extxyz", NONE)
    text = (tmp_path / "a.extxyz").read_text()
    assert "hydragnn_hpc=" in text
    (tmp_path / "a.extxyz").write_text(re.sub(r'hydragnn_hpc="(\\.|[^"])*"', lambda _: f"hydragnn_hpc={damage}", text))
    for out in ("b.bp", "text"):
        with pytest.raises(UserError, match=r"frame 0: 'hydragnn_hpc' .*correct or remove it") as caught:
            convert(tmp_path / "a.extxyz", tmp_path / out, NONE)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("source", "out", "to", "message"),
    [
        ("a.extxyz", "b.xyz", "auto", "is extxyz already"),
        ("a.extxyz", "b.bp", "bq", "did you mean 'bp'"),
        ("a.extxyz", "b.bp", "auto", "no --target says what to learn"),
        ("none.extxyz", "b.bp", "auto", "no such file"),
        ("none.bp", "b.xyz", "auto", "no such data set"),
        ("a.extxyz", "a.extxyz", "lsms", "is a file"),
        ("a.extxyz", "there", "lsms", "exists and is not empty"),
    ],
)
def test_what_cannot_be_converted_is_reported(tmp_path: Path, source: str, out: str, to: str, message: str) -> None:
    write(tmp_path / "a.extxyz", frames(4))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        convert(tmp_path / source, tmp_path / out, NONE, to)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
