"""A frame as a sample of LSMS text: energies, charges and moments from its targets or from LSMS text's own keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hydragnn_hpc.dataset.read.formats import lsms
from hydragnn_hpc.dataset.read.frames import Frame, Unreadable
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import RYDBERG_IN_EV
from hydragnn_hpc.records.dataset import EXPORTED_KEY

_SAME_POSITION = 1e-9  # bohr


def sample_of(
    frame: Frame, specs: dict[str, TargetSpec], end_members: dict[int, float], lost: dict[str, None]
) -> lsms.LsmsSample:
    """Return a frame as LSMS text holds it.

    Parameters
    ----------
    frame : Frame
    specs : dict
        The targets that hold LSMS text's quantities, by its names for them; others are looked up under its own keys.
    end_members : dict
        Energy per atom of the pure elements, Ry, by proton number: from these a total energy follows from a mixing
        enthalpy.
    lost : dict
        What the format cannot hold, or holds without the source having it, is added to its keys.

    Raises
    ------
    UserError
        If the total energy, the charges or the magnetic moments are not in the frame, or not in a unit that fits.
    """
    derived = ("charge_transfer", "mixing_enthalpy", "split", EXPORTED_KEY)
    used = {spec.key for spec in specs.values()} | {*lsms.UNITS, lsms.REST, *derived}
    lost.update((f"'{key}'", None) for key in (*frame.values, *frame.columns) if key not in used)
    z = frame.atomic_numbers
    total = _energy(frame, specs, "total_energy")
    if total is None and end_members and "mixing_enthalpy" in frame.values:
        # The end members are summed as in derive.mixing_enthalpy, so that the energy comes back bit for bit.
        reference = sum(int((z == s).sum()) * end_members[s] for s in sorted(end_members))
        total = float(np.ravel(frame.values["mixing_enthalpy"])[0]) + reference
    charge = _column(frame, specs, "charge")
    transfer = _column(frame, specs, "charge_transfer")
    charge = transfer + z if charge is None and transfer is not None else charge
    moment = _column(frame, specs, "magnetic_moment")
    lacking = [
        name
        for name, array in (("total_energy", total), ("charge", charge), ("magnetic_moment", moment))
        if array is None or not np.isfinite(array).all()
    ]
    if lacking or total is None or charge is None or moment is None:
        raise UserError(
            f"{frame.where}: LSMS text needs {' and '.join(lacking)}; name the key that holds it: --target"
            f" {lacking[0]}={'graph:KEY:Ry' if lacking[0] == 'total_energy' else 'node:KEY:' + lsms.UNITS[lacking[0]]}"
        )
    others = [_energy(frame, specs, name) for name in lsms.ENERGY_KEYS[1:]]
    if None in others:
        lost["band and Fermi energies (not in the source: written as 0)"] = None
    energies = np.array([total, *(e or 0.0 for e in others)])
    sample = lsms.new_sample(frame.name, energies, z, frame.pos, (charge, moment))
    rest = frame.columns.get(lsms.REST)
    if rest is not None and rest.shape == (len(z), 15):
        sample.table[:, 1], sample.table[:, 7:] = rest[:, 0], rest[:, 4:]
        if np.abs(rest[:, 1:4] - frame.pos).max() < _SAME_POSITION:  # otherwise the atoms have been moved
            sample.table[:, 2:5] = rest[:, 1:4]
    else:
        lost["spin and field columns (not in the source: spins along z)"] = None
    return sample


def usable(frame: Frame, stated: Mapping[str, Any], key: str) -> Any:
    """Return what a frame states under a key; a :class:`UserError` if that could not be read."""
    value = stated.get(key)
    if isinstance(value, Unreadable):
        raise UserError(f"{frame.where}: '{key}' {value.reason}")
    return value


def _number(frame: Frame, stated: Mapping[str, Any], key: str) -> Any:
    """Return the numbers of a key; None if there are none under it."""
    value = usable(frame, stated, key)
    try:
        is_number = value is None or np.asarray(value).dtype.kind in "biuf"
    except ValueError:  # lists of several lengths
        is_number = False
    if not is_number:
        raise UserError(f"{frame.where}: '{key}' is {str(value)[:40]!r}, not a number; correct it")
    return value


def _energy(frame: Frame, specs: dict[str, TargetSpec], name: str) -> float | None:
    spec = specs.get(name)
    raw = _number(frame, frame.values, spec.key if spec else name)
    if raw is None or np.size(raw) != 1:
        return None
    if spec is not None and spec.unit.in_ev is None:
        raise UserError(f"--target {name}: {spec.unit} is not a unit of energy; give Ry or eV, for example")
    return float(np.ravel(raw)[0]) * (spec.unit.in_ev / RYDBERG_IN_EV if spec and spec.unit.in_ev else 1.0)


def _column(frame: Frame, specs: dict[str, TargetSpec], name: str) -> np.ndarray | None:
    spec = specs.get(name)
    unit = lsms.UNITS.get(name, "e")
    if spec is not None and spec.unit.text != unit:
        raise UserError(f"--target {name}: LSMS text holds it in {unit}, not in {spec.unit}; give a target in {unit}")
    raw = _number(frame, frame.columns, spec.key if spec else name)
    return None if raw is None or np.size(raw) != len(frame.atomic_numbers) else np.ravel(raw).astype(np.float64)
