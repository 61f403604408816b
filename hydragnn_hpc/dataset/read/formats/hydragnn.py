"""HydraGNN's data sets: ADIOS2 folders with trainset, valset and testset, and its pickles.

Positions are in bohr unless the configuration beside the file has a ``length_unit`` (`hydragnn_features`). Neighbours
are not read, but determined from positions and the cutoff. Values that HydraGNN has scaled come back in their units.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.read.files import RawFile, temporary_folder
from hydragnn_hpc.dataset.read.formats import hydragnn_features as features
from hydragnn_hpc.dataset.read.formats import hydragnn_pickle
from hydragnn_hpc.dataset.read.formats.hydragnn_features import Configuration, OutputFeature, Scaling
from hydragnn_hpc.dataset.read.frames import LARGEST_Z, Frame
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.dataset.read.units import LengthUnit
from hydragnn_hpc.dataset.store.foreign import MAGIC, Contents, unpack
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.base import Level

TARGETS: tuple[TargetSpec, ...] = ()

LABELS = {"trainset": 0, "valset": 1, "testset": 2}
"""HydraGNN's names of the parts of the split, with their indices in :data:`hydragnn_hpc.fields.PARTS`."""
_ALIASES = {"train": "trainset", "validate": "valset", "validation": "valset", "test": "testset"}
_PICKLE = b"\x80"
_EDGES = ("edge_index", "edge_attr", "edge_shifts")
_USED = {"x", "y", "y_loc", "pos", "cell", "pbc", "atomic_numbers", "natoms", "batch", "ptr", *_EDGES}
# Lengths of scalars, vectors and tensors: in a structure of as many atoms, the level of such a value is ambiguous.
_SIZES = (1, 3, 6, 9)
_ROUNDED = 1e-3  # a proton number that was scaled in float32 comes back this close
_MALFORMED = (ValueError, TypeError, IndexError, OverflowError)  # what tensors of other types or shapes raise

Tensors = dict[str, np.ndarray]
"""The tensors of a sample, by key."""
Samples = Iterator[tuple[Tensors, str] | UserError]
"""The tensors of each sample, and where they are; for a damaged sample, an error instead."""


def detect(start: bytes, name: str) -> bool:
    """Whether it is an ADIOS2 folder, by its index, or a pickle with the suffix .pkl."""
    return start.startswith(MAGIC) or (start.startswith(_PICKLE) and name.endswith(".pkl"))


@dataclass
class _Part:
    """The samples of one label, and what is needed to restore their values.

    Attributes
    ----------
    label : str
        One of `LABELS`, or another name if the file does not state a set of the split.
    samples : Samples
    scaling : Scaling
    configuration : Configuration
    unit : LengthUnit
        Of positions and cells.
    """

    label: str
    samples: Samples
    scaling: Scaling
    configuration: Configuration
    unit: LengthUnit
    outputs: list[OutputFeature] = field(default_factory=list)

    def frames(self, file: RawFile) -> Iterator[Frame | UserError]:
        """Yield the samples as structures."""
        for number, sample in enumerate(self.samples):
            if isinstance(sample, UserError):
                yield sample
                continue
            tensors, where = sample
            try:
                yield self._frame(tensors, file, f"{self.label}-{number}", where)
            except UserError as error:
                yield error
            except _MALFORMED as error:
                yield UserError(f"{where}: malformed: {error}; write the data set again")

    def _frame(self, tensors: Tensors, file: RawFile, number: str, where: str) -> Frame:
        _check_keys(tensors, where)
        processed = "y_loc" in tensors
        needed = ("x", "y", "pos") if processed else ("x", "pos")
        lacking = next((key for key in needed if key not in tensors), None)
        if lacking is not None:
            raise UserError(f"{where}: has no '{lacking}' (it has {', '.join(sorted(tensors))}); write it again")
        pos = self.unit.to_bohr(np.asarray(tensors["pos"], np.float64))
        n = len(pos)
        x = np.asarray(tensors["x"]).reshape(n, -1)
        outputs = self._outputs(tensors, n, x.shape[1], where) if processed else self._features(tensors, x, where)
        units: dict[str, str] = {}
        values: dict[str, Any] = {"split": float(LABELS.get(self.label, np.nan))}
        columns: dict[str, Any] = {}
        for output, stored in outputs:
            restored = self.scaling.restored(output.level, output.feature, stored, where)
            (columns if output.level == "node" else values)[output.key] = restored
            stated = self.configuration.features(output.level).unit
            if output.feature < len(stated):
                units[output.key] = stated[output.feature]
        for key in tensors.keys() - _USED:  # HydraGNN does not scale them
            value = np.asarray(tensors[key])
            if value.dtype.kind in "if" and value.size:
                of_atoms = value.ndim > 0 and len(value) == n
                if of_atoms:
                    columns[key] = value
                if not of_atoms or n in _SIZES:
                    values[key] = value
        name, origin, _ = file.named(number, number)
        cell, periodic = self._cell(tensors)
        return Frame(name, origin, where, self._species(tensors, x, where), pos, cell, periodic, values, columns, units)

    def _species(self, tensors: Tensors, x: np.ndarray, where: str) -> np.ndarray:
        if "atomic_numbers" in tensors:
            z = np.asarray(tensors["atomic_numbers"], np.float64).reshape(len(x))
            found, remedy = "atomic_numbers holds", "write the data set again"
        else:
            first = self.configuration.network.variables.input_node_features[:1] if "y_loc" in tensors else [0]
            z = self.scaling.restored("node", first[0] if first else 0, x[:, 0], where)
            found = "x begins with"
            remedy = "its first column must hold proton numbers, which need minmax_node_feature if they are scaled"
        nearest = np.rint(z)
        valid = (np.abs(z - nearest) < _ROUNDED) & (nearest >= 1) & (nearest <= LARGEST_Z)
        if not valid.all():
            atom = int(np.argmin(valid))
            raise UserError(f"{where}: atom {atom}: {found} {z[atom]:.6g}, which is not a proton number; {remedy}")
        return nearest.astype(np.int32)

    def _cell(self, tensors: Tensors) -> tuple[np.ndarray, tuple[bool, bool, bool] | None]:
        cell, periodic = np.zeros((3, 3)), None
        if "cell" in tensors:
            cell = self.unit.to_bohr(np.asarray(tensors["cell"], np.float64).reshape(3, 3))
            periodic = (True, True, True)
        if "pbc" in tensors:
            a, b, c = np.asarray(tensors["pbc"]).astype(bool).reshape(3).tolist()
            periodic = (a, b, c)
        return cell, periodic

    def _features(self, tensors: Tensors, x: np.ndarray, where: str) -> Iterator[tuple[OutputFeature, np.ndarray]]:
        """Yield all features after the proton number: ``x`` and ``y`` hold all, as HydraGNN's loaders wrote them."""
        held: tuple[tuple[Level, np.ndarray], ...] = (("node", x),)
        if "y" in tensors and np.size(tensors["y"]):
            held += (("graph", np.asarray(tensors["y"]).reshape(1, -1)),)
        for level, array in held:
            known = self.configuration.features(level)
            widths = known.dim or [1] * array.shape[1]
            if sum(widths) != array.shape[1] or min(widths) < 1:
                raise UserError(
                    f"{where}: has {array.shape[1]} {level}-level values, but {widths} in the configuration;"
                    " correct 'dim' there"
                )
            if self.scaling.count(level) not in (None, len(widths)):
                raise UserError(
                    f"{where}: {array.shape[1]} {level}-level values scaled as {self.scaling.count(level)} features:"
                    " put HydraGNN's configuration (.json) beside it, under the same name, with 'dim'"
                )
            for number, first in enumerate(np.cumsum([0, *widths[:-1]]).tolist()):
                if level == "graph" or number:
                    key = known.name[number] if number < len(known.name) else f"{level}_{number}"
                    yield OutputFeature(key, level, number), array[:, first : first + widths[number]]

    def _outputs(self, tensors: Tensors, n: int, inputs: int, where: str) -> Iterator[tuple[OutputFeature, np.ndarray]]:
        """Yield the outputs, which ``y`` holds one after the other; ``y_loc`` holds where each begins, and the end."""
        y, bounds = np.asarray(tensors["y"]).ravel(), np.asarray(tensors["y_loc"]).ravel().astype(np.int64)
        extents = np.diff(bounds)
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(y) or (extents < 1).any():
            raise UserError(
                f"{where}: y_loc {bounds.tolist()} does not divide the {counted(len(y), 'value')} of y; write it again"
            )
        if not self.outputs:
            levels: list[Level] = self.configuration.network.variables.type or [
                "node" if n > 1 and extent % n == 0 else "graph" for extent in extents.tolist()
            ]
            self.outputs = features.outputs_of(levels, inputs, self.configuration, self.scaling, where)
        if len(extents) != len(self.outputs):
            raise UserError(
                f"{where}: has {counted(len(extents), 'output')}, but {len(self.outputs)} before; write it again"
            )
        for output, first, extent in zip(self.outputs, bounds.tolist(), extents.tolist(), strict=False):
            if output.level == "node" and extent % n:
                raise UserError(
                    f"{where}: '{output.key}' has {counted(extent, 'value')} for {counted(n, 'atom')}; name its level"
                    " in the configuration"
                )
            shape = (n, -1) if output.level == "node" else (1, -1)
            yield output, y[first : first + extent].reshape(shape)


def _check_keys(tensors: Tensors, where: str) -> None:
    for key in tensors:
        if not (isinstance(key, str) and key.isidentifier() and not key.startswith("__")):
            raise UserError(f"{where}: the key {key!r} is not a name; the file is damaged or malicious: do not use it")


def frames(file: RawFile) -> Iterator[Frame | UserError]:
    """Yield the samples of a file, or of an ADIOS2 folder."""
    if file.path is None:
        yield UserError(f"{file.where}: HydraGNN's files refer to one another; unpack the archive, and give the folder")
        return
    if file.plain_name.endswith(".json"):  # the configuration
        return
    try:
        with temporary_folder() as folder:
            parts = _of_adios(file.path, folder) if file.path.is_dir() else _of_pickle(file.path)
            for part in parts:
                yield from part.frames(file)
    except UserError as error:
        yield error
    except _MALFORMED as error:  # attributes and tables of a folder, too
        yield UserError(f"{file.where}: malformed: {error}; write the data set again")


def _of_adios(path: Path, folder: Path) -> Iterator[_Part]:
    contents = unpack(path, folder, _EDGES)
    labels = [name.removesuffix("/ndata") for name in contents.attributes if name.endswith("/ndata")]
    if not labels:
        raise UserError(
            f"{path}: is an ADIOS2 folder, but holds no samples of HydraGNN (trainset/ndata);"
            " give a folder that HydraGNN wrote"
        )
    attributes = contents.attributes
    scaling = Scaling.of(attributes.get("minmax_node_feature"), attributes.get("minmax_graph_feature"), str(path))
    if "energy_linear_regression_coeff" in attributes:
        raise UserError(f"{path}: its energies are residuals of a regression on elements; write the data without it")
    configuration, unit = features.read_configuration(path)
    for label in sorted(labels, key=lambda name: (LABELS.get(name, len(LABELS)), name)):
        yield _Part(label, _samples(contents, label, str(path)), scaling, configuration, unit)


def _samples(contents: Contents, label: str, path: str) -> Samples:
    count, keys = contents.attributes[f"{label}/ndata"], contents.attributes.get(f"{label}/keys", [])
    keys = [keys] if isinstance(keys, str) else keys
    _check_keys(dict.fromkeys(keys), f"{path}, {label}")  # type: ignore[arg-type]
    tables = {key: _table(contents, f"{label}/{key}", int(count), path) for key in keys if key not in _EDGES}
    for k in range(int(count)):
        tensors = {}
        for key, (array, axis, starts, counts) in tables.items():
            tensors[key] = array[(slice(None),) * axis + (slice(int(starts[k]), int(starts[k] + counts[k])),)]
        yield tensors, f"{path}, {label} {k}"


def _table(contents: Contents, name: str, count: int, path: str) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Return an array of all samples, the axis along which they follow one another, and each one's start and length.

    The axis is that in which sizes differ, or the first: edges of samples on one geometry are ``[2 S, E]``.
    """
    try:
        array, axis = contents.arrays[name], int(contents.attributes[f"{name}/variable_dim"])
        starts, counts = contents.arrays[f"{name}/variable_offset"], contents.arrays[f"{name}/variable_count"]
    except KeyError as error:
        raise UserError(f"{path}: lacks {error}; it is damaged, or was not written by HydraGNN") from error
    whole = 0 <= axis < array.ndim and starts.shape == counts.shape == (count,) and counts.dtype.kind in "iu"
    if (
        not whole
        or starts.min(initial=0) < 0
        or counts.min(initial=0) < 0
        or (starts + counts).max(initial=0) > array.shape[axis]
    ):
        raise UserError(
            f"{path}: {name} does not hold {counted(count, 'sample')}; it is damaged, or was not written by HydraGNN"
        )
    return array, axis, starts, counts


def _label(name: str) -> str:
    """Return the label in the name of a pickle, as current or older versions of HydraGNN write it."""
    match = re.search(r"(trainset|valset|testset|train|validate|validation|test)(-meta)?(-\d+)?\.pkl$", name)
    return _ALIASES.get(match[1], match[1]) if match else "total"


def _of_pickle(path: Path) -> Iterator[_Part]:
    stem = re.sub(r"-\d+\.pkl$", "", path.name)
    if stem != path.name and any(
        (folder / f"{stem}-meta.pkl").exists() for folder in (path.parent, path.parent.parent)
    ):
        return  # its samples are read with the file that describes them
    configuration, unit = features.read_configuration(path)
    with path.open("rb") as stream:
        node, graph, third = (hydragnn_pickle.load(stream, str(path)) for _ in range(3))
        if path.name.endswith("-meta.pkl"):
            layout = [hydragnn_pickle.load(stream, str(path)) for _ in range(2)]
            samples = _one_by_one(path, third, layout)
        elif isinstance(third, list):
            samples = _in_list(path, third)
        else:
            raise UserError(f"{path}: is a pickle, but not of a data set of HydraGNN; leave it out")
    if node is None and graph is None:
        node, graph = _scales_of_training(path)
    yield _Part(_label(path.name), samples, Scaling.of(node, graph, str(path)), configuration, unit)


def _scales_of_training(path: Path) -> tuple[Any, Any]:
    """Return the minimum and maximum in the training set's file: often only that one has them."""
    own = re.search(r"(valset|testset|validate|validation|test)((-meta)?(-\d+)?\.pkl)$", path.name)
    for label in ("trainset", "train"):
        other = path.with_name(f"{path.name[: own.start()]}{label}{own[2]}") if own else path
        if own and other.is_file():
            with other.open("rb") as stream:
                return hydragnn_pickle.load(stream, str(other)), hydragnn_pickle.load(stream, str(other))
    return None, None


def _in_list(path: Path, graphs: list[Any]) -> Samples:
    for k, graph in enumerate(graphs):
        where = f"{path}, {k}"
        try:
            yield hydragnn_pickle.tensors_of(graph, where), where
        except UserError as error:
            yield error


def _one_by_one(path: Path, count: Any, layout: list[Any]) -> Samples:
    in_folders, per_folder = layout
    if not isinstance(count, int) or (in_folders and not (isinstance(per_folder, int) and per_folder > 0)):
        raise UserError(f"{path}: does not describe the samples beside it; write the data set again")
    stem = path.name.removesuffix("-meta.pkl")
    for k in range(count):
        file = path.parent / (str(k // per_folder) if in_folders else "") / f"{stem}-{k}.pkl"
        try:
            with file.open("rb") as stream:
                yield hydragnn_pickle.tensors_of(hydragnn_pickle.load(stream, str(file)), str(file)), str(file)
        except OSError as error:
            yield UserError(f"cannot read {file}: {error.strerror or error}; {path} names it")
        except UserError as error:
            yield error
