"""Predictions as files, written batch by batch: csv, or extended XYZ whose columns other programs start from."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.read.formats.extxyz_writer import format_frame
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.ase_properties import Properties
from hydragnn_hpc.prediction.ensemble import Ensemble, TaskPrediction

COLUMNS = ("variant", "task", "unit", "index", "frame", "sample", "atom", "component", "mean", "std", "members")
_XYZ = (".extxyz", ".xyz")


class Writer(Protocol):
    """Writes the predictions of a batch of structures, one list entry an ensemble."""

    def write(self, structures: UnseenStructures, predictions: Sequence[Mapping[str, TaskPrediction]]) -> None:
        """Append one batch."""


def writer_for(path: Path | None, ensembles: Sequence[Ensemble], every_member: bool) -> type[CsvWriter | XyzWriter]:
    """Return what writes a file, by its suffix; csv for standard output.

    Raises
    ------
    UserError
        If the suffix is not known, or the format cannot hold what is asked for.
    """
    suffix = ".csv" if path is None else path.suffix.lower()
    if suffix == ".csv":
        return CsvWriter
    if suffix not in _XYZ:
        raise UserError(f"--out {path}: the suffix says the format: .csv, .extxyz or .xyz")
    if len(ensembles) > 1:
        names = ", ".join(ensemble.variant for ensemble in ensembles)
        raise UserError(f"--out {path}: extended XYZ holds one variant; give --variant, one of {names}")
    if every_member:
        raise UserError(f"--out {path}: --members is for csv; give a file that ends in .csv")
    return XyzWriter


class CsvWriter:
    """A row for each value: structure after structure, in each variant after variant and task after task."""

    def __init__(self, stream: IO[str], ensembles: Sequence[Ensemble], every_member: bool) -> None:
        self._ensembles = ensembles
        self._replicas = sorted({r for e in ensembles for r in e.replicas}) if every_member else []
        self._writer = csv.writer(stream, lineterminator="\n")
        self._begun = False

    def write(self, structures: UnseenStructures, predictions: Sequence[Mapping[str, TaskPrediction]]) -> None:
        """Append one batch.

        Structures, atoms and components are counted from 0; the atom is empty for a graph-level task, the component for
        a task with only one.
        """
        if not self._begun:  # not before: an error leaves nothing behind
            self._writer.writerow((*COLUMNS, *(f"replica_{replica:02d}" for replica in self._replicas)))
            self._begun = True
        for number, frame in enumerate(structures.frames):
            origin = (structures.index[number], frame.origin, frame.name)
            for ensemble, found in zip(self._ensembles, predictions, strict=True):
                for prediction in found.values():
                    self._writer.writerows(self._rows(ensemble, prediction.of(number), origin))

    def _rows(
        self, ensemble: Ensemble, prediction: TaskPrediction, origin: tuple[int, str, str]
    ) -> Iterator[tuple[Any, ...]]:
        head = (ensemble.variant, prediction.task, prediction.unit, *origin)
        count, (rows, width) = len(ensemble.replicas), prediction.mean.shape
        place = [ensemble.replicas.index(r) if r in ensemble.replicas else None for r in self._replicas]
        mean, std = prediction.mean.tolist(), prediction.std.tolist()
        each = prediction.members.tolist() if place else []
        for row in range(rows):
            atom = row if prediction.level == "node" else ""
            for d in range(width):
                spread = "" if count == 1 else repr(std[row][d])
                more = ("" if k is None else repr(each[k][row][d]) for k in place)
                yield *head, atom, d if width > 1 else "", repr(mean[row][d]), spread, count, *more


class XyzWriter:
    """Structures with their predictions; charges and moments as ASE's calculators take them to start from.

    Each task's mean and spread stand under its name and with ``_std``, in the task's unit.
    """

    def __init__(self, stream: IO[str], ensembles: Sequence[Ensemble], every_member: bool) -> None:
        self._stream, self._ensemble = stream, ensembles[0]
        self._properties = Properties(self._ensemble.facts.tasks)

    def write(self, structures: UnseenStructures, predictions: Sequence[Mapping[str, TaskPrediction]]) -> None:
        """Append one batch."""
        for number, frame in enumerate(structures.frames):
            geometry = structures.sites[structures.sample_geometry[number]].geometry
            found = {task: prediction.of(number) for task, prediction in predictions[0].items()}
            values: dict[str, Any] = {"name": frame.name}
            columns: dict[str, np.ndarray] = {}
            for task, one in found.items():
                into = columns if one.level == "node" else values
                into[task] = one.mean if one.level == "node" else one.mean[0]
                if len(self._ensemble.replicas) > 1:
                    into[f"{task}_std"] = one.std if one.level == "node" else one.std[0]
            for name, column in self._properties.of_atoms(found).items():
                columns[f"initial_{name}"] = column
            self._stream.write(
                format_frame(frame.atomic_numbers, geometry.pos, geometry.cell, geometry.periodic, values, columns)
            )
