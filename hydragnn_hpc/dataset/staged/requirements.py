"""What a campaign requires beyond the scaled arrays: node inputs by name, references and residuals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.records.dataset import Manifest

READY = "ready.json"
PLAIN = {"inputs": [{"name": "species"}], "tasks": []}
"""What every copy has."""


@dataclass(frozen=True)
class Requirements:
    """What is computed for a campaign when its data set is staged.

    Attributes
    ----------
    inputs : list of dict
        A campaign's ``inputs`` as plain data.
    tasks : list of dict
        ``name, field, level, reference`` of the tasks that have a reference.
    """

    inputs: list[dict[str, Any]]
    tasks: list[dict[str, str]]

    @classmethod
    def of(cls, campaign: Campaign) -> Requirements:
        """Return what a campaign requires."""
        tasks = [
            {"name": name, "field": t.field, "level": t.level, "reference": t.reference}
            for name, t in campaign.tasks.items()
            if t.reference != "none"
        ]
        return cls([entry.model_dump(mode="json") for entry in campaign.inputs], tasks)

    @property
    def more(self) -> bool:
        """Whether it requires anything that not every copy has."""
        return asdict(self) != PLAIN

    @classmethod
    def read(cls, text: str) -> Requirements:
        """Restore it from :meth:`written`."""
        return cls(**json.loads(text))

    def written(self) -> str:
        """Return it as one line of text."""
        return json.dumps(asdict(self))


def write(folder: Path, arrays: Mapping[str, np.ndarray], manifest: Manifest, wanted: Requirements) -> None:
    """Compute what is ``wanted`` into a node-local copy: ``node_inputs``, ``reference_<task>``, ``residual_<task>``.

    ``ready.json`` in the same folder holds ``wanted``, and how it was computed: ``inputs`` and ``references``.

    Parameters
    ----------
    folder : Path
    arrays : mapping
        The copy's arrays.
    manifest : Manifest
    wanted : Requirements

    Raises
    ------
    UserError
        If the data set does not allow something that is wanted.
    OSError
        If the storage is full.
    """
    # Imported here because a supervisor imports this module and has no use for SciPy.
    from hydragnn_hpc.dataset.features import inputs, residual

    about: dict[str, Any] = {"wanted": asdict(wanted), "inputs": None, "references": {}}
    recipe = inputs.plan(arrays, wanted.inputs, manifest.species, manifest.neighbours.cutoff_bohr)
    if recipe.names != ["species"]:
        recipe = inputs.write(arrays, recipe, folder / "node_inputs.npy")
    about["inputs"] = recipe.plain()
    node_inputs = np.load(folder / "node_inputs.npy", mmap_mode="r")
    shrinkage = recipe.shrinkage() if recipe.kept else None
    for task in wanted.tasks:
        name = task["name"]
        paths = (folder / f"reference_{name}.npy", folder / f"residual_{name}.npy")
        values = arrays[f"scaled_{task['field']}"]
        fitted = residual.write(arrays, task, values, node_inputs, paths, shrinkage)
        about["references"][name] = fitted.plain()
    (folder / READY).write_text(json.dumps(about), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the content of a copy's ``ready.json``; empty if nothing was wanted."""
    path = folder / READY
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
