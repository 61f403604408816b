"""Formats as they occur in practice: keys, columns, quotes and units mean what the file says, or are refused."""

from __future__ import annotations

import contextlib
import gzip
import re
import sqlite3
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import ase.db
import ase.io
import numpy as np
import pytest
from alloy_frames import frames, write
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.build.unseen import Preparation, ReadingChoice, UnseenStructures
from hydragnn_hpc.dataset.read import formats, sources
from hydragnn_hpc.dataset.read.formats import lsms
from hydragnn_hpc.dataset.read.formats.extxyz_header import parse_header
from hydragnn_hpc.dataset.read.frames import Frame, Unreadable
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import BOHR_IN_ANGSTROM
from hydragnn_hpc.records.dataset import Boundary, NeighbourFacts
from hydragnn_hpc.records.model import ModelFacts, ModelSpecies
from tests.exchange.data_files import write_bp

ENERGY = parse_targets(["E=graph:energy:eV"])
LATTICE = 'Lattice="9 0 0 0 9 0 0 0 9"'
CELL = 'cell="5 0 0 0 5 0 0 0 5"'
UNIT_CELL = "Unit_Cell=[5, 5, 5, 90, 90, 90]"


def xyz(path: Path, header: str, atoms: tuple[str, ...] = ("Cu 0 0 0", "Au 0 0 2.5"), n: int = 1) -> Path:
    """Write frames of one header; ``%d`` in it is the frame's number."""
    lines = "".join(f"{len(atoms)}\n{header.replace('%d', str(k))}\n" + "\n".join(atoms) + "\n" for k in range(n))
    path.write_text(lines)
    return path


def only(source: Path) -> Frame:
    """The one structure of a source."""
    (frame,) = formats.iter_frames(source, formats.detect(source))
    assert isinstance(frame, Frame), frame
    return frame


def read(source: Path, *targets: str, **options: object) -> sources.RawData:
    """Read a source for training."""
    return sources.read(source, Options(targets=parse_targets(targets) if targets else ENERGY, **options))  # type: ignore[arg-type]


def new_structures(source: Path, on_error: str = "fail", boundary: Boundary = "mixed") -> UnseenStructures:
    """Read a source for models that know every element."""
    every = ModelSpecies(minimum=1, maximum=118, elements=None)
    neighbours = NeighbourFacts(cutoff_bohr=7.0, boundary=boundary)
    facts = ModelFacts(model={}, inputs=1, average_degree=[1.0, 1.0], tasks={}, species=every, neighbours=neighbours)
    (found,) = Preparation(facts, ReadingChoice(on_error=on_error)).read(source)
    return found


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    """ASE writes its tables into any SQLite file that it opens."""
    path = tmp_path / "notes.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (text)")
    before = path.read_bytes()
    (error,) = formats.iter_frames(path, formats.detect(path))
    assert "is an SQLite file, but not a database of ASE" in str(error)
    assert path.read_bytes() == before


def test_what_ase_writes_is_read_as_ase_reads_it(tmp_path: Path) -> None:
    """Compared with ASE's own reader, for every key and column that it does not rename."""
    made = frames(8)
    for k, atoms in enumerate(made):
        atoms.info |= {"count": k, "flag": k % 2 == 0, "note": 'of "two" words', "table": np.arange(6.0).reshape(2, 3)}
        atoms.info["virial"] = np.arange(9.0).reshape(3, 3)
        atoms.calc.results["stress"] = np.arange(6.0)
        atoms.new_array("site", np.arange(len(atoms)))
        atoms.new_array("even", np.arange(len(atoms)) % 2 == 0)
        atoms.pbc = [True, k % 2 == 0, False]
    source = write(tmp_path / "a.extxyz", made)
    theirs = ase.io.read(source, index=":")
    for ours, atoms in zip(formats.iter_frames(source, "extxyz"), theirs, strict=True):
        assert isinstance(ours, Frame)
        np.testing.assert_array_equal(ours.atomic_numbers, atoms.numbers)
        np.testing.assert_allclose(ours.pos * BOHR_IN_ANGSTROM, atoms.positions, atol=1e-12)
        np.testing.assert_allclose(ours.cell * BOHR_IN_ANGSTROM, atoms.cell.array, atol=1e-12)
        assert ours.periodic == tuple(atoms.pbc)
        results = atoms.calc.results
        assert ours.values.keys() == {*atoms.info, "energy", "stress"}
        assert ours.columns.keys() == {*atoms.arrays, "forces"} - {"numbers", "positions"}
        for key, value in (atoms.info | {k: results[k] for k in ("energy", "stress")}).items():
            np.testing.assert_array_equal(ours.values[key], value, key)
        for key, value in (atoms.arrays | {"forces": results["forces"]}).items():
            if key not in ("numbers", "positions"):
                np.testing.assert_array_equal(ours.columns[key], value, key)


@pytest.mark.parametrize(
    ("column", "word"),
    [("Z:R:1", "1.9"), ("Z:I:1", "7"), ("numbers:I:1", "7"), ("symbols:S:1", "H"), ("positions:R:3", "1 2 3")],
)
def test_a_column_beside_species_and_positions_is_data(column: str, word: str, tmp_path: Path) -> None:
    atoms = (f"Cu 0 0 0 {word}", f"Au 0 0 2.5 {word}")
    frame = only(xyz(tmp_path / "a.xyz", f"{LATTICE} Properties=species:S:1:pos:R:3:{column}", atoms))
    assert frame.atomic_numbers.tolist() == [29, 79] and frame.pos[:, :2].any() == 0
    assert frame.columns.keys() == {column.split(":", maxsplit=1)[0]}


@pytest.mark.parametrize(
    ("properties", "atoms"),
    [
        ("Z:I:1:pos:R:3", ("29 0 0 0", "79 0 0 2.5")),
        ("pos:R:3:Species:S:1", ("0 0 0 Cu", "0 0 2.5 au")),
        ("symbols:S:1:positions:R:3", ("Cu 0 0 0", "Au 0 0 2.5")),
    ],
)
def test_species_and_positions_by_their_other_names(properties: str, atoms: tuple[str, ...], tmp_path: Path) -> None:
    frame = only(xyz(tmp_path / "a.xyz", f"{LATTICE} Properties={properties}", atoms))
    assert frame.atomic_numbers.tolist() == [29, 79] and frame.pos[1, 2] == pytest.approx(2.5 / BOHR_IN_ANGSTROM)
    assert not frame.columns


@pytest.mark.parametrize("name", ["a.extxyz", "frames"])
def test_a_byte_order_mark_is_no_part_of_a_file(name: str, tmp_path: Path) -> None:
    path = xyz(tmp_path / name, f"{LATTICE} energy=-1.5")
    expected, text = only(path), path.read_text()
    path.write_bytes(text.encode("utf-8-sig"))
    marked = only(path)
    assert marked.values == expected.values == {"energy": -1.5}
    np.testing.assert_array_equal(marked.atomic_numbers, expected.atomic_numbers)
    np.testing.assert_array_equal(marked.pos, expected.pos)
    for encoding in ("utf-16", "utf-16-be"):
        path.write_bytes(b"\xfe\xff" * (encoding == "utf-16-be") + text.encode(encoding))
        (problem,) = formats.iter_frames(path, "extxyz")
        assert isinstance(problem, UserError) and "UTF-16 text" in str(problem)


def test_names_that_ase_would_swap_stay_apart(tmp_path: Path) -> None:
    properties = "Properties=species:S:1:pos:R:3:charge:R:1:charges:R:1:f:R:3:f0:R:1"
    atoms = ("Cu 0 0 0 1 2 3 4 5 6", "Au 0 0 2.5 1 2 3 4 5 6")
    columns = only(xyz(tmp_path / "a.xyz", properties, atoms)).columns
    assert {key: np.ravel(v[0]).tolist() for key, v in columns.items()} == {
        "charge": [1], "charges": [2], "f": [3, 4, 5], "f0": [6],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "periodic"),
    [
        ('lattice="9 0 0 0 9 0 0 0 9"', (True,) * 3),
        ('LATTICE="9 0 0 0 9 0 0 0 9" PBC="T T F"', (True, True, False)),
        ("Lattice='9 0 0 0 9 0 0 0 9' pbc={T F F}", (True, False, False)),
        ("Lattice = [9,0,0, 0,9,0, 0,0,9]", (True,) * 3),
        ('note="pbc=F F F, once" Lattice="9 0 0 0 9 0 0 0 9" pbc=[T, T, T]', (True,) * 3),
    ],
)
@pytest.mark.parametrize(
    "properties", ["Properties=", "properties={", "PROPERTIES='", 'note="Properties=x:R:1" Properties=']
)
def test_a_header_in_any_letter_case_and_quotes(
    header: str, periodic: tuple[bool, ...], properties: str, tmp_path: Path
) -> None:
    close = {"{": "}", "'": "'"}.get(properties[-1], "")
    source = xyz(
        tmp_path / "a.xyz", f"{header} {properties}species:S:1:pos:R:3:q:R:1{close}", ("Cu 0 0 0 1", "Au 0 0 2 2")
    )
    frame = only(source)
    assert frame.periodic == periodic and frame.columns["q"].tolist() == [1, 2]
    np.testing.assert_allclose(frame.cell * BOHR_IN_ANGSTROM, np.eye(3) * 9)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f"{LATTICE} lattice='8 0 0 0 8 0 0 0 8'", "holds both 'Lattice=9 0 0 .*' and 'lattice=8"),
        (f'{LATTICE} pbc="T T T" PBC=F', "holds both 'pbc=T T T' and 'PBC=F'"),
        ("Properties=species:S:1:pos:R:3 properties=species:S:1:pos:R:3", "holds both 'Properties="),
        ("energy=1 energy=2", "'energy' appears twice in the header, as 'energy=1' and as 'energy=2'"),
        ("Properties=species:S:1:pos:R:2:pos:R:1", "Properties has two columns 'pos'"),
        ("Properties=x:S:1:pos:R:3 energy=1", "Properties has no column 'species', only x, pos"),
        (f"{LATTICE} pbc=T T F", "'pbc' is followed by 'T' outside of quotes"),
        ("energy=1 2 3", "'energy' is followed by '2' outside of quotes|'3' outside"),
        ("energy=1d0", "'energy' is '1d0', which is not a number"),
        ("energy=T", "'energy' is a boolean, not a number"),
        ("energy=1_000", "'energy' is '1_000', which is not a number"),
        ('energy="_JSON [1,"', "'energy' is not valid JSON"),
        ('energy="_JSON [[1],[1,2]]"', "'energy' is .*, which is not a number"),
    ],
)
def test_a_header_that_says_two_things_or_none_is_refused(header: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(xyz(tmp_path / "a.xyz", header))


def test_a_key_that_is_given_twice_with_one_value_has_it(tmp_path: Path) -> None:
    frame = only(xyz(tmp_path / "a.xyz", "energy=-1.5 name=a d='1 2 3' energy=-1.5 name=a d=\"1 2 3\" e=1 e=2 e=1"))
    assert frame.values["energy"] == -1.5 and frame.name == "a"
    assert frame.values["d"].tolist() == [1, 2, 3]
    assert isinstance(frame.values["e"], Unreadable)


@pytest.mark.parametrize(
    ("kind", "word", "message"),
    [
        ("L", "maybe", "holds 'maybe', which is neither T nor F"),
        ("I", "1.5", "is declared as integers"),
        ("R", "high", "holds 'high', which is not a number"),
        ("X", "1", "is of kind 'X'"),
        ("q:R:1:q:R", "1 1", "is the name of two columns"),
    ],
)
def test_unusable_keys_are_refused_only_where_they_are_targets(
    kind: str, word: str, message: str, tmp_path: Path
) -> None:
    header = 'stress="1 2 3" virial=none x="_JSON {" twice=1 twice=2 energy=-1'
    columns = f"q:{kind}:1" if ":" not in kind else f"{kind}:1"
    source = xyz(tmp_path / "a.xyz", f"Properties=species:S:1:pos:R:3:{columns} {header}", (f"Cu 0 0 0 {word}",))
    assert read(source).samples.values["E"] == [np.array([[-1.0]])]
    assert isinstance(only(source).columns["q"], Unreadable)
    with pytest.raises(UserError, match=f"'q' {message}"):
        read(source, "q=node:q:e")


@pytest.mark.parametrize(
    ("header", "message", "good"),
    [
        (
            "# CELL(abcABC):   15.0 15.0 15.0 90 90 90  Step:  0  Bead:  0 positions{atomic_unit} cell{atomic_unit}",
            r"the cell and units as i-PI does, with 'CELL\(abcABC\):'; convert the file",
            None,
        ),
        ("# CELL{H}: 5 0 0 0 5 0 0 0 5 energy=%d", "as i-PI does", LATTICE + " # CELL{H}: 5 0 0 0 5 0 0 0 5 energy=%d"),
        (f"{CELL} energy=%d", "'cell' but no Lattice.*rename", f"{LATTICE} {CELL} energy=%d"),
        (f"{UNIT_CELL} energy=%d", "'Unit_Cell' but no Lattice", f"{LATTICE} {UNIT_CELL} energy=%d"),
        ("length_unit=furlong", "the unit of length: unknown unit 'furlong'", f"{LATTICE} length_unit=nm"),
        ("length_unit=bohr pos_unit=Ang", "several units of length", f"{LATTICE} length_unit=Ang pos_unit=Ang"),
    ],
)
def test_a_cell_or_unit_that_would_be_lost_is_refused(
    header: str, message: str, good: str | None, tmp_path: Path
) -> None:
    (error,) = formats.iter_frames(xyz(tmp_path / "a.xyz", header), "extxyz")
    assert isinstance(error, UserError) and re.search(message, str(error))
    if good is not None:
        assert only(xyz(tmp_path / "b.xyz", good)).cell.any()


@pytest.mark.parametrize("value", ["T", '"a b c"', '"_JSON [[1,2],[3]]"', '"_JSON ' + "[" * 99 + "]" * 99 + '"'])
def test_a_key_called_cell_whose_value_is_none_is_data(value: str, tmp_path: Path) -> None:
    frame = only(xyz(tmp_path / "a.xyz", f"cell={value}"))
    assert "cell" in frame.values and not frame.cell.any()


def test_units_that_a_header_states(tmp_path: Path) -> None:
    bohr = only(xyz(tmp_path / "a.xyz", f"{LATTICE} energy=-%d.5 length_unit=bohr"))
    assert bohr.pos[1, 2] == 2.5 and bohr.cell[0, 0] == 9.0
    made = xyz(tmp_path / "b.xyz", "energy=-%d.5 energy_unit=Hartree", n=12)
    with pytest.raises(UserError, match=r"--target E: 'energy' is in Hartree, as .*state, not in eV"):
        read(made)
    assert len(read(made, "E=graph:energy:Ha").samples.names) == 12


def test_a_decimal_comma_is_no_list(tmp_path: Path) -> None:
    source = xyz(tmp_path / "a.xyz", "energy=-3,75 free=-1.5 i=0, d=1.0,2.0,3.0 pair=[1,2] matrix=[[1,2],[3,4]]")
    assert read(source, "E=graph:free:eV").samples.values["E"] == [np.array([[-1.5]])]
    with pytest.raises(UserError, match="'energy' is '-3,75', a decimal comma or two numbers; write a point"):
        read(source)
    values = only(source).values
    assert values["i"] == 0 and values["d"].tolist() == [1, 2, 3]
    assert values["pair"].tolist() == [1, 2] and values["matrix"].tolist() == [1, 2, 3, 4]


def test_null_is_a_missing_value(tmp_path: Path) -> None:
    source = xyz(tmp_path / "a.xyz", "n=%d energy=-1.5", n=11)
    source.write_text(source.read_text() + '2\nenergy="_JSON null"\nCu 0 0 0\nAu 0 0 2.5\n')
    values = read(source).samples.values["E"]
    assert len(values) == 12 and np.isnan(values[-1]).all() and not np.isnan(values[:-1]).any()


def test_one_key_of_the_structure_and_of_its_atoms(tmp_path: Path) -> None:
    source = xyz(
        tmp_path / "a.xyz", "Properties=species:S:1:pos:R:3:energy:R:1 energy=-9", ("Cu 0 0 0 1", "Au 0 0 2 2")
    )
    samples = read(source, "E=graph:energy:eV", "e=node:energy:eV").samples
    assert samples.values["E"][0].tolist() == [[-9]] and samples.values["e"][0].tolist() == [[1], [2]]


def lsms_text(path: Path, made: list[Atoms]) -> None:
    path.mkdir()
    for k, atoms in enumerate(made):
        z, zero = atoms.numbers, np.zeros(len(atoms))
        sample = lsms.new_sample(f"out_{k}", np.ones(3), z, atoms.positions / BOHR_IN_ANGSTROM, (z + zero, zero))
        (path / sample.name).write_text(lsms.format_sample(sample))


def hydragnn_folder(path: Path, made: list[Atoms]) -> None:
    """Positions in bohr, and what HydraGNN's users add: proton numbers, cell and boundary."""
    tensors = [
        {"x": a.numbers[:, None].astype(np.float32), "y": np.ones(1), "pos": a.positions / BOHR_IN_ANGSTROM,
         "cell": a.cell.array / BOHR_IN_ANGSTROM, "pbc": a.pbc.astype(np.uint8)}
        for a in made
    ]  # fmt: skip
    write_bp(path, {"trainset": tensors}, {})


WRITERS: dict[str, Callable[[Path, list[Atoms]], object]] = {
    "ase-db": lambda path, made: [ase.db.connect(path, type="db").write(atoms) for atoms in made],
    "extxyz": write,
    "lsms": lsms_text,
    "hydragnn": hydragnn_folder,
    "ase": lambda path, made: ase.io.write(path, made, format="traj"),
}
WITHOUT_CELL = {"lsms"}


@pytest.mark.parametrize("form", formats.FORMATS)
def test_every_format_keeps_to_the_readers_contract(form: str, tmp_path: Path) -> None:
    """A new format needs a writer in ``WRITERS``."""
    made = frames(5)
    WRITERS[form](tmp_path / "source", made)
    if (tmp_path / "source").is_dir():
        (tmp_path / "source" / "README.md").write_text("Notes.\n")
    assert formats.detect(tmp_path / "source") == form
    found = list(formats.iter_frames(tmp_path / "source", form))
    good = [frame for frame in found if isinstance(frame, Frame)]
    assert len(good) == 5 and len({frame.origin for frame in good}) == 5
    for frame, atoms in zip(good, made, strict=True):
        assert frame.atomic_numbers.dtype == np.int32 and frame.atomic_numbers.tolist() == atoms.numbers.tolist()
        np.testing.assert_allclose(frame.pos * BOHR_IN_ANGSTROM, atoms.positions, atol=1e-7)
        assert frame.periodic == (None if form in WITHOUT_CELL else (True, True, True))
    if (tmp_path / "source").is_file():
        whole = (tmp_path / "source").read_bytes()
        (tmp_path / "source").write_bytes(whole[: len(whole) // 2])
        assert any(isinstance(frame, UserError) for frame in formats.iter_frames(tmp_path / "source", form))


def test_the_format_that_contributing_md_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file and a line: folders, archives, compression, skipping and targets come with them."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
    code = text[text.index("## An input format") :].split("```python\n")[1].split("```")[0]
    module = ModuleType("hydragnn_hpc.dataset.read.formats.csv")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(formats.FORMATS, "csv", "csv")
    (tmp_path / "raw").mkdir()
    for k in range(4):
        (tmp_path / "raw" / f"{k}.csv").write_text(f"Cu,0,0,0\nAu,0,0,2.{k}\n")
    (tmp_path / "raw" / "4.csv.gz").write_bytes(gzip.compress(b"Cu,0,0,0"))
    (tmp_path / "raw" / "5.csv").write_text("Qq,0,0,0\n")
    for source in (tmp_path / "raw", packed(tmp_path / "raw", tmp_path / "a.tgz")):
        raw = read(source, on_error="skip")
        assert (raw.form, len(raw.samples.names), raw.skipped.count) == ("csv", 5, 1)
        assert "5.csv, frame 0: 'Qq'" in raw.skipped.reasons[0]


def test_json_beside_the_data_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"made": "by hand"}')
    write(tmp_path / "train.xyz", frames(2))
    assert formats.detect(tmp_path) == "extxyz"


def test_a_data_set_beside_the_source_is_named(tmp_path: Path) -> None:
    prepare(write(tmp_path / "train.xyz", frames()), tmp_path / "a.bp", Options(targets=ENERGY))
    assert formats.detect(tmp_path) == "extxyz"
    (problem,) = [frame for frame in formats.iter_frames(tmp_path, "extxyz") if isinstance(frame, UserError)]
    assert str(problem).endswith("a.bp: is a data set of this program already; use data split, or data convert")


def test_an_adios2_folder_within_a_folder_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name, made in (("X.bp", frames(3)), ("Y.bp", frames(2))):
        hydragnn_folder(tmp_path / "raw" / name, made)
    assert formats.detect(tmp_path / "raw") == "hydragnn"
    origins = [frame.origin for frame in formats.iter_frames(tmp_path / "raw", "hydragnn") if isinstance(frame, Frame)]
    assert origins == [f"X.bp@trainset-{k}" for k in range(3)] + [f"Y.bp@trainset-{k}" for k in range(2)]


@pytest.mark.parametrize("name", ["README.md", "slurm-1.out", "run.log", "input.in"])
def test_notes_and_logs_are_no_sign_of_a_format(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("Notes.\n")
    with pytest.raises(UserError, match="is in none of the formats"):
        formats.detect(tmp_path)
    write(tmp_path / "a.extxyz", frames(1))
    assert formats.detect(tmp_path) == "extxyz"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=60))
def test_any_comment_is_read_or_refused_in_a_line(comment: str) -> None:
    try:
        parse_header(comment, "x")
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True), st.floats(allow_nan=False), max_size=4),
       st.sampled_from(['{}="{}"', "{}='{}'", "{}={{{}}}", "{} = {}", "{}=[{}]", "{}={}"]))  # fmt: skip
def test_numbers_in_any_quotes_are_what_was_written(values: dict[str, float], spelled: str) -> None:
    values = {key: v for key, v in values.items() if key.casefold() not in ("name", "pbc", "lattice", "properties")}
    text = " ".join(spelled.format(key, repr(value)) for key, value in values.items())
    assert parse_header(text, "x").values == values


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


def packed(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def left_unpacked(folder: Path, _: Path) -> Path:
    return folder


PACKS = [zipped, packed, left_unpacked]


@pytest.mark.parametrize("pack", PACKS)
def test_nested_folders_and_compressed_files_in_every_kind_of_archive(pack: Callable, tmp_path: Path) -> None:
    made, root = frames(8), tmp_path / "raw"
    write(root / "deep" / "er" / "a.extxyz", made[:4])
    (root / "b.extxyz.gz").write_bytes(gzip.compress(write(tmp_path / "b.extxyz", made[4:]).read_bytes()))
    raw = read(pack(root, tmp_path / "packed"))
    assert len(raw.samples.names) == 8 and raw.form == "extxyz"
    assert sorted(raw.samples.origins)[0].endswith("b.extxyz.gz@0") and "deep/er/a.extxyz@3" in raw.samples.origins[3]


@pytest.mark.parametrize("pack", PACKS)
def test_archives_and_zstd_inside_a_source_are_refused_or_skipped(pack: Callable, tmp_path: Path) -> None:
    root = tmp_path / "raw"
    write(root / "good.extxyz", frames(4))
    zipped(root, tmp_path / "inner.zip")
    packed(root, tmp_path / "inner.tar.gz")
    for name in ("inner.zip", "inner.tar.gz"):
        (tmp_path / name).rename(root / name)
    with tarfile.open(root / "plain.tar", "w") as archive:
        archive.add(root / "good.extxyz", "good.extxyz")
    (root / "late.extxyz.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    raw = read(pack(root, tmp_path / "packed"), on_error="skip")
    assert len(raw.samples.names) == 4 and raw.skipped.count == 4, raw.skipped
    assert sum("is an archive in a folder, in another archive" in reason for reason in raw.skipped.reasons) == 3
    (root / "good.extxyz").unlink()
    with pytest.raises(UserError, match="is an archive in a folder, in another archive or compressed again; unpack it"):
        formats.detect(pack(root, tmp_path / "without"))


def test_links_and_resource_forks_in_a_zip_archive_are_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.xyz", xyz(tmp_path / "a.xyz", "energy=1").read_text())
        link = zipfile.ZipInfo("link.xyz")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("__MACOSX/._a.xyz", b"rubbish")
    raw = read(tmp_path / "a.zip", on_error="skip")
    assert len(raw.samples.names) == 1 and raw.skipped.count == 1 and "is a link" in raw.skipped.reasons[0]


def test_a_member_of_a_zip_archive_that_points_outside_is_read_and_not_unpacked(tmp_path: Path) -> None:
    archive_folder = tmp_path / "two" / "deep"
    archive_folder.mkdir(parents=True)
    with zipfile.ZipFile(archive_folder / "a.zip", "w") as archive:
        archive.writestr("../../up.xyz", xyz(tmp_path / "a.xyz", "energy=1").read_text())
    assert len(read(archive_folder / "a.zip").samples.names) == 1
    assert not (tmp_path / "up.xyz").exists()


def test_a_zip_archive_cut_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "a.extxyz", frames(2))
    content = zipped(tmp_path / "raw", tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cannot read .*cut\.zip.*damaged"):
        read(tmp_path / "cut.zip")


@pytest.mark.parametrize("name", ["a.traj", "POSCAR", "a.cif", "a.xsf", "CONTCAR.relaxed"])
def test_what_else_ase_reads(name: str, tmp_path: Path) -> None:
    made = frames(2)[1]
    (tmp_path / "run_1").mkdir()
    form = {"POSCAR": "vasp", "CONTCAR.relaxed": "vasp"}.get(name)
    ase.io.write(tmp_path / "run_1" / name, made, format=form)
    assert formats.detect(tmp_path) == "ase"
    frame = only(tmp_path)
    assert frame.origin == f"run_1/{name}@0" and frame.periodic == (True, True, True)
    assert frame.atomic_numbers.tolist() == made.numbers.tolist()
    assert abs(np.linalg.det(frame.cell)) * BOHR_IN_ANGSTROM**3 == pytest.approx(made.cell.volume, rel=1e-5)
    for pack in (zipped, packed):
        np.testing.assert_array_equal(only(pack(tmp_path / "run_1", tmp_path / "archive")).pos, frame.pos)
    if name == "a.traj":
        assert frame.values["energy"] == made.get_potential_energy()
        np.testing.assert_array_equal(frame.columns["forces"], made.get_forces())


def test_partly_occupied_sites_are_refused(tmp_path: Path) -> None:
    made = frames(2)[1]
    made.info["occupancy"] = {str(k): {"Cu": 0.5, "Au": 0.5} for k in range(4)}
    made.new_array("spacegroup_kinds", np.arange(4))
    ase.io.write(tmp_path / "a.cif", made)
    (message,) = formats.iter_frames(tmp_path / "a.cif", "ase")
    assert isinstance(message, UserError) and "partly occupied" in str(message)
    for value in (0.5, {"all": 0.5}):  # another program's value of that name
        made.info["occupancy"] = value
        ase.io.write(tmp_path / "a.traj", made)
        assert only(tmp_path / "a.traj").values["occupancy"] == value


def test_damage_costs_one_file_of_a_folder(tmp_path: Path) -> None:
    for k, atoms in enumerate(frames(6)):
        ase.io.write(tmp_path / f"{k}.traj", atoms)
    whole = (tmp_path / "3.traj").read_bytes()
    (tmp_path / "3.traj").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "4.cif").write_text("data_x\n")
    raw = read(tmp_path, on_error="skip")
    assert len(raw.samples.names) == 6 - 1 and raw.skipped.count == 2
    assert "3.traj, frame 0: ASE cannot read it" in raw.skipped.reasons[0]


def database(path: Path, metadata: dict, scale: float = 1.0, n: int = 12) -> Path:
    """Methane in a database whose lengths are multiplied, with energies in its data."""
    rng = np.random.default_rng(0)
    with ase.db.connect(path) as db:
        for k in range(n):
            atoms = molecule("CH4")
            atoms.positions = (atoms.positions + rng.normal(size=(5, 3)) * 0.01) * scale
            db.write(atoms, data={"energy": np.array([-40.0 - 0.01 * k])})
        db.metadata = metadata
    return path


def check_length(source: Path) -> None:
    """Check the length of the first bond of a database of one molecule."""
    pos = only(source).pos
    assert np.linalg.norm(pos[1] - pos[0]) == pytest.approx(1.09 / BOHR_IN_ANGSTROM, abs=0.1)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("Ang", 1.0), ("ANGSTROM", 1.0), ("Bohr", 1 / BOHR_IN_ANGSTROM), ("a0", 1 / BOHR_IN_ANGSTROM), ("nm", 0.1)],
)
def test_lengths_in_the_unit_that_a_database_states(unit: str, scale: float, tmp_path: Path) -> None:
    check_length(database(tmp_path / "a.db", {"_distance_unit": unit}, scale, n=1))


def test_a_unit_that_is_not_known_is_mentioned_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(database(tmp_path / "a.db", {"_property_unit_dict": {"energy": "furlong"}}))
    assert capsys.readouterr().err.count("'energy' is in 'furlong', a unit not known here; taken as eV") == 1


def test_units_that_a_database_states_are_compared_with_those_of_the_targets(tmp_path: Path) -> None:
    tables = (
        {"_property_unit_dict": {"energy": "Hartree"}},
        {"key_descriptions": {"energy": ("E", "energy", "Ha")}},
        {"energy_unit": "Hartree", "length_unit": "Ang"},
    )
    for k, metadata in enumerate(tables):
        source = database(tmp_path / f"{k}.db", metadata)
        assert len(read(source, "E=graph:energy:Ha").samples.names) == 12
        with pytest.raises(UserError, match=r"--target E: 'energy' is in Ha.*not in eV"):
            read(source, on_error="skip")
    with pytest.raises(UserError, match="'furlong'"):
        read(database(tmp_path / "c.db", {"_distance_unit": "furlong"}), "E=graph:energy:Ha")


@pytest.mark.parametrize(
    "metadata",
    [
        {"units": {"positions": "Bohr"}},
        {"units": {"distance": "bohr"}},
        {"length_unit": "au"},
        {"position_units": "a0"},
    ],
)
def test_the_unit_of_positions_in_any_table(metadata: dict, tmp_path: Path) -> None:
    check_length(database(tmp_path / "a.db", metadata, 1 / BOHR_IN_ANGSTROM, n=1))
    with pytest.raises(UserError, match="several units of length"):
        read(database(tmp_path / "b.db", {**metadata, "_distance_unit": "Ang"}))


def test_a_value_beyond_all_bounds_costs_its_structure(tmp_path: Path) -> None:
    text = xyz(tmp_path / "a.xyz", "energy=-%d", n=3).read_text() + xyz(tmp_path / "b", "energy=1e200").read_text()
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(UserError, match=r"frame 3: 'energy' reaches 1e\+200"):
        read(tmp_path / "a.xyz")
    assert len(read(tmp_path / "a.xyz", on_error="skip").samples.names) == 3


def test_numbers_with_more_digits_than_python_converts(tmp_path: Path) -> None:
    digits = "9" * 5000
    with pytest.raises(UserError, match="'energy' holds an infinite value"):
        read(xyz(tmp_path / "a.xyz", f"energy={digits}"))
    assert read(xyz(tmp_path / "a.xyz", f"energy=1 name={digits}")).samples.names == [digits]


def test_a_name_that_is_not_utf_8_costs_its_structure(tmp_path: Path) -> None:
    source = xyz(tmp_path / "a.xyz", r'energy=-%d name="_JSON \"a\\ud80%d\""', n=2)
    source.write_text(source.read_text().replace("ud800", "u00e4"))
    with pytest.raises(UserError, match=r"frame 1: its name 'a\\ud801' is not UTF-8; rename the structure"):
        read(source)
    assert read(source, on_error="skip").samples.names == ["aä"]


def test_nesting_without_end_is_damage(tmp_path: Path) -> None:
    deep = "[" * 100_000
    assert read(xyz(tmp_path / "a.xyz", f'x="_JSON {deep}" energy=-1')).samples.values["E"] == [np.array([[-1.0]])]
    (tmp_path / "a.json").write_text('{"1": ' + deep)
    with pytest.raises(UserError, match="cannot be read as an ASE database: "):
        read(tmp_path / "a.json")


def test_a_row_and_its_calculator_that_disagree(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "a.db") as db:
        for energy in (-1.0, -2.0):
            atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.5]])
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
            db.write(atoms, data={"energy": energy})
    with pytest.raises(
        UserError, match=r"id 2: 'energy' is -2.0 in the row's data and -1.0 in the calculator's results"
    ):
        read(tmp_path / "a.db")
    assert len(read(tmp_path / "a.db", on_error="skip").samples.names) == 1


@pytest.mark.parametrize(
    "mark", ["isolated_atom=T", "config_type=IsolatedAtom", "config_type=isolated_atom", 'Config_Type="isolated atom"']
)
def test_marked_isolated_atoms_are_left_out(mark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crystal = xyz(tmp_path / "a.xyz", "energy=-%d", n=12).read_text()
    atom = xyz(tmp_path / "a.xyz", f'{mark} energy=-0.2 pbc="F F F"', ("Cu 0 0 0",)).read_text()
    (tmp_path / "a.xyz").write_text(crystal + atom)
    raw = read(tmp_path / "a.xyz")
    assert len(raw.samples.names) == 12 and raw.skipped.count == 1
    assert "structures marked as isolated atoms (config_type) and left out: 1" in capsys.readouterr().err
    assert len(new_structures(tmp_path / "a.xyz")) == 13


def test_lone_atoms_are_not_pure_crystals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An open boundary, or a box of vacuum, makes a lone atom; a primitive cell of one atom is a crystal."""
    parts = [xyz(tmp_path / "x", f"{LATTICE} energy=-%d", ("Cu 0 0 0", "Cu 0 0 2.5"), 3).read_text()]
    for header in (
        'pbc="F F F" energy=-0.2',
        'Lattice="20 0 0 0 20 0 0 0 20" energy=-0.2',
        'Lattice="2 0 0 0 2 0 0 0 2" energy=-9',
    ):
        parts.append(xyz(tmp_path / "x", header, ("Cu 0 0 0",)).read_text())
    (tmp_path / "a.xyz").write_text("".join(parts))
    energies = read(tmp_path / "a.xyz", "H=mixing:energy:eV").samples.energies
    assert np.isnan(energies).sum() == 2
    assert "structures that are a single atom without a neighbour within 7 bohr: 2;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("atoms", "cutoff"),
    [(("Cu 0 0 0", "Au 9 0 0"), 7.0), (("Cu 0 0 0", "Au 0 0 2.25"), 2.25 / BOHR_IN_ANGSTROM)],
    ids=["atoms at one place", "a neighbour at the cutoff"],
)
def test_what_has_no_neighbour_list_is_skipped_too(atoms: tuple[str, ...], cutoff: float, tmp_path: Path) -> None:
    good = xyz(tmp_path / "a.xyz", f"{LATTICE} energy=-%d", ("Cu 0 0 0", "Au 0 0 2.5"), 8).read_text()
    for k in range(4):
        good += xyz(tmp_path / "a.xyz", f"{LATTICE} energy=-1{k}", ("Cu 0 0 0", f"Au 0 0 2.{6 + k}")).read_text()
    bad = xyz(tmp_path / "a.xyz", f"{LATTICE} energy=-7", atoms).read_text()
    (tmp_path / "a.xyz").write_text(good + bad)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "a.xyz").write_text(good)
    options = Options(targets=ENERGY, cutoff=cutoff, split_by="random", fractions=(0.4, 0.3, 0.3))
    with pytest.raises(UserError, match=r"a\.xyz@12: .*--on-error skip leaves it out"):
        prepare(tmp_path / "a.xyz", tmp_path / "x.bp", options)
    skipping = replace(options, on_error="skip")
    facts = prepare(tmp_path / "a.xyz", tmp_path / "x.bp", skipping)
    assert facts.plain()["source"]["skipped"] == 1 and "frame 12" in facts.plain()["source"]["skipped_reasons"][0]
    assert facts.sha256 == prepare(tmp_path / "good" / "a.xyz", tmp_path / "y.bp", skipping).sha256
    assert store.read(tmp_path / "x.bp")[0].sha256 == facts.sha256


def test_a_split_that_the_source_states_is_mentioned_where_the_choice_is_left_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, distance in (("train", 2.1), ("valid", 2.3), ("test", 2.5)):
        xyz(tmp_path / f"{name}.xyz", "energy=-%d.5", ("Cu 0 0 0", f"Au 0 0 {distance}"), 2)
    for choice, mentioned in (("auto", 1), ("random", 0), ("source", 0)):
        read(tmp_path, split_by=choice)
        assert capsys.readouterr().err.count("states a split of its own, which is not kept") == mentioned, choice
    (tmp_path / "other.xyz").write_text((tmp_path / "test.xyz").read_text())
    read(tmp_path)
    assert "states a split" not in capsys.readouterr().err, "not of every structure"


def test_new_structures_keep_their_order_and_say_which_they_are(tmp_path: Path) -> None:
    source = xyz(tmp_path / "b.xyz", "name=CuAu energy=%d", n=12)
    source.write_text(source.read_text() + "1\nname=CuAu\nCu inf 0 0\n" + xyz(tmp_path / "c.xyz", "name=1").read_text())
    new = new_structures(source, "skip")
    assert [frame.name for frame in new.frames] == ["CuAu"] * 12 + ["1"]
    assert new.index == [*range(12), 13]
    assert [frame.origin for frame in new.frames] == [f"b.xyz@{k}" for k in new.index]


def test_an_option_that_is_missing_is_no_structure_to_skip(tmp_path: Path) -> None:
    lsms_text(tmp_path / "source", frames(2))
    with pytest.raises(UserError, match=r"^[^;]*out_0: its format holds no cell.*: give --cell$"):
        new_structures(tmp_path / "source", "skip", "periodic")


def test_fortrans_exponents_are_numbers_and_names_are_not(tmp_path: Path) -> None:
    header = 'Lattice="9.0D0 0 0 0 9.0d+00 0 0 0 9" energy=-1.25D+01 hash=5d10 pbc=T'
    (tmp_path / "a.xyz").write_text(f"1\nProperties=species:S:1:pos:R:3 {header}\nCu 1.0D+00 .5d0 2.\n")
    frame = only(tmp_path / "a.xyz")
    assert (frame.values["energy"], frame.values["hash"]) == (-12.5, "5d10")
    assert np.allclose(frame.cell, np.eye(3) * 9 / BOHR_IN_ANGSTROM)
    assert np.allclose(frame.pos, np.array([[1, 0.5, 2]]) / BOHR_IN_ANGSTROM)
