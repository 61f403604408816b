"""A data set of which only the manifest is there: all that ``submit`` reads of one."""

from __future__ import annotations

import json
from pathlib import Path

from hydragnn_hpc.dataset.store.manifest import MANIFEST, seal_of
from hydragnn_hpc.records.dataset import Manifest

TARGETS = {"mixing_enthalpy": "graph", "charge_transfer": "node", "magnetic_moment": "node"}


def manifest(samples: int = 27_910, atoms: int = 32, edges: int = 714, geometries: int = 1) -> Manifest:
    """Return the manifest of a data set like that of the paper, or of other sizes."""
    train = samples * 7 // 10
    validation = (samples - train) // 2
    sites = atoms * geometries
    target = {"unit": "eV", "label": "x", "width": 1, "minimum": [0.0], "maximum": [1.0], "missing": 0}
    source = {
        "path": "raw", "read": samples, "skipped": 0, "skipped_reasons": [], "repeated": 0, "capped": 0,
        "kept": samples, "compositions": 1, "compositions_too_small_to_split": 0, "end_members": {}, "cap": 0,
        "seed": 0, "fractions": [0.7, 0.15, 0.15],
    }  # fmt: skip
    return Manifest.model_validate(
        {
            "schema": 1,
            "sizes": {"S": samples, "A": samples * atoms, "G": geometries, "B": sites, "E": edges * geometries, "N": 0},
            "split": [train, validation, samples - train - validation],
            "arrays": {},
            "files": {},
            "targets": {name: {**target, "level": level} for name, level in TARGETS.items()},
            "species": {"minimum": 26, "maximum": 78},
            "scaled_over": "train",
            "source": source,
            "neighbours": {"cutoff_bohr": 13.2, "boundary": "open"},
            "sha256": "0" * 64,
        }
    )


def write(folder: Path, contents: Manifest | None = None) -> None:
    """Write it into a folder of its own."""
    content = (contents or manifest()).plain()
    folder.mkdir()
    text = json.dumps({**content, "seal": seal_of(content)}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
