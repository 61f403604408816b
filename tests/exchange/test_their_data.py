"""HydraGNN's data sets are read as what they were made from, and written so that they come back."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from hydragnn_hpc.atomic import StorageError
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build import to_hydragnn
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read import formats
from hydragnn_hpc.dataset.read.formats import hydragnn_pickle
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.dataset.store import foreign
from hydragnn_hpc.errors import UserError
from tests.campaigns import called, done
from tests.exchange import data_files
from tests.payload import Payload
from tests.storage import small_disk

PROCESSED = ("mixing_enthalpy=graph:output_0:Ry", "charge_transfer=node:output_1:e", "magnetic_moment=node:output_2:μB")
RAW = ("mixing_enthalpy=graph:graph_0:Ry", "charge_transfer=node:node_1:e", "magnetic_moment=node:node_2:μB")
NAMED = (
    "mixing_enthalpy=graph:mixing_enthalpy:Ry", "charge_transfer=node:charge_transfer:e",
    "magnetic_moment=node:magnetic_moment:μB",
)  # fmt: skip
TARGETS = {"processed": PROCESSED, "raw": RAW}


def by_content(bp: Path) -> dict[bytes, dict[str, np.ndarray]]:
    """What a data set holds of each sample, by species and positions: names and order are left out."""
    _, a = store.read(bp)
    found = {}
    for k, g in enumerate(a["sample_geometry"].tolist()):
        atoms, sites = slice(*a["atom_offsets"][k : k + 2]), slice(*a["geometry_atom_offsets"][g : g + 2])
        first, last = a["neighbour_offsets"][[sites.start, sites.stop]]
        sample = {"split": a["split"][k], "pos": a["pos"][sites], "cell": a["cell"][g], "periodic": a["periodic"][g]}
        sample |= {"offsets": a["neighbour_offsets"][sites] - first, "neighbours": a["neighbours"][first:last]}
        for name in (n for n in a if n.startswith("target_")):
            sample[name] = a[name][atoms if len(a[name]) == len(a["atomic_numbers"]) else slice(k, k + 1)]
        found[a["atomic_numbers"][atoms].tobytes() + a["pos"][sites].round(3).tobytes()] = sample
    return found


def assert_same(one: Path, other: Path) -> None:
    """Compare samples, neighbours and split; values to float32 of the range by which HydraGNN scales all components."""
    expected, found = by_content(one), by_content(other)
    targets = store.read_manifest(one).targets
    assert found.keys() == expected.keys() and len(found) > 50
    for key, sample in expected.items():
        for name in ("split", "offsets", "neighbours", "periodic"):
            np.testing.assert_array_equal(found[key][name], sample[name], name)
        for name in ("pos", "cell"):
            np.testing.assert_allclose(found[key][name], sample[name], rtol=1e-6)
        for name, target in targets.items():
            width = max(target.maximum) - min(target.minimum)
            assert np.abs(found[key][f"target_{name}"] - sample[f"target_{name}"]).max() <= 1.2e-7 * width


def prepared(source: Path, out: Path, targets: tuple[str, ...], **options: Any) -> Path:
    """Prepare a data set of HydraGNN's; returns ``out``."""
    prepare(source, out, Options(form="hydragnn", targets=parse_targets(targets), **options))
    return out


@pytest.mark.parametrize("layout", ["processed", "raw"])
def test_adios_folders_are_what_they_were_made_from(layout: str, small_bp: Path, tmp_path: Path) -> None:
    source = data_files.whole_bp(tmp_path / "fept.bp", small_bp, layout)
    assert_same(small_bp, prepared(source, tmp_path / "own.bp", TARGETS[layout]))
    assert formats.detect(source) == "hydragnn"
    assert store.read_manifest(tmp_path / "own.bp").source.split_by == "source"
    again = prepared(source, tmp_path / "again.bp", TARGETS[layout], split_by="composition", seed=5)
    assert store.read_manifest(again).source.split_by == "composition"


@pytest.mark.parametrize("layout", ["processed", "raw"])
@pytest.mark.parametrize("write", [data_files.write_pickles, data_files.write_many_pickles])
def test_pickles_are_what_they_were_made_from(write: Callable, layout: str, small_bp: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "pickles", small_bp, layout)
    assert formats.detect(source) == "hydragnn"
    assert_same(small_bp, prepared(source, tmp_path / "own.bp", TARGETS[layout]))


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A periodic data set of two sizes, with forces, charges and an energy."""
    folder = tmp_path_factory.mktemp("ternary")
    done(folder, "data", "generate", "raw.extxyz", "--system", "ternary", "--cap", "6", "--sizes", "1x1x1,2x1x1")
    targets = [w for t in ("E=graph:energy:eV", "Q=node:charge:e", "F=node:forces:eV/Ang") for w in ("--target", t)]
    done(folder, "data", "prepare", "raw.extxyz", "own.bp", *targets)
    return folder / "own.bp"


def test_convert_writes_what_prepare_reads_back(ternary: Path, tmp_path: Path) -> None:
    printed = done(tmp_path, "data", "convert", str(ternary), "theirs.bp", "--to", "hydragnn")
    assert "structures as hydragnn" in printed and "digits beyond float32" in printed
    described = json.loads((tmp_path / "theirs.json").read_text())
    assert described["Dataset"]["node_features"] == {
        "name": ["num_of_protons", "Q", "F"], "dim": [1, 1, 3], "unit": ["", "e", "eV/Å"]
    }  # fmt: skip
    targets = [w for t in ("E=graph:E:eV", "Q=node:Q:e", "F=node:F:eV/Ang") for w in ("--target", t)]
    wrong = called(tmp_path, "data", "prepare", "theirs.bp", "own.bp", "--target", "E=graph:E:Ry")
    assert wrong.returncode == 2 and "'E' is in eV, as the metadata of" in wrong.stderr
    done(tmp_path, "data", "prepare", "theirs.bp", "own.bp", "--format", "hydragnn", *targets)
    assert_same(ternary, tmp_path / "own.bp")
    assert store.read_manifest(tmp_path / "own.bp").neighbours.boundary == "periodic"
    done(tmp_path, "data", "convert", "theirs.bp", "theirs.extxyz")
    again = called(tmp_path, "data", "convert", str(ternary), "theirs.bp", "--to", "hydragnn")
    assert again.returncode == 2 and "theirs.bp exists; give another name, or --force" in again.stderr
    done(tmp_path, "data", "convert", str(ternary), "theirs.bp", "--to", "hydragnn", "--force")
    kept = called(tmp_path, "data", "convert", str(ternary), "own.bp", "--to", "hydragnn", "--force")
    assert kept.returncode == 2 and "own.bp is not a data set of HydraGNN" in kept.stderr
    with pytest.raises(UserError, match=r"a name that does not end in \.json"):
        to_hydragnn.write(ternary, tmp_path / "new.json", False)
    assert not (tmp_path / "new.json").exists()


def test_edges_follow_one_another_along_the_axis_in_which_samples_differ(
    small_bp: Path, ternary: Path, tmp_path: Path
) -> None:
    """On one geometry, what is written is what HydraGNN's own writer makes; on several, samples differ in edges."""
    import adios2

    done(tmp_path, "data", "convert", str(small_bp), "one.bp", "--to", "hydragnn")
    theirs = data_files.whole_bp(tmp_path / "theirs.bp", small_bp, "processed")
    with adios2.FileReader(str(tmp_path / "one.bp")) as ours, adios2.FileReader(str(theirs)) as expected:
        names = ours.available_variables()
        assert all("edge_attr" in name for name in expected.available_variables().keys() - names)
        for name in names:
            np.testing.assert_array_equal(ours.read(name), expected.read(name), name)
        assert ours.read_attribute("trainset/edge_index/variable_dim") == 0
        assert ours.read("trainset/edge_index").shape[0] == 2 * ours.read_attribute("trainset/ndata")
    done(tmp_path, "data", "convert", str(ternary), "two.bp", "--to", "hydragnn")
    with adios2.FileReader(str(tmp_path / "two.bp")) as ours:
        assert ours.read_attribute("trainset/edge_index/variable_dim") == 1
        assert len(ours.read("trainset/edge_index")) == 2 and ours.read_attribute("trainset/y_loc/variable_dim") == 0
        degrees, counts = ours.read_attribute("pna_deg"), ours.read("trainset/edge_index/variable_count")
        assert degrees @ np.arange(len(degrees)) == counts.sum()


def test_a_configuration_beside_the_data_names_them_and_states_the_unit(small_bp: Path, tmp_path: Path) -> None:
    source = data_files.whole_bp(tmp_path / "fept.bp", small_bp, "processed")
    variables = {"type": ["graph", "node", "node"], "output_index": [0, 1, 2], "input_node_features": [0],
                 "output_names": ["mixing_enthalpy", "charge_transfer", "magnetic_moment"]}  # fmt: skip
    content = {"Dataset": {"length_unit": "angstrom"}, "NeuralNetwork": {"Variables_of_interest": variables}}
    (tmp_path / "fept.json").write_text(json.dumps(content))
    own = prepared(source, tmp_path / "own.bp", NAMED, cutoff=7.0 / 0.529177210903)
    pos = [store.read(bp)[1]["pos"] for bp in (own, small_bp)]
    np.testing.assert_allclose(pos[0] * 0.529177210903, pos[1], rtol=1e-5)
    variables["output_index"] = [0, 2, 1]
    (tmp_path / "fept.json").write_text(json.dumps(content))
    frame = next(iter(formats.iter_frames(source, "hydragnn")))
    assert isinstance(frame, Frame)
    node, _ = data_files.scales(small_bp)
    stored = data_files.samples(small_bp, "processed")["trainset"][0]["y"][1:33].astype(np.float64)
    np.testing.assert_allclose(frame.columns["charge_transfer"], stored * (node[1, 2] - node[0, 2]) + node[0, 2])


def only_error(source: Path, form: str = "hydragnn") -> str:
    """The one error of a source that holds nothing else."""
    (found,) = formats.iter_frames(source, form)
    assert isinstance(found, UserError) and "\n" not in str(found)
    return str(found)


def changed(small_bp: Path, path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> str:
    """The first error of a data set of two samples of which something was changed."""
    node, graph = data_files.scales(small_bp)
    attributes: dict[str, Any] = {"minmax_node_feature": node, "minmax_graph_feature": graph}
    sample = data_files.samples(small_bp, "processed")["trainset"][0]
    change(sample, attributes)
    source = data_files.write_bp(path, {"trainset": [sample, sample]}, attributes)
    found = next(iter(formats.iter_frames(source, "hydragnn")))
    assert isinstance(found, UserError), found
    return str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, a: s.update({"x;import os": s["x"]}), "the key 'x;import os' is not a name"),
        (lambda s, a: s.update({"__class__": s["x"]}), "the key '__class__' is not a name"),
        (lambda s, a: s["x"].__setitem__(3, np.nan), "atom 3: x begins with nan, which is not a proton number"),
        (lambda s, a: s.update(atomic_numbers=np.array([26] * 31 + [10**12])), "31: atomic_numbers holds 1e+12"),
        (lambda s, a: a.clear(), "x begins with 0, which is not a proton number"),
        (lambda s, a: a.update(minmax_graph_feature=np.ones((2, 4))), "which of the 4 graph-level features"),
        (lambda s, a: a.update(minmax_node_feature=np.full((2, 3), np.nan)), "minmax_node_feature is not"),
        (lambda s, a: a.update(energy_linear_regression_coeff=np.ones(118)), "its energies are residuals"),
        (lambda s, a: s.pop("pos"), "has no 'pos'"),
        (lambda s, a: s.update(y_loc=s["y_loc"] + 1), "does not divide the 65 values of y"),
        (lambda s, a: s.update(pos=s["pos"][:, :2]), "malformed"),
        (lambda s, a: s.update(cell=np.eye(2, dtype=np.float32)), "malformed"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(change: Callable, message: str, small_bp: Path, tmp_path: Path) -> None:
    error = changed(small_bp, tmp_path / "bad.bp", change)
    assert message in error and "bad.bp" in error


def test_damaged_and_other_folders_are_named(small_bp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data_files.whole_bp(tmp_path / "whole.bp", small_bp, "raw")
    for name in ("data.0", "md.0", "md.idx"):
        bad = Path(shutil.copytree(whole, tmp_path / f"no-{name}.bp"))
        os.truncate(bad / name, (bad / name).stat().st_size // 2)
        monkeypatch.setattr(foreign, "PATIENCE", 5.0)  # for data that the index promises, ADIOS2 waits without end
        error = only_error(bad)
        assert str(bad) in error and ("it is damaged" in error or "holds no samples" in error)
        monkeypatch.undo()
    bad = Path(shutil.copytree(whole, tmp_path / "no-data.bp"))
    (bad / "md.0").unlink()
    error = only_error(bad)
    assert "md.0" in error and error.endswith("; copy it again from its source, or prepare it again")
    assert "x1b" not in error, "the colours of ADIOS2's output"
    assert "is a data set of this program already" in only_error(small_bp)
    assert "but holds no samples of HydraGNN" in only_error(
        data_files.write_bp(tmp_path / "empty.bp", {}, {"name": "x"})
    )
    assert "odd.bp: malformed: " in only_error(data_files.write_bp(tmp_path / "odd.bp", {}, {"trainset/ndata": "two"}))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(data_files.write_pickles(tmp_path / "p", small_bp, "raw"), "p")
    assert "unpack the archive, and give the folder" in str(
        next(iter(formats.iter_frames(tmp_path / "all.tar", "hydragnn")))
    )
    (tmp_path / "whole.json").write_text('{"Dataset": {"length_unit": "furlong"}}')
    assert "'furlong'" in only_error(whole) and "whole.json" in only_error(whole)
    (tmp_path / "whole.json").write_text('{"Dataset": 3}')
    assert "whole.json: Dataset" in only_error(whole)
    with patch("pathlib.Path.read_bytes", side_effect=PermissionError(13, "Permission denied")):
        assert "whole.json: Permission denied; make it readable, or remove it" in only_error(whole)


def test_a_full_disk_is_not_blamed_on_a_folder(small_bp: Path, tmp_path: Path) -> None:
    """Otherwise ``--on-error skip`` would leave it out."""
    whole = data_files.whole_bp(tmp_path / "whole.bp", small_bp, "raw")
    with pytest.raises(StorageError, match=r"^cannot write .*missing: No such file or directory"):
        foreign.unpack(whole, tmp_path / "missing")


def test_a_full_disk_ends_a_conversion_in_one_line(small_bp: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200k") as disk:
        failed = called(tmp_path, "data", "convert", str(small_bp), str(disk / "theirs.bp"), "--to", "hydragnn")
        assert failed.returncode == 2 and "theirs.bp: No space left on device; free space" in failed.stderr
        assert not list(disk.iterdir())


def test_nothing_in_a_pickle_is_executed(small_bp: Path, tmp_path: Path) -> None:
    good = data_files.graphs(data_files.samples(small_bp, "raw")["trainset"][:1])
    marker = tmp_path / "ran"
    bad: list[Any] = [Payload(marker), [Payload(marker)], [*good, {"a": Payload(marker)}]]
    bad[2][0].x = Payload(marker)
    for number, content in enumerate(bad):
        path = tmp_path / f"{number}-trainset.pkl"
        with path.open("wb") as stream:
            for part in (None, None, content):
                pickle.dump(part, stream)
        error = only_error(path)
        assert "it names posix.mkdir, which no data set needs" in error and str(path) in error
        assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(V1\ntR.",
        b"ctorch.storage\n_load_from_bytes\n(cbuiltins\neval\nV1\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x01O\x85R.",  # an array of objects, once used
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93\x8c\x05numpy\x8c\x05dtype\x93\x8c\x01O\x85RK\x00)))tR.",
        b"\x80\x04\x95",
        b"",
    ],
)
def test_a_malformed_pickle_is_named(program: bytes, tmp_path: Path) -> None:
    (tmp_path / "a-trainset.pkl").write_bytes(program + program + program)
    assert "a-trainset.pkl" in only_error(tmp_path / "a-trainset.pkl")


def test_a_cut_pickle_is_reported(small_bp: Path, tmp_path: Path) -> None:
    data_files.write_pickles(tmp_path / "p", small_bp, "raw")
    path = tmp_path / "p" / "fept-trainset.pkl"
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 10):
        path.write_bytes(whole[:size])
        assert "cannot be read as a pickle of HydraGNN" in only_error(path)


def test_damage_costs_one_sample_of_a_pickle_or_of_many(tmp_path: Path) -> None:
    made = [{"x": np.full((2, 1), 29.0), "pos": np.eye(2, 3) + k, "y": np.zeros(0)} for k in range(4)]
    graphs: list[Any] = data_files.graphs(made)
    (tmp_path / "list").mkdir()
    parts = (None, None, [graphs[0], {"x": 1}, *graphs[2:]])
    (tmp_path / "list" / "a-trainset.pkl").write_bytes(b"".join(map(pickle.dumps, parts)))
    many = tmp_path / "many"
    many.mkdir()
    (many / "a-trainset-meta.pkl").write_bytes(b"".join(map(pickle.dumps, (None, None, 4, False, 0))))
    for k in (0, 2, 3):
        (many / f"a-trainset-{k}.pkl").write_bytes(pickle.dumps(graphs[k]))
    for folder, message in (("list", "1: holds dict"), ("many", "trainset-1.pkl: No such file"), ("many", "damaged")):
        if message == "damaged":
            message = "trainset-1.pkl: cannot be read as a pickle"
            (many / "a-trainset-1.pkl").write_bytes(b"damaged")
        found = list(formats.iter_frames(tmp_path / folder, "hydragnn"))
        assert [isinstance(frame, Frame) for frame in found] == [True, False, True, True]
        assert message in str(found[1])
        assert [frame.pos[1, 0] for frame in found if isinstance(frame, Frame)] == [0, 2, 3]


class Made:
    """Pickled as the call of a function, with any arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


FLAT = Made(np.zeros(1).__reduce_ex__(5)[0], bytes(1024), np.dtype("<f8"), (128,), "C")
NOTHING = Made(torch._utils._rebuild_tensor_v2, FLAT, 0, (1000, 0), (0, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NOTHING, 0, (1000,), (1,)), "whose storage is not a row of numbers"),
        ((FLAT, 0, (np.int8(100),), (np.int8(100),)), "whose sizes are not whole numbers"),
        ((FLAT, 29, (100,), (1,)), "reaches beyond its storage"),
        ((FLAT, 0, (129,), (0,)), "reaches beyond its storage"),
        ((FLAT, 127, (2,), (-1,)), "reaches beyond its storage"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_no_part_of_its_storage_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        hydragnn_pickle.load(io.BytesIO(pickle.dumps(Made(torch._utils._rebuild_tensor_v2, *arguments))), "x")


def kept_elsewhere(length: int) -> bytes:
    """A pickle of one storage, whose numbers would follow."""
    words = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
    return b"\x80\x02(" + words + b"J" + length.to_bytes(4, "little") + b"tQ."


def test_storages_take_no_more_memory_than_the_file_has() -> None:
    before = b"".join(pickle.dumps(part) for part in (hydragnn_pickle._LEGACY, 1001, {}))
    after = pickle.dumps(["0"]) + (3).to_bytes(8, "little") + np.arange(3, dtype="<f4").tobytes()

    def loaded(content: bytes) -> Any:
        return hydragnn_pickle.load(io.BytesIO(pickle.dumps(Made(torch.storage._load_from_bytes, content))), "x")

    assert loaded(before + kept_elsewhere(3) + after).tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(UserError, match="a storage that is longer than what follows"):
        loaded(before + kept_elsewhere(1000) + after)
    with pytest.raises(UserError, match="an object kept elsewhere"):
        hydragnn_pickle.load(io.BytesIO(kept_elsewhere(3) + after), "x")


def test_levels_of_values_that_may_be_as_many_as_the_atoms(tmp_path: Path) -> None:
    """HydraGNN's files do not state levels: in a structure of one atom, an energy must not be taken for per atom."""
    made = []
    for k in range(12):
        n = (1, 2, 3, 6)[k % 4]
        atoms = {"x": np.full((n, 1), 29.0), "pos": np.arange(3.0 * n).reshape(n, 3) + k / 9, "y": np.ones(1)}
        whole = {"energy": np.array([-1.0 * k]), "dipole": np.arange(3.0) + k, "stress": np.arange(6.0)[None] + k}
        made.append({**atoms, **whole, "forces": np.full((n, 3), k), "charge": np.full(n, k)})
    with (tmp_path / "a.pkl").open("wb") as file:
        for part in (None, None, data_files.graphs(made)):
            pickle.dump(part, file)
    given = ("E=graph:energy:eV", "d=graph:dipole:D", "s=graph:stress:GPa", "f=node:forces:eV/Ang", "q=node:charge:e")
    manifest = prepare(tmp_path / "a.pkl", tmp_path / "a.bp", Options(targets=parse_targets(given)))
    _, a = store.read(tmp_path / "a.bp")
    assert {name: target.width for name, target in manifest.targets.items()} == {"E": 1, "d": 3, "s": 6, "f": 3, "q": 1}
    number = a["source_index"][:, None]
    assert np.array_equal(a["target_E"], -number)
    assert np.array_equal(a["target_d"], np.arange(3) + number)
    assert np.array_equal(a["target_s"], np.arange(6) + number)
    of_atoms = np.repeat(number, np.diff(a["atom_offsets"]), axis=0)
    assert np.array_equal(a["target_f"], np.repeat(of_atoms, 3, axis=1))
    assert np.array_equal(a["target_q"], of_atoms)


def test_arrays_of_text_and_objects_are_left_out(small_bp: Path, tmp_path: Path) -> None:
    (graph,) = data_files.graphs(data_files.samples(small_bp, "raw")["trainset"][:1])
    graph.label, graph.parts = np.array(["a", "b"]), np.array([None, {}], object)
    path = tmp_path / "fept-trainset.pkl"
    path.write_bytes(b"".join(pickle.dumps(part, 4) for part in (*data_files.scales(small_bp), [graph])))
    (frame,) = formats.iter_frames(path, "hydragnn")
    assert isinstance(frame, Frame) and not {"label", "parts"} & {*frame.values, *frame.columns}
    damaged = pickle.dumps(graph, 4).replace(b"U1", b"?1")
    with pytest.raises(UserError, match="x, label: cannot be read as a pickle of HydraGNN"):
        hydragnn_pickle.tensors_of(hydragnn_pickle.load(io.BytesIO(damaged), "x"), "x")


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["processed", pytest.param("raw", marks=pytest.mark.long)])
def test_two_hundred_real_structures(layout: str, real_samples: Path, tmp_path: Path) -> None:
    """LSMS text and HydraGNN's data set of it give the same data set under the same options."""
    own = tmp_path / "own.bp"
    prepare(real_samples, own, Options(seed=3))
    source = data_files.whole_bp(tmp_path / "fept.bp", own, layout)
    assert_same(own, prepared(source, tmp_path / "theirs.bp", TARGETS[layout], seed=3))
