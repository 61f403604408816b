"""Small campaigns for tests of predictions: FePt with all inputs, FePt with the species alone, and a ternary."""

from __future__ import annotations

from typing import Any

from tests.campaigns import SMALL

TRAINING = {"epochs": 2, "batch_size": 16}
FEPT: dict[str, Any] = {
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
    "model": SMALL["model"],
    "training": TRAINING,
}
PLAIN = {
    **FEPT,
    "name": "plain",
    "inputs": ["species"],
    "tasks": SMALL["tasks"],
    "variants": ["HCM"],
    "replicas": 3,
}
TERNARY = {
    "name": "ternary",
    "dataset": "ternary.bp",
    "tasks": {"H": {"level": "graph", "field": "mixing_enthalpy"}, "F": {"level": "node", "field": "forces"}},
    "variants": ["HF"],
    "replicas": 1,
    "model": {**SMALL["model"], "edges": {"number": 6, "basis": "bessel", "envelope": "polynomial"}},
    "training": TRAINING,
}
