"""A finished ensemble as an ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, all_properties

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.ase_properties import Properties
from hydragnn_hpc.prediction.ensemble import CALIBRATED, STD_PARTS, Ensemble


class EnsembleCalculator(Calculator):
    """Predicts all tasks of a variant for the atoms that it is attached to.

    ``results`` holds each task under its name, and the standard deviation, which is not calibrated, under the name with
    ``_std`` (for a task with noise also its parts, ``_std_spread`` and ``_std_noise``): in the task's unit, a number
    (or ``[d]``) at graph level and ``[n]`` (or ``[n, d]``) at node level. Where the ensemble is calibrated,
    ``_std_calibrated``, ``_low`` and ``_high`` are there as well. ASE's ``energy`` (eV; with ``energy_std``),
    ``magmoms`` (μB) and ``charges`` (e) are added where tasks predict them
    (`hydragnn_hpc.prediction.ase_properties`). A task that is named like an ASE property, or ``energy_std``, is not
    there under its own name, which then means ASE's property. Forces and stress are not derived from the model:
    requesting them raises ASE's ``PropertyNotImplementedError``.

    Parameters
    ----------
    out : Ensemble or path
        An ensemble, or the campaign's folder; ``variant``, ``select``, ``device`` and ``level`` are then those of
        :class:`Ensemble`.
    energy : str, optional
        The task that is the energy; by default the only one whose field is ``energy``, ``total_energy`` or
        ``free_energy``. A mixing enthalpy must be named, since it can replace the energy only at fixed composition.

    Raises
    ------
    UserError
        As for :class:`Ensemble`; if ``variant``, ``select``, ``device`` or ``level`` is given together with an
        ensemble; or if ``energy`` is not a task, or not an energy.

    Examples
    --------
    >>> from ase.io import read
    >>> from hydragnn_hpc import EnsembleCalculator
    >>> atoms = read("some.extxyz")
    >>> atoms.calc = EnsembleCalculator("runs/quickstart", variant="HCM", device="cpu", energy="H")
    >>> energy, moments = atoms.get_potential_energy(), atoms.get_magnetic_moments()
    >>> moments.shape, atoms.calc.results["M_std"].shape
    ((32,), (32,))
    """

    nolabel = True

    def __init__(
        self,
        out: Ensemble | str | PathLike[str],
        variant: str | None = None,
        *,
        select: int | str | None = None,
        device: str | None = None,
        energy: str | None = None,
        level: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ignored_changes = {"initial_charges", "initial_magmoms"}  # predictions do not depend on them
        given: dict[str, Any] = {"variant": variant, "select": select, "device": device, "level": level}
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(out, Ensemble) and given:
            raise UserError(f"{', '.join(given)}: an ensemble has its own; give these to Ensemble, or the folder here")
        self.ensemble = out if isinstance(out, Ensemble) else Ensemble(out, **given)
        self._properties = Properties(self.ensemble.facts.tasks, energy)
        self._tasks = [task for task in self.ensemble.tasks if task not in (*all_properties, "energy_std")]
        of_ase = self._properties.names
        self.implemented_properties = [*of_ase, *(("energy_std",) if "energy" in of_ase else ())]
        self.implemented_properties += [name for task in self._tasks for name in self._attributes(task)]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = (),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Predict all tasks, whichever of ``properties`` are asked for.

        Raises
        ------
        UserError
            As :meth:`Ensemble.predict`.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        structure: Any = self.atoms
        predicted = self.ensemble.predict(structure)
        self.results: dict[str, Any] = {}
        for task in self._tasks:
            prediction = predicted[task]
            for name, attribute in self._attributes(task).items():
                self.results[name] = _squeezed(getattr(prediction, attribute), prediction.level)
        if energy := self._properties.energy(predicted, len(structure)):
            self.results["energy"], self.results["energy_std"] = energy
        self.results.update(self._properties.of_atoms(predicted))

    def _attributes(self, task: str) -> dict[str, str]:
        """Return the attributes of a task's prediction that ``results`` holds, by their names there."""
        std_parts = STD_PARTS if task in self.ensemble.with_noise else ()
        calibrated = CALIBRATED if task in self.ensemble.calibration.tasks else ()
        return {task: "mean", **{f"{task}_{name}": name for name in ("std", *std_parts, *calibrated)}}


def _squeezed(values: np.ndarray, level: str) -> Any:
    """Drop the dimension of the structure at graph level, and that of the components of a scalar."""
    rows = values[:, 0] if values.shape[1] == 1 else values
    return rows if level == "node" else rows[0]
