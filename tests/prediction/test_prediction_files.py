"""Files of predictions, without a model."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.formats.extxyz_writer import format_frame
from hydragnn_hpc.prediction.ensemble import TaskPrediction
from hydragnn_hpc.prediction.predicted import Predicted
from hydragnn_hpc.prediction.tables import XyzWriter


@pytest.mark.parametrize(
    ("task", "level"),
    [
        ("pos", "node"),
        ("Z", "node"),
        ("species", "node"),
        ("pbc", "graph"),
        ("index", "graph"),
        ("frame", "graph"),
        ("Index", "graph"),
        ("index", "node"),
        ("distance", "graph"),
        ("initial_charges", "node"),
    ],
)
def test_a_task_whose_name_means_something_else_leaves_the_structure_alone(task: str, level: str) -> None:
    geometry = Geometry(np.array([[0.0, 0, 0], [3, 0, 0]]), np.eye(3) * 9, (True, True, True))
    frame: Any = SimpleNamespace(name="a", origin="some/a.xyz@7", atomic_numbers=np.array([26, 78]))
    structures: Any = SimpleNamespace(
        frames=[frame], index=[7], geometries=[SimpleNamespace(geometry=geometry)], sample_geometry=[0]
    )
    rows = 2 if level == "node" else 1
    values = np.full((rows, 1), 0.25)
    prediction = TaskPrediction(task, level, "e", *[values] * 5, values[None], np.array([0, rows]))
    ensemble: Any = SimpleNamespace(
        replicas=(0,), calibration=SimpleNamespace(tasks=()), facts=SimpleNamespace(tasks={})
    )
    stream = io.StringIO()
    XyzWriter(stream, ensemble).write(structures, [Predicted({task: prediction}, None)])
    own = {f"target_{task}": values} if level == "node" else {}
    more = {} if level == "node" else {f"target_{task}": 0.25}
    head = {"name": "a", "index": 7, "frame": "some/a.xyz@7"}
    expected = format_frame(frame.atomic_numbers, geometry.pos, geometry.cell, geometry.periodic, {**head, **more}, own)
    assert stream.getvalue() == expected
