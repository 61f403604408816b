"""The split that a source states is kept: by a key of each structure, or by the names of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.convert import convert
from hydragnn_hpc.dataset.build.prepare import prepare
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.errors import UserError

pytestmark = pytest.mark.usefixtures("written_here")

OPTIONS = Options(targets=parse_targets(["e=graph:energy:eV"]), split_by="source")


def write(path: Path, numbers: range, key: str = "") -> None:
    """Write a pair of atoms for each number, with that energy and a distance that depends on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "Properties=species:S:1:pos:R:3"
    path.write_text(
        "".join(f"2\n{header} energy={k}{key}\nCu 0 0 0\nAu 0 0 {1 + k / 50}\n" for k in numbers), encoding="utf-8"
    )


def parts(bp: Path) -> dict[int, int]:
    """The part of each sample, by its energy."""
    _, arrays = store.read(bp)
    return dict(zip(arrays["target_e"][:, 0].astype(int).tolist(), arrays["split"].tolist(), strict=True))


def test_the_split_is_stated_by_names_of_files_or_by_key(tmp_path: Path) -> None:
    write(tmp_path / "raw/train.xyz", range(8))
    write(tmp_path / "raw/sub/My-Valid_2.xyz", range(8, 11))
    write(tmp_path / "raw/test/all.xyz", range(11, 15))
    write(tmp_path / "raw/more.xyz", range(15, 17), " split=Test")
    write(tmp_path / "raw/train-also.xyz", range(17, 19), " split=1")
    manifest = prepare(tmp_path / "raw", tmp_path / "x.bp", OPTIONS)
    expected = {k: 0 if k < 8 else 1 if k < 11 or k > 16 else 2 for k in range(19)}
    assert parts(tmp_path / "x.bp") == expected and manifest.source.split_by == "source"
    convert(tmp_path / "x.bp", tmp_path / "x.xyz", Options())
    written = parse_targets(["e=graph:e:eV"])
    prepare(tmp_path / "x.xyz", tmp_path / "again.bp", Options(targets=written, split_by="source"))
    assert parts(tmp_path / "again.bp") == expected
    prepare(tmp_path / "x.xyz", tmp_path / "other.bp", Options(targets=written, split_by="random"))
    assert parts(tmp_path / "other.bp") != expected


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("more.xyz", "", r"more\.xyz, frame 0: belongs to no set of the split; write split=train, validation or test"),
        ("more.xyz", " split=holdout", r"split=holdout; write train, validation or test"),
        ("more.xyz", " split=3", r"split=3; write train, validation or test"),
        ("more.xyz", " split=T", r"split=True; write train, validation or test"),
        ("more.xyz", " split=train split=test", r"frame 0: 'split' appears twice in the header"),
        ("train/test.xyz", "", r"belongs to several sets of the split: train/test\.xyz"),
        ("test.xyz", "", r"--split-by source: the validation set is empty; move structures to it"),
    ],
)
def test_a_source_that_states_no_whole_split_is_refused(tmp_path: Path, name: str, key: str, message: str) -> None:
    write(tmp_path / "raw/train.xyz", range(8))
    write(tmp_path / "raw" / name, range(8, 12), key)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "raw", tmp_path / "x.bp", OPTIONS)


def test_structures_without_a_set_can_be_skipped(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "val", "test", "other")):
        write(tmp_path / f"raw/{name}.xyz", range(4 * number, 4 * number + 4))
    options = Options(targets=OPTIONS.targets, split_by="source", on_error="skip")
    manifest = prepare(tmp_path / "raw", tmp_path / "x.bp", options)
    assert manifest.source.skipped == 4 and np.bincount(list(parts(tmp_path / "x.bp").values())).tolist() == [4, 4, 4]
