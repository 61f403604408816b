"""``predict``: finished ensembles on structures from files give what the members gave on their own test samples."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

MODEL = {"layers": 2, "channels": 8, "graph_head": [8], "node_head": [8]}
TRAINING = {"epochs": 2, "batch_size": 16}
FEPT = {
    "name": "fept",
    "dataset": "fept.bp",
    "inputs": ["species", "composition", {"name": "shells", "number": 3}, "ewald"],
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy", "reference": "linear"},
        "C": {"level": "node", "field": "charge_transfer", "reference": "species"},
        "M": {"level": "node", "field": "magnetic_moment"},
    },
    "variants": ["HCM", "M"],
    "replicas": 2,
    "model": MODEL,
    "training": TRAINING,
}
TERNARY = {
    "name": "ternary",
    "dataset": "ternary.bp",
    "tasks": {"H": {"level": "graph", "field": "mixing_enthalpy"}, "F": {"level": "node", "field": "forces"}},
    "variants": ["HF"],
    "replicas": 1,
    "model": {**MODEL, "convolution": "GIN", "edges": {"number": 6}},
    "training": TRAINING,
}
XYZ = '2\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 pbc="T T T"\nPt 0 0 0\n{} 2 2 2\n'


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "hydragnn_hpc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=200,
    )


def done(folder: Path, *arguments: str) -> str:
    """Run a command that must succeed; returns what it printed."""
    found = command(folder, *arguments)
    assert found.returncode == 0, f"{arguments}\n{found.stdout[-3000:]}\n{found.stderr[-3000:]}"
    return found.stdout


def rows_of(text: str) -> dict[tuple[str, ...], tuple[float, str]]:
    """(mean, std) by variant, task, sample, atom, component."""
    keys = ("variant", "task", "sample", "atom", "component")
    return {tuple(r[k] for k in keys): (float(r["mean"]), r["std"]) for r in csv.DictReader(io.StringIO(text))}


@pytest.fixture(scope="module")
def fept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LSMS text, and a campaign on it that has run: ``raw``, ``out``."""
    folder = tmp_path_factory.mktemp("fept")
    done(folder, "data", "generate", "raw", "--cap", "8")
    done(folder, "data", "prepare", "raw", "fept.bp")
    (folder / "campaign.yaml").write_text(yaml.safe_dump(FEPT))
    done(folder, "run", "campaign.yaml", "out")
    return folder


def expected(out: Path, variant: str, replicas: int) -> dict[tuple[str, ...], list[float]]:
    """What the members of a variant predicted for their test samples: a value a member, by the rows' keys."""
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
    """Hold rows to the mean and spread of what the members said."""
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
def test_periodic_structures_of_several_sizes_and_edge_lengths(tmp_path: Path) -> None:
    done(tmp_path, "data", "generate", "raw.extxyz", "--system", "ternary", "--cap", "6", "--sizes", "1x1x1,2x1x1")
    targets = ["--target", "mixing_enthalpy=mixing:energy:eV", "--target", "forces=node:forces:eV/Ang"]
    done(tmp_path, "data", "prepare", "raw.extxyz", "ternary.bp", *targets)
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(TERNARY))
    done(tmp_path, "run", "campaign.yaml", "out")
    compare(rows_of(done(tmp_path, "predict", "out", "raw.extxyz")), expected(tmp_path / "out", "HF", 1))


@pytest.mark.parametrize(
    ("structures", "options", "message"),
    [
        ("none.xyz", (), "no such file or folder: none.xyz"),
        ("empty.xyz", (), "empty.xyz"),
        ("copper.xyz", (), "holds Cu, which the models were not trained on (they know Fe, Pt)"),
        ("iron.xyz", ("--variant", "HM"), "--variant HM: out has no such variant; did you mean 'HCM'?"),
        ("nowhere.xyz", (), "atom 1 is at [inf, "),
        ("iron.cif", (), "iron.cif: holds no structure that ASE can read as cif"),
        ("iron.xyz", ("--out", "raw"), "--out raw: raw is a folder"),
        ("iron.xyz", ("--out", "no/p.csv"), "--out no/p.csv: no such folder: no"),
        ("iron.xyz", ("--device", "gpu"), "--device gpu; known are: cpu, cuda, xpu, auto"),
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
    found = command(fept, "predict", "out", structures, *options)
    assert found.returncode == 2 and found.stdout == ""
    lines = found.stderr.splitlines()
    assert len(lines) == 1 and message in lines[0], found.stderr


def test_a_boundary_that_the_models_do_not_know_is_reported(fept: Path) -> None:
    (fept / "iron.xyz").write_text(XYZ.format("Fe"))
    found = command(fept, "predict", "out", "iron.xyz", "--variant", "M")
    assert found.returncode == 0 and "1 of 1 structures state another boundary" in found.stderr
    assert "taken as open" in found.stderr


def test_rows_are_in_the_files_order_and_say_which_structure_they_are_of(fept: Path) -> None:
    """Names may be equal, and what cannot be used is skipped and counted."""
    frames = [XYZ.format("Fe"), XYZ.format("Cu"), XYZ.format("Pt"), XYZ.format("Fe").replace("2 2 2", "5 0 0")]
    named = [frame.replace("pbc", "name=same pbc") for frame in frames]
    (fept / "named.xyz").write_text("".join(named + named[:1]))
    options = ("--variant", "M", "--on-error", "skip", "--out", "named.csv")
    found = command(fept, "predict", "out", "named.xyz", *options)
    assert (
        found.returncode == 0
        and "1 structures skipped" in found.stderr
        and "named.xyz, frame 1: holds Cu" in found.stderr
    )
    rows = list(csv.DictReader((fept / "named.csv").open()))
    assert [(r["index"], r["frame"], r["sample"], r["atom"]) for r in rows] == [
        (str(k), f"named.xyz@{k}", "same", str(atom)) for k in (0, 2, 3, 4) for atom in (0, 1)
    ]
    assert [r["mean"] for r in rows[:2]] == [r["mean"] for r in rows[-2:]] != [r["mean"] for r in rows[2:4]]


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_names_that_standard_output_cannot_encode(fept: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of other commands, letters without an accent or a question mark; the file of ``--out`` is UTF-8."""
    (fept / "names").mkdir(exist_ok=True)
    source = min((fept / "raw").iterdir())
    for name in ("Żelazo", "鉄"):
        (fept / "names" / name).write_bytes(source.read_bytes())
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    names = [row["sample"] for row in csv.DictReader(io.StringIO(done(fept, "predict", "out", "names")))]
    assert set(names) == {"Zelazo", "?"}
    done(fept, "predict", "out", "names", "--out", "names.csv")
    with (fept / "names.csv").open(encoding="utf-8") as stream:
        assert {row["sample"] for row in csv.DictReader(stream)} == {"Żelazo", "鉄"}


def test_a_damaged_model_is_named_and_nothing_is_written(fept: Path) -> None:
    (fept / "iron.xyz").write_text(XYZ.format("Fe"))
    path = fept / "out" / "members" / "M" / "01" / "model.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        found = command(fept, "predict", "out", "iron.xyz", "--out", "never.csv")
    finally:
        path.write_bytes(whole)
    assert found.returncode == 2 and "model.pt" in found.stderr and "run the campaign again" in found.stderr
    assert not (fept / "never.csv").exists()


def test_nothing_finished_is_said(tmp_path: Path, fept: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "campaign.yaml").write_text((fept / "out" / "campaign.yaml").read_text())
    (tmp_path / "iron.xyz").write_text(XYZ.format("Fe"))
    found = command(tmp_path, "predict", "out", "iron.xyz")
    assert found.returncode == 2 and "no member has finished" in found.stderr
