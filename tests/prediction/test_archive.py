"""Archives: everything that reads a campaign's folder reads them and finds the same; nothing damaged is used."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc import Ensemble, UserError, crate
from hydragnn_hpc.report import archive
from hydragnn_hpc.report.archive import write_archive
from tests.campaigns import called, done, without_figures
from tests.prediction.structures import same, some
from tests.report import making


@pytest.fixture(scope="module")
def packed(plain: Path) -> Path:
    """An archive, and a copy of it elsewhere, from which all is read."""
    folder = plain.parent
    done(folder, "archive", "out-plain", "published", "--license", "CC-BY-4.0")
    shutil.copytree(folder / "published", folder / "elsewhere" / "archive")
    return folder / "elsewhere" / "archive"


@pytest.mark.slow
def test_predictions_are_those_of_the_campaign(plain: Path, packed: Path) -> None:
    structures = some(plain.parent)
    for options in ({}, {"select": "validation"}):
        own, other = Ensemble(plain, **options), Ensemble(packed, **options)  # type: ignore[arg-type]
        for task, predicted in own.predict(structures).items():
            found = other.predict(structures)[task]
            assert same(predicted, found) and np.array_equal(predicted.low, found.low)
        assert np.array_equal(own.distances(structures).distance, other.distances(structures).distance)


@pytest.mark.slow
def test_report_and_status_work_on_the_archive_in_place(plain: Path, packed: Path) -> None:
    with without_figures():
        done(plain.parent, "report", "out-plain")
    tables = [f"report/{name}.csv" for name in ("table1", "timing", "members", "calibration")]
    expected = [(plain / t).read_bytes() for t in tables]
    assert [(packed / t).read_bytes() for t in tables] == expected
    with without_figures():
        done(packed.parent, "report", "archive")
    assert [(packed / t).read_bytes() for t in tables] == expected
    assert "3 finished" in done(packed.parent, "status", "archive")
    done(packed.parent, "archive", "archive", "--check")
    refused = called(plain.parent, "run", "plain.yaml", str(packed))
    assert refused.returncode == 2 and "is an archive, so training cannot be continued from it" in refused.stderr


@pytest.mark.slow
def test_the_archive_states_all_that_it_holds_with_checksums(packed: Path) -> None:
    content = json.loads((packed / crate.FILE).read_text())
    entities = {entity["@id"]: entity for entity in content["@graph"]}
    assert entities[crate.FILE]["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.1"
    root = entities[entities[crate.FILE]["about"]["@id"]]
    assert root["license"] == "CC-BY-4.0" and all(root[key] for key in ("name", "description", "datePublished"))
    assert {part["@id"] for part in root["hasPart"]} <= set(entities)
    listed = {name for name, entity in entities.items() if entity["@type"] == "File"}
    found = {str(p.relative_to(packed)) for p in packed.rglob("*") if p.is_file()}
    assert listed == {name for name in found if not name.startswith("report/")} - {crate.FILE}
    assert {Path(name).name for name in listed if name.startswith("members/")} == {
        "result.json", "history.csv", "model.pt", "predictions.npz", "validation.npz", "features.npz", "log.txt",
    }  # fmt: skip
    for name in listed:
        assert entities[name]["sha256"] == hashlib.sha256((packed / name).read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_zip_file_holds_the_same(plain: Path, packed: Path, tmp_path: Path) -> None:
    write_archive(plain, tmp_path / "one.zip")
    assert not (tmp_path / "one").exists()
    result = called(tmp_path, "predict", "one.zip", str(plain.parent / "few.extxyz"))
    assert result.returncode == 2 and "one.zip is a file; unpack it, and give the folder that it holds" in result.stderr
    with zipfile.ZipFile(tmp_path / "one.zip") as file:
        file.extractall(tmp_path)
    assert crate.check_archive(tmp_path / "one", checksums=True)
    model = "members/HCM/01/model.pt"
    assert (tmp_path / "one" / model).read_bytes() == (packed / model).read_bytes()


def cut(root: Path) -> None:
    path = root / "members" / "HCM" / "02" / "model.pt"
    path.write_bytes(path.read_bytes()[:-1])


def without(root: Path) -> None:
    (root / "members" / "HCM" / "01" / "result.json").unlink()


def other_version(root: Path) -> None:
    path = root / crate.FILE
    path.write_text(path.read_text().replace(crate.VERSION, "hydragnn_hpc archive 7"))


def half(root: Path) -> None:
    path = root / crate.FILE
    path.write_text(path.read_text()[:500])


def other_crate(root: Path) -> None:
    (root / crate.FILE).write_text('{"@graph": [{"@id": "./", "@type": "Dataset"}, 7]}')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "members/HCM/02/model.pt has "),
        (without, "members/HCM/01/result.json is missing; copy the archive again"),
        (other_version, "it is 'hydragnn_hpc archive 7', and this program reads 'hydragnn_hpc archive 1'"),
        (half, "cannot read "),
        (other_crate, "is not that of a campaign's archive"),
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(
    packed: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(packed, tmp_path / "archive")
    damage(tmp_path / "archive")
    with pytest.raises(UserError) as caught:
        Ensemble(tmp_path / "archive")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert message in called(tmp_path, "report", "archive").stderr


@pytest.mark.slow
def test_a_changed_bit_is_noticed_by_the_check(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "archive")
    path = tmp_path / "archive" / "test_set.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    result = called(tmp_path, "archive", "archive", "--check")
    assert result.returncode == 2 and "the checksum of test_set.npz is wrong" in result.stderr


def test_models_that_were_not_trained_here_have_no_times(tmp_path: Path) -> None:
    out = making.make(tmp_path / "out", variants=("H",), replicas=2, samples=10, arrays=False)
    for path in out.glob("members/H/*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "sessions": []}))
    write_archive(out, tmp_path / "to")
    (action,) = [e for e in json.loads((tmp_path / "to" / crate.FILE).read_text())["@graph"] if e["@id"] == "#training"]
    assert action["@type"] == "CreateAction" and "startTime" not in action


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(folder: Path, to: Path) -> None:
        raise UserError(f"cannot write {to}")

    out = making.make(tmp_path / "out", variants=("H",), replicas=2, samples=10, arrays=False)
    monkeypatch.setattr(archive, "write_report", lambda *_: None)
    monkeypatch.setattr(archive, "_zip", full_disk)
    with pytest.raises(UserError, match="cannot write"):
        write_archive(out, tmp_path / "to.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_archived_is_reported_in_one_line(tmp_path: Path) -> None:
    making.make(tmp_path / "out", variants=("H",), replicas=2, states={"H": "waiting"}, samples=10)
    making.make(tmp_path / "busy", variants=("H",), replicas=2, states={"H/01": "running"}, samples=10)
    making.make(tmp_path / "damaged", variants=("H",), replicas=2, states={"H/01": "running"}, samples=10)
    (tmp_path / "damaged" / "progress.json").write_text("{")
    (tmp_path / "there").mkdir()
    (tmp_path / "one.zip").write_bytes(b"PK")
    for arguments, message in (
        (("out", "to"), "no member has finished"),
        (("nowhere", "to"), "holds no campaign"),
        (("busy", "to"), "a run is active; make the archive when it has ended"),
        (("damaged", "to"), "whether a run is active is not known; make the archive when this file can be read"),
        (("out", "there"), "there exists; give another name, or remove it"),
        (("one.zip", "--check"), "one.zip is a file; unpack it, and give the folder that it holds"),
        (("out", "--check"), "out is not an archive: it has no ro-crate-metadata.json"),
    ):
        result = called(tmp_path, "archive", *arguments)
        assert result.returncode == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1, (
            result.stderr
        )
    assert not (tmp_path / "to").exists()
    result = called(tmp_path / "out", "archive", ".")
    assert result.returncode == 2 and "no member has finished" in result.stderr and len(result.stderr.splitlines()) == 1
