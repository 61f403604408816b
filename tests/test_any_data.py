"""Any data, from end to end: a ternary of several sizes, periodic, as extended XYZ, to a table of results."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CAMPAIGN = {
    "name": "ternary",
    "dataset": "ternary.bp",
    "tasks": {
        "H": {"level": "graph", "field": "mixing_enthalpy"},
        "F": {"level": "node", "field": "forces"},
        "Q": {"level": "node", "field": "charge"},
    },
    "variants": ["HQ", "F"],
    "replicas": 1,
    "model": {"layers": 2, "channels": 8, "graph_head": [8], "node_head": [8]},
    "training": {"epochs": 2, "batch_size": 16},
}


def program(folder: Path, *arguments: str) -> str:
    """Run a command as a user would; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "hydragnn_hpc", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_a_ternary_from_generate_to_table_1(tmp_path: Path) -> None:
    program(tmp_path, "data", "generate", "raw.extxyz", "--system", "ternary", "--cap", "8", "--sizes", "1x1x1,2x1x1")
    targets = ["mixing_enthalpy=mixing:energy:eV", "forces=node:forces:eV/Ang:force on an atom", "charge=node:charge:e"]
    options = [word for target in targets for word in ("--target", target)]
    program(tmp_path, "data", "prepare", "raw.extxyz", "ternary.bp", *options)
    content = json.loads(program(tmp_path, "data", "info", "ternary.bp", "--json", "--verify"))
    assert content["neighbours"]["boundary"] == "periodic" and content["source"]["species"] == [29, 47, 79]
    assert content["sizes"]["G"] > 100 and 4 * content["sizes"]["S"] < content["sizes"]["A"] < 8 * content["sizes"]["S"]
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN))
    program(tmp_path, "run", "campaign.yaml", "out")
    program(tmp_path, "report", "out")
    with (tmp_path / "out" / "report" / "table1.csv").open(newline="") as stream:
        rows = {(row["variant"], row["task"]): row for row in csv.DictReader(stream)}
    assert rows.keys() == {("HQ", "H"), ("HQ", "Q"), ("F", "F")}
    for key, unit in {("HQ", "H"): "Ry", ("HQ", "Q"): "e", ("F", "F"): "eV/Å"}.items():
        row = rows[key]
        assert row["unit"] == unit and row["n"] == row["n_total"] == "1"
        assert 0 < float(row["rmse_mean"]) < 1 and 0 < float(row["rmse_unit_mean"]) < 20
