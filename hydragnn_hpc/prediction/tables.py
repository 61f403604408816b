"""Files of predictions, written batch by batch: csv, or extended XYZ that other programs can start from."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.read.formats.extxyz_writer import format_frame, key_of
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.ase_properties import Properties
from hydragnn_hpc.prediction.ensemble import CALIBRATED, STD_PARTS, Ensemble, TaskPrediction
from hydragnn_hpc.prediction.predicted import DISTANCES, Predicted

COLUMNS = ("variant", "task", "unit", "index", "frame", "sample", "atom", "component", "mean", "std", "members")
_ORIGIN = ("index", "frame")
"""The columns of the csv file that lead back to a structure's place in its source."""
_BESIDES_TASKS = (*_ORIGIN, *DISTANCES, "initial_magmoms", "initial_charges")
"""What an extended XYZ file holds besides the tasks."""
_XYZ = (".extxyz", ".xyz")


def writer_for(
    path: Path | None, ensembles: Sequence[Ensemble], every_member: bool
) -> Callable[[IO[str]], CsvWriter | XyzWriter]:
    """Return what makes the writer of an open file, by the file's suffix; csv for standard output.

    Raises
    ------
    UserError
        If the suffix is not known, or the format cannot hold the predictions.
    """
    suffix = ".csv" if path is None else path.suffix.lower()
    if suffix == ".csv":
        return lambda stream: CsvWriter(stream, ensembles, every_member)
    if suffix not in _XYZ:
        raise UserError(f"--out {path}: the suffix must be .csv, .extxyz or .xyz")
    if len(ensembles) > 1:
        names = ", ".join(ensemble.variant for ensemble in ensembles)
        raise UserError(f"--out {path}: extended XYZ holds one variant; give --variant, one of {names}")
    if every_member:
        raise UserError(f"--out {path}: --members is for csv; give a file that ends in .csv")
    return lambda stream: XyzWriter(stream, ensembles[0])


class CsvWriter:
    """Writes a row per value, ordered by structure, variant and task."""

    def __init__(self, stream: IO[str], ensembles: Sequence[Ensemble], every_member: bool) -> None:
        self._ensembles = ensembles
        self._replicas = sorted({r for e in ensembles for r in e.replicas}) if every_member else []
        self._std_parts = STD_PARTS if any(e.with_noise for e in ensembles) else ()
        self._writer = csv.writer(stream, lineterminator="\n")
        self._begun = False

    def write(self, structures: UnseenStructures, predictions: Sequence[Predicted]) -> None:
        """Append one batch, with an entry of ``predictions`` per ensemble.

        Structures, atoms and components are counted from 0; the atom is empty for a graph-level task, the component for
        a task with only one. ``std_spread`` and ``std_noise`` are columns where a task has noise.
        """
        if not self._begun:  # not earlier, so that an error leaves no output
            replicas = (f"replica_{replica:02d}" for replica in self._replicas)
            self._writer.writerow((*COLUMNS, *replicas, *self._std_parts, *CALIBRATED, *DISTANCES))
            self._begun = True
        for number, frame in enumerate(structures.frames):
            origin = (structures.index[number], frame.origin, frame.name)
            for ensemble, predicted in zip(self._ensembles, predictions, strict=True):
                distance = [repr(value) for value in predicted.distance_of(number)] or [""] * len(DISTANCES)
                for prediction in predicted.tasks.values():
                    rows = self._rows(ensemble, prediction.of(number), origin)
                    self._writer.writerows((*row, *distance) for row in rows)

    def _rows(
        self, ensemble: Ensemble, prediction: TaskPrediction, origin: tuple[int, str, str]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of one structure: :data:`COLUMNS` and what follows them, but for the distances."""
        head = (ensemble.variant, prediction.task, prediction.unit, *origin)
        n_members, (rows, width) = len(ensemble.replicas), prediction.mean.shape
        place = [ensemble.replicas.index(r) if r in ensemble.replicas else None for r in self._replicas]
        mean, std = prediction.mean.tolist(), prediction.std.tolist()
        of_members = prediction.members.tolist() if place else []
        parts = [getattr(prediction, name).tolist() for name in prediction.std_parts]
        is_calibrated = prediction.task in ensemble.calibration.tasks
        intervals = [getattr(prediction, name).tolist() for name in CALIBRATED] if is_calibrated else []
        for row in range(rows):
            atom = row if prediction.level == "node" else ""
            for d in range(width):
                yield (
                    *head, atom, d if width > 1 else "", repr(mean[row][d]), csv_number(std[row][d]), n_members,
                    *("" if k is None else repr(of_members[k][row][d]) for k in place),
                    *([csv_number(values[row][d]) for values in parts] or [""] * len(self._std_parts)),
                    *([repr(values[row][d]) for values in intervals] or [""] * len(CALIBRATED)),
                )  # fmt: skip


class XyzWriter:
    """Writes structures with their predictions; predicted charges and moments become ASE's initial ones.

    Each task's mean has the task's name (`key_of`), its standard deviation that name with ``_std``, and so on
    (``STD_PARTS``, ``CALIBRATED``); all are in the task's unit. ``index``, ``frame``, ``distance`` and
    ``distance_quantile`` are those of the structure; a task of such a name is written as ``target_index``. The keys of
    two tasks of a campaign are never the same (`hydragnn_hpc.config` sees to it).
    """

    def __init__(self, stream: IO[str], ensemble: Ensemble) -> None:
        self._stream, self._ensemble = stream, ensemble
        self._properties = Properties(self._ensemble.facts.tasks)

    def write(self, structures: UnseenStructures, predictions: Sequence[Predicted]) -> None:
        """Append one batch, with one entry of ``predictions``."""
        (of_batch,) = predictions
        for number, frame in enumerate(structures.frames):
            geometry = structures.geometries[structures.sample_geometry[number]].geometry
            predicted = {task: prediction.of(number) for task, prediction in of_batch.tasks.items()}
            values: dict[str, Any] = {"name": frame.name}
            values |= zip(_ORIGIN, (structures.index[number], frame.origin), strict=True)
            values |= zip(DISTANCES, of_batch.distance_of(number), strict=False)  # none where they are not known
            columns: dict[str, np.ndarray] = {}
            for task, prediction in predicted.items():
                names = ["std", *prediction.std_parts]
                names += CALIBRATED if task in self._ensemble.calibration.tasks else ()
                if len(self._ensemble.replicas) == 1:  # there is no spread
                    names = [name for name in names if name not in ("std", "std_spread")]
                key = key_of(task, _BESIDES_TASKS)
                arrays = {key: prediction.mean, **{f"{key}_{name}": getattr(prediction, name) for name in names}}
                if prediction.level == "node":
                    columns.update(arrays)
                else:
                    values.update({name: array[0] for name, array in arrays.items()})
            for name, column in self._properties.of_atoms(predicted).items():
                columns[f"initial_{name}"] = column
            self._stream.write(
                format_frame(frame.atomic_numbers, geometry.pos, geometry.cell, geometry.periodic, values, columns)
            )


def csv_number(value: float) -> str:
    """Return a number with all its digits; empty for NaN, such as the spread of one member."""
    return "" if math.isnan(value) else repr(float(value))
