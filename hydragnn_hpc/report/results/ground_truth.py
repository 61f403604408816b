"""True values of a campaign's samples: of its test set, or of the whole data set where that still exists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydragnn_hpc.compositions import counts_of, fractions_of
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import BESIDE_TARGETS, RYDBERG_IN_EV, SOURCE_INDEX, sample_names
from hydragnn_hpc.report.results.rows import Snapshot


@dataclass(frozen=True)
class GroundTruth:
    """Structures and their true values.

    Attributes
    ----------
    source : str
        Describes the structures in captions: ``4,208 samples of the test set``.
    names : numpy.ndarray
        ``[S]``, text.
    atomic_numbers : numpy.ndarray
        ``[A]``, int32, of all samples in order.
    atom_offsets : numpy.ndarray
        ``[S+1]``, int64: where each sample's atoms start.
    targets : dict
        Field to float64 array in its unit: ``[A, d]`` of a node target, ``[S, d]`` of a graph target; NaN is missing.
    source_index : numpy.ndarray or None
        ``[S]``, each sample's number in the source of the data set; None where it is not known.
    """

    source: str
    names: np.ndarray
    atomic_numbers: np.ndarray
    atom_offsets: np.ndarray
    targets: dict[str, np.ndarray]
    source_index: np.ndarray | None = None

    @property
    def n_atoms(self) -> np.ndarray:
        """Atoms of every sample, ``[S]``."""
        return np.diff(self.atom_offsets)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over each sample's atoms, ``[S, d]`` from ``[A, d]``; zero where a sample has no atoms."""
        summed = np.concatenate([np.zeros((1, values.shape[1]), values.dtype), np.cumsum(values, axis=0)])
        if np.issubdtype(values.dtype, np.integer):
            return np.asarray(summed[self.atom_offsets[1:]] - summed[self.atom_offsets[:-1]])
        # Differences of one long running sum would lose digits, and a single NaN would spread to all that follow.
        totals = np.zeros((len(self.n_atoms), values.shape[1]))
        filled = self.n_atoms > 0
        if filled.any():
            totals[filled] = np.add.reduceat(values, self.atom_offsets[:-1][filled], axis=0)
        return totals

    def species(self) -> np.ndarray:
        """Return the proton numbers that occur, ascending."""
        return np.unique(self.atomic_numbers)

    def formulas(self) -> np.ndarray:
        """Return every sample's composition, ``Fe12Pt20``, ``[S]``."""
        species = self.species()
        symbols = [symbol(z) for z in species.tolist()]
        counts = counts_of(self.atomic_numbers, self.atom_offsets, species).tolist()
        formulas = ["".join(f"{s}{n}" for s, n in zip(symbols, row, strict=True) if n) for row in counts]
        return np.array(formulas, dtype=str)

    def composition(self) -> tuple[np.ndarray, str] | None:
        """Return the fraction of one species in every sample, ``[S]``, and its symbol; None for a single composition.

        Of two species, it is the lighter one; of more, the one whose fraction varies most.
        """
        species = self.species()
        columns = fractions_of(counts_of(self.atomic_numbers, self.atom_offsets, species)).T
        fractions = dict(zip(species.tolist(), columns, strict=True))
        varying = {z: float(np.ptp(x)) for z, x in fractions.items() if len(x) and np.ptp(x) > 0}
        if not varying:
            return None
        chosen = min(varying) if len(fractions) == 2 else max(varying, key=lambda z: (varying[z], -z))
        return fractions[chosen], symbol(chosen)


def symbol(number: int) -> str:
    """Return the chemical symbol of a proton number; ``Z`` and the number if there is none."""
    from ase.data import chemical_symbols

    return str(chemical_symbols[number]) if 0 < number < len(chemical_symbols) else f"Z{number}"


def ev_per_atom(values: np.ndarray | float, n_atoms: np.ndarray | float) -> np.ndarray:
    """Convert energies in Ry per cell of ``n_atoms`` atoms to eV per atom."""
    return np.asarray(np.asarray(values, float) * RYDBERG_IN_EV / np.asarray(n_atoms, float))


def read_test_set(snapshot: Snapshot) -> GroundTruth | None:
    """Read ``test_set.npz``; None if there is none yet.

    Raises
    ------
    UserError
        If the file is not valid.
    """
    arrays = snapshot.test_set()
    if arrays is None:
        return None
    *expected, _ = BESIDE_TARGETS  # the last, the number in the source, is optional
    expected += [task.field for task in snapshot.campaign.tasks.values()]
    if missing := [name for name in expected if name not in arrays]:
        raise UserError(
            f"cannot read {snapshot.folder.test_set}: it lacks {', '.join(missing)}; remove it, and run again"
        )
    targets = {name: _columns(array) for name, array in arrays.items() if name not in BESIDE_TARGETS}
    source = f"{counted(len(arrays['sample']), 'sample')} of the test set"
    structures = arrays["names"].astype(str), arrays["atomic_numbers"], arrays["atom_offsets"]
    return GroundTruth(source, *structures, targets, arrays.get(SOURCE_INDEX))


def read_data_set(snapshot: Snapshot) -> tuple[GroundTruth | None, str]:
    """Read the data set if it exists and is the one that the members were trained on.

    Returns
    -------
    data : GroundTruth or None
    reason : str
        Why it was not read; empty if it was.
    """
    path = Path(snapshot.campaign.dataset)
    try:
        from hydragnn_hpc.dataset import store

        if not path.exists():
            return None, f"the data set {path} does not exist"
        manifest = store.read_manifest(path)
        if manifest.sha256 != snapshot.frozen.dataset_sha256:
            return None, f"the data set {path} is no longer the one that the members were trained on"
        # Not the edges: they may be larger than memory, and no figure shows them.
        names = {"sample_names", "sample_name_offsets", "atomic_numbers", "atom_offsets"}
        arrays = dict(store.read_each(path, manifest, names | {f"target_{name}" for name in manifest.targets}))
    except UserError as error:
        return None, str(error)
    except (ImportError, OSError) as error:
        return None, f"the data set {path} cannot be read here: {error}"
    samples = np.array(sample_names(arrays))
    targets = {name: arrays[f"target_{name}"] for name in manifest.targets}
    source = f"all {counted(len(samples), 'sample')} of the data set"
    return GroundTruth(source, samples, arrays["atomic_numbers"], arrays["atom_offsets"], targets), ""


def _columns(array: np.ndarray) -> np.ndarray:
    return array[:, None] if array.ndim == 1 else array
