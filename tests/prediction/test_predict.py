"""``predict``: finished ensembles on structures from files give what the members gave on their own test samples."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml

from tests.campaigns import called, done
from tests.prediction.campaigns import FEPT, TRAINING

XYZ = '2\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 pbc="T T T"\nPt 0 0 0\n{} 2 2 2\n'


def rows_of(text: str) -> dict[tuple[str, ...], tuple[float, str]]:
    """(mean, std) by variant, task, sample, atom, component."""
    keys = ("variant", "task", "sample", "atom", "component")
    return {tuple(r[k] for k in keys): (float(r["mean"]), r["std"]) for r in csv.DictReader(io.StringIO(text))}


def expected(out: Path, variant: str, replicas: int) -> dict[tuple[str, ...], list[float]]:
    """What the members of a variant predicted for their test samples: a value for each member, by the rows' keys."""
    truth = np.load(out / "test_set.npz")
    found: dict[tuple[str, ...], list[float]] = {}
    for replica in range(replicas):
        predictions = np.load(out / "members" / variant / f"{replica:02d}" / "predictions.npz")
        for task in set(predictions.files) - {"sample"}:
            values = predictions[task]
            node = len(values) != len(truth["names"])
            for number, name in enumerate(truth["names"].tolist()):
                first, last = truth["atom_offsets"][number : number + 2] if node else (number, number + 1)
                for row in range(first, last):
                    for d in range(values.shape[1]):
                        component = str(d) if values.shape[1] > 1 else ""
                        key = (variant, task, name, str(row - first) if node else "", component)
                        found.setdefault(key, []).append(float(values[row, d]))
    return found


def compare(rows: dict[tuple[str, ...], tuple[float, str]], wanted: dict[tuple[str, ...], list[float]]) -> None:
    """Compare rows with the mean and spread of what the members predicted."""
    assert len(wanted) > 50
    for key, values in wanted.items():
        mean, std = rows[key]
        assert mean == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5), key
        assert (std == "") == (len(values) == 1)
        if len(values) > 1:
            assert float(std) == pytest.approx(np.std(values, ddof=1), rel=1e-2, abs=1e-5), key


@pytest.mark.slow
def test_a_campaigns_own_test_samples_come_out_as_they_did(fept: Path) -> None:
    rows = rows_of(done(fept, "predict", "out", "raw"))
    for variant in ("HCM", "M"):
        compare(rows, expected(fept / "out", variant, 2))
    done(fept, "predict", "out", "raw", "--variant", "M", "--out", "m.csv")
    assert rows_of((fept / "m.csv").read_text()) == {k: v for k, v in rows.items() if k[0] == "M"}


@pytest.mark.slow
def test_what_was_fitted_to_fewer_samples_goes_with_the_models(fept: Path) -> None:
    training = {**TRAINING, "samples": 80, "fitted_to": "samples"}
    content = {**FEPT, "variants": ["HM"], "replicas": 1, "training": training}
    (fept / "few.yaml").write_text(yaml.safe_dump(content))
    done(fept, "run", "few.yaml", "few")
    compare(rows_of(done(fept, "predict", "few", "raw")), expected(fept / "few", "HM", 1))


@pytest.mark.slow
def test_periodic_structures_of_several_sizes_and_edge_lengths(ternary: Path) -> None:
    compare(rows_of(done(ternary, "predict", "out", "raw.extxyz")), expected(ternary / "out", "HF", 1))


@pytest.mark.parametrize(
    ("structures", "options", "message"),
    [
        ("none.xyz", (), "no such file or folder: none.xyz"),
        ("empty.xyz", (), "empty.xyz: holds no structure as extxyz"),
        ("copper.xyz", (), "holds Cu, which the models were not trained on (they know Fe, Pt)"),
        ("iron.xyz", ("--variant", "HM"), "out has no variant 'HM'; did you mean 'HCM'?"),
        ("nowhere.xyz", (), "atom 1 is at [inf, "),
        ("iron.cif", (), "iron.cif: holds no structure that ASE can read as cif"),
        ("iron.xyz", ("--out", "raw"), "--out raw: raw is a folder"),
        ("iron.xyz", ("--out", "no/p.csv"), "--out no/p.csv: no such folder: no"),
        ("iron.xyz", ("--out", "iron.xyz"), "--out iron.xyz: would replace a file of iron.xyz, which is read"),
        (".", ("--out", "iron.xyz"), "--out iron.xyz: would replace a file of ., which is read"),
        ("iron.xyz", ("--device", "gpu"), "--device gpu; known: cpu, cuda, xpu, auto"),
    ],
)
def test_what_cannot_be_predicted_is_reported_in_one_line(
    fept: Path, structures: str, options: tuple[str, ...], message: str
) -> None:
    (fept / "empty.xyz").write_text("")
    (fept / "copper.xyz").write_text(XYZ.format("Cu"))
    (fept / "iron.xyz").write_text(XYZ.format("Fe"))
    (fept / "nowhere.xyz").write_text(XYZ.format("Fe").replace("2 2 2", "inf 2 2"))
    (fept / "iron.cif").write_text("data_iron\n_cell_length_a 5\n")
    found = called(fept, "predict", "out", structures, *options)
    assert found.returncode == 2 and found.stdout == ""
    lines = found.stderr.splitlines()
    assert len(lines) == 1 and message in lines[0], found.stderr


def test_arguments_in_the_wrong_order_are_recognised(fept: Path) -> None:
    found = called(fept, "predict", "raw", "out")
    assert (
        found.returncode == 2 and "out is a campaign's folder, but raw is not: give the campaign first" in found.stderr
    )


def test_a_boundary_that_the_models_do_not_know_is_reported(fept: Path) -> None:
    (fept / "iron.xyz").write_text(XYZ.format("Fe"))
    found = called(fept, "predict", "out", "iron.xyz", "--variant", "M")
    assert found.returncode == 0 and "1 of 1 structures state a boundary other than" in found.stderr
    assert "taken as open" in found.stderr


def test_rows_are_in_the_files_order_and_say_which_structure_they_are_of(fept: Path) -> None:
    """Names may be equal, and what cannot be used is skipped and counted."""
    frames = [XYZ.format("Fe"), XYZ.format("Cu"), XYZ.format("Pt"), XYZ.format("Fe").replace("2 2 2", "5 0 0")]
    named = [frame.replace("pbc", "name=same pbc") for frame in frames]
    (fept / "named.xyz").write_text("".join(named + named[:1]))
    options = ("--variant", "M", "--on-error", "skip", "--out", "named.csv")
    found = called(fept, "predict", "out", "named.xyz", *options)
    assert (
        found.returncode == 0
        and "1 structure skipped" in found.stderr
        and "named.xyz, frame 1: holds Cu" in found.stderr
    )
    rows = list(csv.DictReader((fept / "named.csv").open()))
    assert [(r["index"], r["frame"], r["sample"], r["atom"]) for r in rows] == [
        (str(k), f"named.xyz@{k}", "same", str(atom)) for k in (0, 2, 3, 4) for atom in (0, 1)
    ]
    assert [r["mean"] for r in rows[:2]] == [r["mean"] for r in rows[-2:]] != [r["mean"] for r in rows[2:4]]
    for name in ("guess.extxyz", "guess.xyz"):  # and the frames of extended XYZ say so too
        found = called(fept, "predict", "out", "named.xyz", *options[:-1], name)
        assert found.returncode == 0, found.stderr
        frames = ase.io.read(fept / name, ":", format="extxyz")
        assert [(a.info["index"], a.info["frame"], a.info["name"]) for a in frames] == [
            (k, f"named.xyz@{k}", "same") for k in (0, 2, 3, 4)
        ]
        assert [repr(float(m)) for a in frames for m in a.arrays["M"]] == [r["mean"] for r in rows]


def test_a_damaged_model_is_named_and_nothing_is_written(fept: Path) -> None:
    (fept / "iron.xyz").write_text(XYZ.format("Fe"))
    path = fept / "out" / "members" / "M" / "01" / "model.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        found = called(fept, "predict", "out", "iron.xyz", "--out", "never.csv")
    finally:
        path.write_bytes(whole)
    assert found.returncode == 2 and "model.pt" in found.stderr and "run the campaign again" in found.stderr
    assert not (fept / "never.csv").exists()


def test_a_campaign_without_finished_members_is_reported(tmp_path: Path, fept: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "campaign.yaml").write_text((fept / "out" / "campaign.yaml").read_text())
    (tmp_path / "iron.xyz").write_text(XYZ.format("Fe"))
    found = called(tmp_path, "predict", "out", "iron.xyz")
    assert found.returncode == 2 and "no member has finished" in found.stderr
