"""Node-local copies: the data set as plain memory-mapped arrays, one copy per node, shared by all its workers.

``python -m hydragnn_hpc.dataset.staged.copies BP FOLDER [PARENT [WANTED...]]`` makes one, run by `staged.staging`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.staged import requirements
from hydragnn_hpc.dataset.store import spool
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import SOURCE_INDEX, sample_names
from hydragnn_hpc.logs import print_line
from hydragnn_hpc.paths import read_record, write_arrays, write_record
from hydragnn_hpc.records.recipe import Requirements, StagedRecipe

_OTHER = "other-"  # prefix of folders with other inputs and references
SUMMARY = "dataset.json"
CLASSES = "symmetry_classes"
"""The array of `symmetry.classes_of`, where a campaign resamples."""
ERROR = "error: "
"""Prefix of the line of output that holds an error for the user."""
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_OVERHEAD = 1_000_000  # bytes, for headers and the manifest


@dataclass(frozen=True)
class StagedData:
    """A node-local copy.

    Attributes
    ----------
    manifest : Manifest
    arrays : dict
        Memory-mapped, read-only: the store's arrays under their names, and float32 ``node_inputs`` ``[A, F0]`` (the
        scaled proton number, or the inputs required) and ``scaled_<target>`` (``[A, d]`` or ``[S, d]``, NaN where
        missing), in [0, 1] over the samples that the scaling was fitted to; ``reference_<task>`` and
        ``residual_<task>`` for tasks with a reference; :data:`CLASSES` where they were required.
    ready : StagedRecipe or None
        What was required and how it was computed; None if nothing was required.
    others : tuple of StagedData
        The same with other inputs or references, which some variants require.
    """

    manifest: store.Manifest
    arrays: dict[str, np.ndarray]
    ready: StagedRecipe | None = None
    others: tuple[StagedData, ...] = ()

    def meeting(self, required: Requirements) -> StagedData | None:
        """Return the data that meet what is ``required``, these or one of the others; None if none do."""
        made = self.ready.wanted if self.ready else requirements.PLAIN
        if requirements.meet(made, required):
            return self
        return next((data for other in self.others if (data := other.meeting(required))), None)


def scaled(values: np.ndarray, minimum: list[float] | float, maximum: list[float] | float) -> np.ndarray:
    """Min-max scale ``[..., d]`` to float32; a constant component becomes 0."""
    span = np.asarray(maximum) - np.asarray(minimum)
    result: np.ndarray = ((values - np.asarray(minimum)) / np.where(span == 0, 1.0, span)).astype(np.float32)
    return result


def copy(bp: Path, folder: Path, required: Sequence[Requirements] = ()) -> None:
    """Read and verify the data set ``bp``, and write it as ``.npy`` files into the existing ``folder``.

    Only one chunk of an array is in memory at a time. Finally, the ``required`` arrays are computed
    (`staged.requirements`): the first into ``folder``, others into folders of their own in it. ``dataset.json``
    summarises the data (`features.baselines`).
    """
    manifest = store.read_manifest(bp)
    limits: tuple[float, float] | tuple[list[float], list[float]]
    z_limits = (float(manifest.species.minimum), float(manifest.species.maximum))
    for name, content in store.read_chunks(bp, manifest):
        declared = manifest.arrays[name]
        shape = tuple(declared.shape)
        spool.save(folder / f"{name}.npy", shape, declared.dtype, content)
        target = manifest.targets.get(name.removeprefix("target_"))
        array = _map(folder / f"{name}.npy")
        if name == "atomic_numbers":
            array, scaled_name, shape, limits = array[:, None], "node_inputs", (*shape, 1), z_limits
        elif name.startswith("target_") and target:
            scaled_name, limits = f"scaled_{name.removeprefix('target_')}", (target.minimum, target.maximum)
        else:
            continue
        scaled_chunks = (scaled(chunk.astype(np.float64), *limits) for chunk in spool.chunks(array))
        spool.save(folder / f"{scaled_name}.npy", shape, np.float32, scaled_chunks)
    arrays = _arrays(folder)
    store.check_arrays(arrays, manifest.targets, str(bp))
    if least := max((each.classes for each in required), default=0):
        np.save(folder / f"{CLASSES}.npy", _classes(arrays, manifest, least))
    for number, each in enumerate(required):
        own = folder / f"{_OTHER}{number}" if number else folder
        own.mkdir(exist_ok=True)
        if each != requirements.PLAIN or number:
            requirements.write(own, arrays, manifest, each)
    # Imported here because a supervisor imports this module, and the child alone needs it.
    from hydragnn_hpc.dataset.features.baselines import summarise

    write_record(folder / SUMMARY, summarise(arrays, manifest))
    # Written last: its presence means that the copy is complete.
    (folder / store.MANIFEST).write_text(json.dumps(manifest.plain()), encoding="utf-8")


def _classes(arrays: dict[str, np.ndarray], manifest: store.Manifest, least: int) -> np.ndarray:
    # Imported here because a supervisor imports this module, and the child alone needs it.
    from hydragnn_hpc.dataset import symmetry

    classes = symmetry.classes_of(arrays, manifest.source.cell)
    number = len(np.unique(classes[np.asarray(arrays["split"]) < 2]))
    if number < least:
        raise UserError(
            f"training.resample.folds={least}: the training and validation sets have {counted(number, 'sample')} not"
            f" equivalent by symmetry; set it to {number} or less"
        )
    return classes


def space_needed(manifest: store.Manifest) -> int:
    """Return the size of a node-local copy in bytes."""
    needed = _OVERHEAD + 4 * manifest.sizes["A"]
    for name, declared in manifest.arrays.items():
        values = math.prod(declared.shape)
        needed += values * np.dtype(declared.dtype).itemsize
        if name.startswith("target_"):
            needed += 4 * values
    return needed


def open_staged(folder: Path) -> StagedData:
    """Map a node-local copy, read-only.

    Raises
    ------
    UserError
        If the copy is gone or incomplete, or another user may have made or changed it.
    """
    _refuse_of_others(folder)
    try:
        manifest = read_record(folder / store.MANIFEST, store.Manifest)
        arrays = _arrays(folder)
        ready = requirements.read(folder)
        others = tuple(
            StagedData(manifest, {**arrays, **_arrays(own)}, requirements.read(own))
            for own in sorted(folder.glob(f"{_OTHER}*"))
        )
        missing = [f.name for f in store.declared(manifest.targets) if f.required and f.name not in arrays]
    except (UserError, OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"node-local copy {folder} cannot be read: {error}; run the same command again") from error
    if missing:
        raise UserError(f"node-local copy {folder} lacks {', '.join(missing)}; run the same command again")
    return StagedData(manifest, arrays, ready, others)


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    return {p.stem: _map(p) for p in sorted(folder.glob("*.npy"))}


def _refuse_of_others(folder: Path) -> None:
    """Refuse a copy that another user may have put in this one's place: a parent folder may be writable for all."""
    with contextlib.suppress(FileNotFoundError):  # reported with the other missing files
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise UserError(
                f"node-local copy {folder} may have been changed by another user; give a --stage-dir that others cannot"
                " write to"
            )


def _map(path: Path) -> np.ndarray:
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an empty array cannot be mapped
        mapped = np.load(path, allow_pickle=False)
    return mapped


def write_truth(staged: StagedData, part: int, path: Path) -> None:
    """Write the true values of a ``part`` of the split (an index into `PARTS`) to ``path`` (``.npz``), in their units.

    ``sample`` [T], ``names`` [T], ``source_index`` [T] (where the data set has it), ``atom_offsets`` [T + 1],
    ``atomic_numbers`` and every target under its field's name.
    """
    a = staged.arrays
    sample = np.flatnonzero(a["split"] == part)
    atoms = atoms_of(a["atom_offsets"], sample)
    names = sample_names(a)
    content = {
        "sample": sample.astype(np.int64),
        "names": np.array([names[k] for k in sample.tolist()]),
        **({SOURCE_INDEX: a[SOURCE_INDEX][sample]} if SOURCE_INDEX in a else {}),
        "atom_offsets": np.concatenate([[0], np.cumsum(np.diff(a["atom_offsets"])[sample])]).astype(np.int64),
        "atomic_numbers": a["atomic_numbers"][atoms],
    }
    for name, target in staged.manifest.targets.items():
        content[name] = a[f"target_{name}"][atoms if target.level == "node" else sample]
    write_arrays(path, content)


def atoms_of(offsets: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the indices in A of all atoms of ``samples``, in their order, or other rows that ``offsets`` delimit."""
    start = offsets[samples]
    counts = offsets[samples + 1] - start
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    positions: np.ndarray = np.repeat(start, counts) + within
    return positions


def main() -> int:
    """Copy the data set ``BP`` into ``FOLDER``, the first two arguments; return the exit code.

    The third argument is the process ID of the parent, with which this process ends; those after it, what is required.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if len(sys.argv) > 3 and os.getppid() != int(sys.argv[3]):
        return 1
    try:
        copy(
            Path(sys.argv[1]),
            Path(sys.argv[2]),
            [Requirements.model_validate_json(required) for required in sys.argv[4:]],
        )
    except UserError as error:
        print_line(f"{ERROR}{error}")
        return 2
    except OSError as error:
        # On a full disk, NumPy reports only how many items it could write.
        reason = error.strerror or f"no space left or a quota reached ({error})"
        print_line(f"{ERROR}cannot stage {sys.argv[1]} in {sys.argv[2]}: {reason}; give another --stage-dir")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
