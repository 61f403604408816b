"""The store returns exactly what was written, writes a data set completely or not at all, and notices any damage."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import arrays, facts, reseal

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.staged import copies
from hydragnn_hpc.dataset.store import bp5, spool
from hydragnn_hpc.errors import UserError
from tests.storage import damage, small_disk

FILES = ["data.0", "manifest.json", "md.0", "md.idx", "mmd.0"]


@pytest.fixture
def content() -> dict[str, np.ndarray]:
    return arrays()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set; copy it before damaging it."""
    path = tmp_path_factory.mktemp("store") / "whole.bp"
    store.write(path, arrays(), facts(arrays()))
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy.bp"))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 999), st.lists(st.integers(1, 7), min_size=1, max_size=4), st.sampled_from([0.4, 4.0]),
    st.sampled_from([1, 50, spool.CHUNK]), st.booleans(),
)  # fmt: skip
def test_a_round_trip_is_exact(
    tmp_path: Path, seed: int, sizes: list[int], cutoff: float, chunk: int, nameless: bool
) -> None:
    """Samples of different sizes, missing values, empty arrays; handled whole or in chunks of a few rows."""
    drawn = arrays(seed, tuple(sizes), cutoff)
    rng = np.random.default_rng(seed)
    drawn["target_spin"][1:][rng.random((len(drawn["target_spin"]) - 1, 3)) < 0.5] = np.nan
    drawn["target_spin"][-1] = [-0.0, 5e-324, -1.7976931348623157e308]
    if nameless:
        drawn["sample_names"], drawn["sample_name_offsets"] = np.zeros(0, np.uint8), drawn["sample_name_offsets"] * 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "CHUNK", chunk)
        written = store.write(tmp_path / "x.bp", drawn, facts(drawn), force=True)
        manifest, read = store.read(tmp_path / "x.bp")
        with tempfile.TemporaryDirectory(dir=tmp_path) as copy:
            copies.copy(tmp_path / "x.bp", Path(copy))
            staged = {name: np.array(array) for name, array in copies.open_staged(Path(copy)).arrays.items()}
    assert manifest == written and list(read) == list(drawn)
    for name, array in drawn.items():
        assert staged[name].dtype == array.dtype and staged[name].shape == array.shape, name
        assert staged[name].tobytes() == array.tobytes(), name
    for name, array in drawn.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape, name
        assert read[name].tobytes() == array.tobytes() and read[name].flags.c_contiguous, name


def test_arrays_that_adios2_would_garble_are_written_correctly(content: dict[str, np.ndarray], tmp_path: Path) -> None:
    awkward = {k: np.asfortranarray(a) if a.ndim > 1 else np.repeat(a, 2)[::2] for k, a in content.items()}
    for array in awkward.values():
        array.flags.writeable = False
    store.write(tmp_path / "x.bp", awkward, facts(content))
    _, found = store.read(tmp_path / "x.bp")
    assert all(found[k].tobytes() == a.tobytes() for k, a in content.items())


def test_the_manifest_declares_what_is_there(whole: Path) -> None:
    manifest, found = store.read(whole)
    declared = manifest.plain()["arrays"]
    assert {k: (tuple(v["shape"]), v["dtype"]) for k, v in declared.items()} == {
        k: (v.shape, str(v.dtype)) for k, v in found.items()
    }
    assert declared["pos"]["unit"] == "bohr" and declared["target_spin"]["unit"] == "μB"
    assert manifest.plain()["files"].keys() == set(FILES) - {"manifest.json"}
    assert manifest.split == [2, 2, 2] and manifest.sizes["S"] == 6


def test_writing_and_reading_leave_nothing_beside_a_data_set(content: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / f"beside-{tmp_path.name}-{os.getpid()}.bp"
    store.write(path, content, facts(content))
    store.read(path)
    assert sorted(p.name for p in path.iterdir()) == FILES
    assert list(tmp_path.iterdir()) == [path]
    assert not [p for p in Path("/tmp").iterdir() if path.name in p.name and "profiling" in p.name]


def test_the_hash_names_the_content(content: dict[str, np.ndarray], tmp_path: Path, whole: Path) -> None:
    assert store.write(tmp_path / "other.bp", content, facts(content)).sha256 == store.read_manifest(whole).sha256
    for name in ("target_energy", "pos", "split"):
        changed = {**content, name: content[name].copy()}
        flat = changed[name].reshape(-1)
        flat[1] = np.nextafter(flat[1], 99) if flat.dtype.kind == "f" else flat[0]
        if not np.array_equal(changed[name], content[name]):
            other = store.write(tmp_path / "other.bp", changed, facts(content), force=True)
            assert other.sha256 != store.read_manifest(whole).sha256, name


def spoilt(name: str, **change: object) -> object:
    return pytest.param(name, change, id="-".join([name, *change]))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        spoilt("pos", dtype="float32"),
        spoilt("pos", dtype=">f8"),
        spoilt("atomic_numbers", dtype="int64"),
        spoilt("target_spin", shape=(-1,)),
        spoilt("cell", shape=(-1, 9)),
        spoilt("split", shorter=True),
        spoilt("atom_offsets", shorter=True),
        spoilt("atom_offsets", values=(1, -1)),
        spoilt("geometry_atom_offsets", values=(0, 3)),
        spoilt("neighbour_offsets", values=(1, 10**6)),
        spoilt("neighbours", values=(0, 99)),
        spoilt("neighbours", values=(0, -1)),
        spoilt("sample_geometry", values=(0, 3)),
        spoilt("sample_geometry", values=(0, 2)),
        spoilt("split", values=(0, 3)),
        spoilt("pos", values=((0, 0), np.nan)),
        spoilt("edge_vectors", values=((0, 0), np.inf)),
        spoilt("target_energy", values=((0, 0), np.inf)),
        spoilt("target_energy", missing=True),
    ],
)
def test_invalid_arrays_are_refused_by_name(content, tmp_path: Path, name: str, change: dict) -> None:
    metadata = facts(content)
    array = content.pop(name).copy()
    if "dtype" in change:
        array = array.astype(change["dtype"])
    if "shape" in change:
        array = array.reshape(change["shape"])
    if "shorter" in change:
        array = array[:-1]
    if "values" in change:
        place, value = change["values"]
        array[place] = value
    if "missing" not in change:
        content[name] = array
    with pytest.raises(UserError) as error:
        store.write(tmp_path / "x.bp", content, metadata)
    named_as = {"sample_geometry": "geometry", "geometry_atom_offsets": "", "split": "", "neighbours": "neighbour"}
    assert named_as.get(name, name.removeprefix("target_")) in str(error.value) and "x.bp" in str(error.value)
    assert not list(tmp_path.iterdir())


# Damage


def outcomes(paths: list[Path]) -> list[str]:
    """Return what reading each data set prints, and whether ADIOS2 was imported.

    Another process reads them, because it may crash or hang.
    """
    program = """
import sys
from pathlib import Path
from hydragnn_hpc.dataset import store
from hydragnn_hpc.errors import UserError
for path in sys.argv[1:]:
    try:
        store.read(Path(path))
    except UserError as error:
        print(error)
    else:
        print("opened")
    sys.stdout.flush()
print("adios2" in sys.modules)
"""
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("part", range(3))
def test_any_damage_is_refused_and_adios2_never_sees_it(whole: Path, tmp_path: Path, part: int) -> None:
    rng = random.Random(part)
    descriptions, paths = [], []
    for case in range(20):
        paths.append(Path(shutil.copytree(whole, tmp_path / f"{case}.bp")))
        descriptions.append(damage(paths[-1] / FILES[(case + part) % len(FILES)], rng))
    *answers, adios2_was_imported = outcomes(paths)
    assert len(answers) == len(paths)
    for path, description, answer in zip(paths, descriptions, answers, strict=True):
        assert str(path) in answer and description.split(" of ")[1] in answer, f"{description}: {answer}"
    assert adios2_was_imported == "False"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', "7", "{}", '{"schema": 1}', "[" * 100_000, "\x00" * 50, '{"seal": 1}']
)
def test_an_invalid_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        store.read(copy)


def test_a_manifest_that_is_not_text_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        store.read(copy)


def test_another_format_version_is_reported_as_such(copy: Path) -> None:
    reseal(copy, schema=2)
    with pytest.raises(UserError, match="format version 2, this program reads 1; prepare the data again"):
        store.read(copy)
    (copy / "manifest.json").write_text('{"schema": "theirs"}')
    with pytest.raises(UserError, match="format version 'theirs'"):
        store.read(copy)


def test_a_manifest_that_lists_other_arrays_is_refused(copy: Path, whole: Path) -> None:
    listed = store.read_manifest(whole).plain()["arrays"]
    for name, change, message in (
        ("pos", {"shape": [11, 2]}, "'pos' is float64"),
        ("pos", {"dtype": "float32"}, "'pos' is float64"),
        ("more", {"shape": [1], "dtype": "int8", "unit": ""}, "no array 'more'"),
    ):
        reseal(copy, arrays={**listed, name: {**listed.get(name, {}), **change}})
        with pytest.raises(UserError, match=message):
            store.read(copy)


# Writing


def test_existing_folders_are_kept_unless_forced(copy: Path, content, tmp_path: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="--force"):
        store.write(copy, content, facts(content))
    content["target_energy"] += 1
    with pytest.raises(UserError, match="arrays of 10 sites have offsets of 11"):
        store.write(copy, {**content, "pos": content["pos"][:-1]}, facts(content), force=True)
    assert (copy / "manifest.json").read_bytes() == before
    store.write(copy, content, facts(content), force=True)
    assert np.array_equal(store.read(copy)[1]["target_energy"], content["target_energy"])
    assert list(tmp_path.iterdir()) == [copy]


def test_a_name_that_adios2_cannot_take_is_refused(copy: Path, content, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.bp")
    with pytest.raises(UserError, match="ADIOS2 takes only paths that are UTF-8"):
        store.write(path, content, facts(content))
    copy.rename(path)
    with pytest.raises(UserError, match="ADIOS2 takes only paths that are UTF-8"):
        store.read(path)


def test_a_link_stays_a_link(copy: Path, content, tmp_path: Path) -> None:
    link = tmp_path / "link.bp"
    link.symlink_to(copy)
    content["target_energy"] += 1
    made = store.write(link, content, facts(content), force=True)
    assert link.is_symlink() and store.read_manifest(copy).sha256 == made.sha256
    assert sorted(tmp_path.iterdir()) == [copy, link]


@pytest.mark.parametrize("path", ["file/x.bp", "/proc/x.bp", "x" * 300 + ".bp"])
def test_unwritable_paths_are_refused(content, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot"):
        store.write(tmp_path / path, content, facts(content))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k") as folder:
        yield folder


@pytest.mark.parametrize("free_kib", [0, 8, 16, 24, 28, 32])
def test_a_full_disk_leaves_nothing_behind(disk: Path, content, free_kib: int) -> None:
    """There is no space at all, or space for the arrays but not for the indices, which the space check misses."""
    (disk / "filler").write_bytes(bytes((64 - free_kib) * 1024))
    try:
        store.write(disk / "x.bp", content, facts(content))
    except UserError as error:
        assert str(disk) in str(error)
        assert [p.name for p in disk.iterdir()] == ["filler"]
    else:
        assert free_kib >= 24
        store.read(disk / "x.bp")


def test_a_read_only_disk_is_reported(disk: Path, content) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UserError, match="Read-only"):
        store.write(disk / "x.bp", content, facts(content))


@pytest.mark.parametrize("n", [1, 1_000_000], ids=["less", "more"])  # than a pipe holds
@pytest.mark.parametrize(
    ("ending", "reason"),
    [("echo why >&2; exit 1", "ADIOS2 failed: why"), ("kill -SEGV $$", "ADIOS2 failed: killed by signal 11 .SIGSEGV.")],
)
def test_a_writing_process_that_dies_is_reported_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, ending: str, reason: str
) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\n{ending}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(OSError, match=reason):
        bp5.write(tmp_path / "x", {"a": np.zeros(n)})


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from synthetic import arrays, facts
from hydragnn_hpc.dataset import store
from hydragnn_hpc.errors import UserError
content = arrays(int(sys.argv[3]))
if sys.argv[4] == "hang":
    store.shared._seal = lambda *_: (print("here", flush=True), time.sleep(60))
try:
    store.write(Path(sys.argv[1]), content, facts(content))
except UserError as error:
    print(error)
else:
    print("written")
"""


def writer(path: Path, seed: int, how: str = "finish") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent), str(seed), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_next_writer_removes_what_a_killed_one_left(content, tmp_path: Path) -> None:
    path = tmp_path / "x.bp"
    child = writer(path, 0, "hang")
    assert child.stdout is not None and child.stdout.readline() == "here\n"
    # While the writer is alive, its folder is left alone.
    store.write(path, content, facts(content))
    assert len(list(tmp_path.glob(".tmp-*"))) == 1
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert len(list(tmp_path.glob(".tmp-*"))) == 1
    store.write(path, content, facts(content), force=True)
    assert list(tmp_path.iterdir()) == [path]


def test_exactly_one_of_several_concurrent_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "x.bp"
    children = [writer(path, seed) for seed in (1, 2, 3)]
    outputs = sorted(c.communicate(timeout=60)[0].strip() for c in children)
    assert outputs.count("written") == 1, outputs
    assert all("x.bp" in line for line in outputs if line != "written")
    seeds = [k for k in (1, 2, 3) if np.array_equal(arrays(k)["pos"], store.read(path)[1]["pos"])]
    assert len(seeds) == 1 and list(tmp_path.iterdir()) == [path]


def test_the_manifest_is_read_without_the_arrays(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / "manifest.json", tmp_path)
    assert store.read_manifest(tmp_path) == store.read_manifest(whole)
