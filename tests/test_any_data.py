"""Any data and any convolution, from end to end: a periodic ternary of several sizes, from extended XYZ to a table."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT

from hydragnn_hpc import Ensemble
from hydragnn_hpc.convolutions import CONVOLUTIONS
from tests import campaigns
from tests.campaigns import done
from tests.outcomes import of_networks, table1

CAMPAIGN = {
    "name": "ternary",
    "dataset": "ternary.bp",
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy"},
        "F": {"level": "node", "field": "forces"},
        "Q": {"level": "node", "field": "charge"},
    },
    "variants": ["HQ", "F"],
    "model": campaigns.SMALL["model"],
    "training": {"epochs": 2, "batch_size": 16},
}


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a campaign on it."""
    folder = tmp_path_factory.mktemp("ternary")
    done(folder, "data", "generate", "raw.extxyz", "--system", "ternary", "--cap", "8", "--sizes", "1x1x1,2x1x1")
    targets = ["mixing_enthalpy=mixing:energy:eV", "forces=node:forces:eV/Ang:force on an atom", "charge=node:charge:e"]
    options = [word for target in targets for word in ("--target", target)]
    done(folder, "data", "prepare", "raw.extxyz", "ternary.bp", *options)
    (folder / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN))
    return folder


@pytest.mark.slow
def test_a_ternary_from_generate_to_table_1(ternary: Path) -> None:
    content = json.loads(done(ternary, "data", "info", "ternary.bp", "--json", "--verify"))
    assert content["neighbours"]["boundary"] == "periodic" and content["source"]["species"] == [29, 47, 79]
    assert content["sizes"]["G"] > 100 and 4 * content["sizes"]["S"] < content["sizes"]["A"] < 8 * content["sizes"]["S"]
    done(ternary, "run", "campaign.yaml", "out")
    done(ternary, "report", "out")
    kept = json.loads((ternary / "out" / "remarks.json").read_text())["remarks"]
    assert {r["name"] for r in kept} >= {"distances", "rotating-target", "species-as-number", "mean-pooling"}
    shown = json.loads((ternary / "out" / "report" / "summary.json").read_text())["remarks"]
    assert [f"{r['name']}: {r['text']}" for r in kept] == shown[: len(kept)]
    rows = of_networks(table1(ternary / "out"))
    assert rows.keys() == {("HQ", "H"), ("HQ", "Q"), ("F", "F")}
    for key, unit in {("HQ", "H"): "Ry", ("HQ", "Q"): "e", ("F", "F"): "eV/Å"}.items():
        row = rows[key]
        assert row["unit"] == unit and row["n"] == row["n_total"] == "1"
        assert 0 < float(row["rmse_mean"]) < 1 and 0 < float(row["rmse_unit_mean"]) < 20


@pytest.mark.parametrize(("pooling", "remarks"), [("mean", 1), ("max", 1), ("sum", 0)])
def test_energies_of_structures_of_several_sizes_are_remarked_upon(ternary: Path, pooling: str, remarks: int) -> None:
    shown = done(ternary, "run", "campaign.yaml", "never", "--dry-run", "--set", f"model.pooling={pooling}")
    assert shown.count("mean-pooling: ") == shown.count("'mixing_enthalpy' is in Ry per structure") == remarks, shown


@pytest.mark.slow
def test_forces_are_learned_and_rotate_with_the_structure(tmp_path: Path) -> None:
    """Forces of rattled crystals from ASE's EMT: a model with the settings that the remark proposes learns them."""
    made = []
    for k in range(240):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols = np.random.default_rng(k).choice(["Cu", "Au"], 4)
        atoms.rattle(0.2, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
        made.append(atoms)
    ase.io.write(tmp_path / "raw.extxyz", made)
    shown = done(
        tmp_path, "data", "prepare", "raw.extxyz", "x.bp", "--target", "f=node:forces:eV/Ang", "--cutoff", "8bohr"
    )
    assert "vector=true for its task, model.convolution=PaiNN, model.edges={number: 20}" in shown, shown
    campaign = {
        "name": "forces", "dataset": "x.bp", "variants": ["F"], "inputs": ["one_hot"],
        "tasks": {"F": {"level": "node", "field": "f", "vector": True}},
        "model": {"convolution": "PaiNN", "edges": {"number": 20}, "channels": 16, "layers": 2, "node_head": [16]},
        "training": {"epochs": 25, "batch_size": 8, "optimizer": {"name": "Adam", "learning_rate": 5.0e-3}},
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(campaign))
    done(tmp_path, "run", "c.yaml", "out")
    remarks = json.loads((tmp_path / "out" / "remarks.json").read_text())["remarks"]
    assert "rotating-target" not in {r["name"] for r in remarks}
    assert float(table1(tmp_path / "out")["F", "F"]["r2"]) > 0.8
    rotated = made[0].copy()
    rotated.rotate(40, (1, 2, 3), rotate_cell=True)
    before, after = Ensemble(tmp_path / "out").predict([made[0], rotated])["F"].mean.reshape(2, 4, 3)
    rotation = np.linalg.lstsq(made[0].cell, rotated.cell, rcond=None)[0]
    np.testing.assert_allclose(after, before @ rotation, atol=1e-4)
    assert np.abs(after - before).max() > 0.1


@pytest.mark.slow
def test_a_campaign_of_every_convolution(ternary: Path) -> None:
    variants = []
    for name, convolution in CONVOLUTIONS.items():
        edges = {} if convolution.edges == "none" else {"edges": {"number": 8}}
        variants.append({"name": name, "tasks": ["H", "Q"], "model": {"convolution": name, **edges}})
    options = [f"variants={json.dumps(variants)}", "replicas=2", "launch.stack=2"]
    done(ternary, "run", "campaign.yaml", "every", *(word for option in options for word in ("--set", option)))
    rows = of_networks(table1(ternary / "every"))
    assert {key: row["n"] for key, row in rows.items()} == {(name, t): "2" for name in CONVOLUTIONS for t in "HQ"}
    assert all(0 < float(row["rmse_mean"]) < 1 for row in rows.values())
    for name in CONVOLUTIONS:
        results = [json.loads(p.read_text()) for p in (ternary / "every/members" / name).rglob("result.json")]
        engine = "fused" if name == "PNA" else "library"
        assert {r["engine"] for r in results} == {engine} and len({r["weights_sha256"] for r in results}) == 2
