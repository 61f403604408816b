"""ASE's ``energy``, ``magmoms`` and ``charges`` from predicted tasks.

ASE's units are eV, μB and elementary charges. A task is recognised by its level, its unit and its field:

- ``energy``: a graph-level task in a unit of energy whose field is one of `_ENERGIES`; a value per atom (``eV/atom``)
  is multiplied by the number of atoms. A mixing enthalpy or a formation energy is a difference from reference
  energies, which a model does not hold; it is used as the energy only if it is named. That is right at fixed
  composition, where the references cancel.
- ``magmoms``: a node-level task in μB.
- ``charges``: a node-level task in e whose field is one of `_CHARGES`.

Where several tasks could be the same property, it is not available, except an energy that is named.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hydragnn_hpc.dataset.read.units import Unit, parse_unit
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.prediction.ensemble import TaskPrediction
from hydragnn_hpc.records.model import ModelTask

_ENERGIES = ("energy", "total_energy", "free_energy")
# The sign that makes a field a charge: a charge transfer counts the electrons gained.
_CHARGES = {"charge_transfer": -1.0, "charges": 1.0, "charge": 1.0, "initial_charges": 1.0}


class Properties:
    """ASE's properties, computed from the predictions of an ensemble's tasks.

    Parameters
    ----------
    tasks : mapping
        By name.
    energy : str, optional
        The task that is the energy; by default the only one that the rules above recognise.

    Raises
    ------
    UserError
        If ``energy`` names no task, or one that is not the energy of a structure.
    """

    def __init__(self, tasks: Mapping[str, ModelTask], energy: str | None = None) -> None:
        self._tasks = tasks
        if energy is not None and energy not in tasks:
            raise UserError(f"energy='{energy}': the variant has no such task{nearest(energy, tasks)}")
        if energy is not None and not _energy_unit(tasks[energy]):
            task = tasks[energy]
            raise UserError(
                f"energy='{energy}': it is a {task.level}-level task in '{task.unit}', of width {task.width}; an energy"
                " is one number per structure, in a unit of energy"
            )
        energies = [name for name, task in tasks.items() if task.field in _ENERGIES and _energy_unit(task)]
        self.energy_task = energy or (energies[0] if len(energies) == 1 else None)
        self._columns: dict[str, tuple[str, float]] = {}  # by ASE's name: the task, and a factor
        node_tasks = [(name, task) for name, task in tasks.items() if task.level == "node" and task.width == 1]
        moments = [(name, 1.0) for name, task in node_tasks if task.unit == "μB"]
        charges = [
            (name, _CHARGES[task.field]) for name, task in node_tasks if task.unit == "e" and task.field in _CHARGES
        ]
        for key, candidates in (("magmoms", moments), ("charges", charges)):
            if len(candidates) == 1:  # several are ambiguous
                self._columns[key] = candidates[0]

    @property
    def names(self) -> tuple[str, ...]:
        """ASE's names of the available properties."""
        return (*(("energy",) if self.energy_task else ()), *self._columns)

    def of_atoms(self, predictions: Mapping[str, TaskPrediction]) -> dict[str, np.ndarray]:
        """Return ``magmoms`` and ``charges`` of one structure, ``[n_atoms]`` in μB and e, where tasks predict them."""
        return {name: factor * predictions[task].mean[:, 0] for name, (task, factor) in self._columns.items()}

    def energy(self, predictions: Mapping[str, TaskPrediction], n_atoms: int) -> tuple[float, float] | None:
        """Return the energy of one structure and its spread, eV; None where no task is the energy."""
        if self.energy_task is None:
            return None
        unit = _energy_unit(self._tasks[self.energy_task])
        assert unit is not None and unit.in_ev is not None
        factor = unit.in_ev * (n_atoms if unit.per_atom else 1)
        energy = predictions[self.energy_task]
        return float(energy.mean[0, 0]) * factor, float(energy.std[0, 0]) * factor


def _energy_unit(task: ModelTask) -> Unit | None:
    """Return the unit of a task that can be the energy of a structure; None for any other task."""
    if task.level != "graph" or task.width != 1 or not task.unit:
        return None
    unit = parse_unit(task.unit, "the task's unit")
    return None if unit.in_ev is None else unit
