"""Node-local copies: the data set as plain memory-mapped arrays, one copy a node, shared by all its workers.

Also a program of its own, ``python -m hydragnn_hpc.dataset.stage BP FOLDER``: the copying runs in a child process, so
that a reader that crashes or hangs on a broken file does not take an MPI rank along.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from hydragnn_hpc.dataset import store
from hydragnn_hpc.errors import UserError

_PREFIX = "hydragnn-hpc-"
_LOCK = "lock"
_SILENCE = 300.0  # seconds without any growth of the copy after which the child counts as hung


@dataclass(frozen=True)
class StagedData:
    """A node-local copy.

    Attributes
    ----------
    manifest : Manifest
    arrays : dict
        Memory-mapped, read-only: the store's arrays under their names, and float32 ``node_inputs`` ``[A, 1]`` (scaled
        proton number) and ``scaled_<target>`` (``[A, d]`` or ``[S, d]``, NaN where missing), all in [0, 1] over what
        the scaling was fitted to.
    """

    manifest: store.Manifest
    arrays: dict[str, np.ndarray]


def scaled(values: np.ndarray, minimum: list[float] | float, maximum: list[float] | float) -> np.ndarray:
    """Min-max scale ``[..., d]`` to float32; a component without a range becomes 0."""
    span = np.asarray(maximum) - np.asarray(minimum)
    result: np.ndarray = ((values - np.asarray(minimum)) / np.where(span == 0, 1.0, span)).astype(np.float32)
    return result


def copy(bp: Path, folder: Path) -> None:
    """Read the data set ``bp``, checked, and write it as ``.npy`` files into the existing ``folder``."""
    manifest, arrays = store.read(bp)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    low, high = (float(manifest.content["species"][k]) for k in ("minimum", "maximum"))
    np.save(folder / "node_inputs.npy", scaled(arrays["atomic_numbers"][:, None].astype(np.float64), low, high))
    for name, target in manifest.targets.items():
        values = scaled(arrays[f"target_{name}"], target["minimum"], target["maximum"])
        np.save(folder / f"scaled_{name}.npy", values)
    # Last, so that its presence says that the copy is whole.
    (folder / store.MANIFEST).write_text(json.dumps(manifest.content), encoding="utf-8")


def open_staged(folder: Path) -> StagedData:
    """Map a node-local copy, read-only.

    Raises
    ------
    UserError
        If the copy is gone or not whole.
    """
    try:
        manifest = store.Manifest(json.loads((folder / store.MANIFEST).read_text(encoding="utf-8")))
        arrays = {p.stem: _map(p) for p in sorted(folder.glob("*.npy"))}
    except (OSError, ValueError) as error:
        raise UserError(f"node-local copy {folder} cannot be read: {error}; run the same command again") from error
    return StagedData(manifest, arrays)


def _map(path: Path) -> np.ndarray:
    # A file without data cannot be mapped.
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array if array.size == 0 else np.load(path, mmap_mode="r", allow_pickle=False)


def node_local_parent(given: Path | None) -> Path:
    """Return where copies go: what is given, else ``$TMPDIR``, ``/dev/shm``, ``/tmp``, the first that can be written.

    Raises
    ------
    UserError
        If the given folder, or all of them, cannot be written.
    """
    if given is not None:
        candidates = [given]
    else:
        # TMPDIR is set by schedulers to a job's node-local storage.
        candidates = [Path(p) for p in (os.environ.get("TMPDIR"), "/dev/shm", "/tmp") if p]
    for folder in candidates:
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    raise UserError(f"no node-local folder can be written: {', '.join(map(str, candidates))}; give --stage-dir")


class Staging:
    """The node's copy of a data set while the ``with`` block lasts; entered by one process a node.

    Leftovers of killed runs in the same place are removed first: a copy whose lock nobody holds is nobody's.

    Parameters
    ----------
    bp : Path
        The data set.
    parent : Path
        Node-local storage, from :func:`node_local_parent`.
    alive : callable, optional
        Called a few times a second while copying (to answer messages meanwhile).
    """

    def __init__(self, bp: Path, parent: Path, alive: Callable[[], None] | None = None) -> None:
        self._bp, self._parent, self._alive = bp, parent, alive
        self._lock = -1
        self.folder = Path()

    def __enter__(self) -> Staging:
        manifest = store.read_manifest(self._bp)
        remove_abandoned(self._parent)
        needed = 2 * sum(f["bytes"] for f in manifest.content["files"].values())
        free = shutil.disk_usage(self._parent).free
        if free < needed:
            raise UserError(
                f"node-local storage {self._parent} has {free / 1e6:.1f} MB free, {needed / 1e6:.1f} MB are needed;"
                " give another --stage-dir"
            )
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{manifest.sha256[:12]}-", dir=self._parent))
        self._lock = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._copy()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _copy(self) -> None:
        command = [sys.executable, "-m", "hydragnn_hpc.dataset.stage", str(self._bp), str(self.folder)]
        with tempfile.TemporaryFile("w+") as said:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                self._watch(child)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            if child.returncode == 0 and (self.folder / store.MANIFEST).exists():
                return
            said.seek(0)
            lines = [line for line in said.read().splitlines() if line.strip()]
        reason = lines[-1].removeprefix("error: ") if lines else f"its reader ended with {child.returncode}"
        raise UserError(reason if child.returncode == 2 else f"cannot stage {self._bp}: {reason}")

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Wait for the child; end it when the copy has not grown for long."""
        seen, since = -1, time.monotonic()
        while child.poll() is None:
            if self._alive:
                self._alive()
            time.sleep(0.05)
            if time.monotonic() - since > 1.0:
                size = sum(p.stat().st_size for p in self.folder.glob("*.npy"))
                if size == seen and time.monotonic() - since > _SILENCE:
                    raise UserError(f"cannot stage {self._bp}: its reader hangs; check it with data info --verify")
                if size != seen:
                    seen, since = size, time.monotonic()


def remove_abandoned(parent: Path) -> int:
    """Remove copies in ``parent`` that belonged to killed runs of this user; returns how many."""
    removed = 0
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
            except BlockingIOError:
                pass  # in use
            finally:
                os.close(lock)
    return removed


def write_test_set(staged: StagedData, path: Path) -> None:
    """Write the test part's truth to ``path`` (``.npz``), in its units.

    ``sample`` [T], ``names`` [T], ``atom_offsets`` [T + 1], ``atomic_numbers`` and every target under its field's name.
    """
    from hydragnn_hpc.paths import written_whole

    a = staged.arrays
    sample = np.flatnonzero(a["split"] == 2)
    atoms = atoms_of(a["atom_offsets"], sample)
    names = [
        bytes(a["sample_names"][s:e]).decode() for s, e in zip(*_bounds(a["sample_name_offsets"], sample), strict=True)
    ]
    content = {
        "sample": sample.astype(np.int64),
        "names": np.array(names),
        "atom_offsets": np.concatenate([[0], np.cumsum(np.diff(a["atom_offsets"])[sample])]).astype(np.int64),
        "atomic_numbers": a["atomic_numbers"][atoms],
    }
    for name, target in staged.manifest.targets.items():
        content[name] = a[f"target_{name}"][atoms if target["level"] == "node" else sample]
    with written_whole(path) as stream:
        np.savez_compressed(stream, **content)


def atoms_of(offsets: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return the positions in A of all atoms of ``samples``, in their order."""
    start, end = _bounds(offsets, samples)
    counts = end - start
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    positions: np.ndarray = np.repeat(start, counts) + within
    return positions


def _bounds(offsets: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return offsets[samples], offsets[samples + 1]


if __name__ == "__main__":
    try:
        copy(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
