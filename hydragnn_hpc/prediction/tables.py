"""Files of predictions, written batch by batch: csv, or extended XYZ that other programs can start from."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.read.formats.extxyz_writer import format_frame, key_of
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.ase_properties import Properties
from hydragnn_hpc.prediction.ensemble import CALIBRATED, SEPARATE, Ensemble, TaskPrediction
from hydragnn_hpc.prediction.predicted import DISTANCES, Predicted

COLUMNS = ("variant", "task", "unit", "index", "frame", "sample", "atom", "component", "mean", "std", "members")
_ORIGIN = ("index", "frame")
"""The columns of the csv file that lead back to a structure's place in its source."""
_BESIDE_TASKS = (*_ORIGIN, *DISTANCES, "initial_magmoms", "initial_charges")
"""What an extended XYZ file holds beside the tasks."""
_XYZ = (".extxyz", ".xyz")


def writer_for(path: Path | None, ensembles: Sequence[Ensemble], every_member: bool) -> type[CsvWriter | XyzWriter]:
    """Return the class that writes a file, by its suffix; csv for standard output.

    Raises
    ------
    UserError
        If the suffix is not known, or the format cannot hold the predictions.
    """
    suffix = ".csv" if path is None else path.suffix.lower()
    if suffix == ".csv":
        return CsvWriter
    if suffix not in _XYZ:
        raise UserError(f"--out {path}: the suffix must be .csv, .extxyz or .xyz")
    if len(ensembles) > 1:
        names = ", ".join(ensemble.variant for ensemble in ensembles)
        raise UserError(f"--out {path}: extended XYZ holds one variant; give --variant, one of {names}")
    if every_member:
        raise UserError(f"--out {path}: --members is for csv; give a file that ends in .csv")
    return XyzWriter


class CsvWriter:
    """Writes a row per value, ordered by structure, variant and task."""

    def __init__(self, stream: IO[str], ensembles: Sequence[Ensemble], every_member: bool) -> None:
        self._ensembles = ensembles
        self._replicas = sorted({r for e in ensembles for r in e.replicas}) if every_member else []
        self._separate = SEPARATE if any(e.with_noise for e in ensembles) else ()
        self._writer = csv.writer(stream, lineterminator="\n")
        self._begun = False

    def write(self, structures: UnseenStructures, predictions: Sequence[Predicted]) -> None:
        """Append one batch, with an entry of ``predictions`` per ensemble.

        Structures, atoms and components are counted from 0; the atom is empty for a graph-level task, the component for
        a task with only one. ``std_spread`` and ``std_noise`` are columns where a task has noise.
        """
        if not self._begun:  # not earlier, so that an error leaves no output
            each = (f"replica_{replica:02d}" for replica in self._replicas)
            self._writer.writerow((*COLUMNS, *each, *self._separate, *CALIBRATED, *DISTANCES))
            self._begun = True
        for number, frame in enumerate(structures.frames):
            origin = (structures.index[number], frame.origin, frame.name)
            for ensemble, predicted in zip(self._ensembles, predictions, strict=True):
                far = predicted.distance_of(number)
                for prediction in predicted.tasks.values():
                    rows = self._rows(ensemble, prediction.of(number), origin)
                    self._writer.writerows((*row, *far) for row in rows)

    def _rows(
        self, ensemble: Ensemble, prediction: TaskPrediction, origin: tuple[int, str, str]
    ) -> Iterator[tuple[Any, ...]]:
        head = (ensemble.variant, prediction.task, prediction.unit, *origin)
        count, (rows, width) = len(ensemble.replicas), prediction.mean.shape
        place = [ensemble.replicas.index(r) if r in ensemble.replicas else None for r in self._replicas]
        mean, std = prediction.mean.tolist(), prediction.std.tolist()
        each = prediction.members.tolist() if place else []
        is_calibrated = prediction.task in ensemble.calibration.tasks
        ends = [getattr(prediction, name).tolist() for name in CALIBRATED] if is_calibrated else []
        parts = [getattr(prediction, name).tolist() for name in prediction.separate]
        for row in range(rows):
            atom = row if prediction.level == "node" else ""
            for d in range(width):
                deviation = _written(std[row][d])
                more = ("" if k is None else repr(each[k][row][d]) for k in place)
                separate = [_written(values[row][d]) for values in parts] or [""] * len(self._separate)
                known = [repr(values[row][d]) for values in ends] or [""] * len(CALIBRATED)
                component = d if width > 1 else ""
                yield *head, atom, component, repr(mean[row][d]), deviation, count, *more, *separate, *known


class XyzWriter:
    """Writes structures with their predictions; predicted charges and moments become ASE's initial ones.

    Each task's mean has the task's name (`key_of`), its standard deviation that name with ``_std``, and so on
    (``SEPARATE``, ``CALIBRATED``); all are in the task's unit. ``index``, ``frame``, ``distance`` and
    ``distance_quantile`` are those of the structure; a task of such a name is written as ``target_index``. No two
    tasks of a campaign have names that meet here (`hydragnn_hpc.config`).
    """

    def __init__(self, stream: IO[str], ensembles: Sequence[Ensemble], every_member: bool) -> None:
        self._stream, self._ensemble = stream, ensembles[0]
        self._properties = Properties(self._ensemble.facts.tasks)

    def write(self, structures: UnseenStructures, predictions: Sequence[Predicted]) -> None:
        """Append one batch."""
        for number, frame in enumerate(structures.frames):
            geometry = structures.geometries[structures.sample_geometry[number]].geometry
            predicted = {task: prediction.of(number) for task, prediction in predictions[0].tasks.items()}
            values: dict[str, Any] = {"name": frame.name}
            values |= zip(_ORIGIN, (structures.index[number], frame.origin), strict=True)
            if predictions[0].distances is not None:
                values |= zip(DISTANCES, map(float, predictions[0].distance_of(number)), strict=True)
            columns: dict[str, np.ndarray] = {}
            for task, own in predicted.items():
                into = columns if own.level == "node" else values
                names = ["std", *own.separate, *(CALIBRATED if task in self._ensemble.calibration.tasks else ())]
                if len(self._ensemble.replicas) == 1:  # there is no spread
                    names = [name for name in names if name not in ("std", "std_spread")]
                key = key_of(task, _BESIDE_TASKS)
                shown = {key: own.mean, **{f"{key}_{name}": getattr(own, name) for name in names}}
                into.update({name: value if own.level == "node" else value[0] for name, value in shown.items()})
            for name, column in self._properties.of_atoms(predicted).items():
                columns[f"initial_{name}"] = column
            self._stream.write(
                format_frame(frame.atomic_numbers, geometry.pos, geometry.cell, geometry.periodic, values, columns)
            )


def _written(value: float) -> str:
    """Return a number in full; nothing for NaN, such as the spread of one member."""
    return "" if math.isnan(value) else repr(value)
