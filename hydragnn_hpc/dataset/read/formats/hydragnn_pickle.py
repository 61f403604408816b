"""HydraGNN's pickles, read without executing anything that they name.

A pickle is a program that may call whatever it names. Here it can name only what data sets of tensors need, and
receives objects of this module instead, which hold data and do nothing: neither torch nor PyTorch Geometric is
imported.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np

from hydragnn_hpc.errors import UserError

_LEGACY = 0x1950A86A20F9469CFC6C  # the magic number of torch.save's format before zip archives
_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "|b1", "UntypedStorage": "<u1",
}  # fmt: skip
_KINDS = "biuf"  # NumPy's: booleans, integers and floating-point numbers


class PickledObject:
    """Stands for an object whose class is not imported; ``state`` is what the pickle stores of it."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _PickledDtype(PickledObject):
    """NumPy's dtype: its code, and its byte order."""

    def __init__(self, code: str = "", *_: Any) -> None:
        super().__init__()
        self.code = code

    def numpy(self) -> np.dtype[Any]:
        order: Any = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "|"
        dtype = np.dtype(self.code if isinstance(self.code, str) else "O")
        if dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f"an array of {dtype}, not of numbers")
        return dtype.newbyteorder(order) if order in ("<", ">") else dtype


class _PickledArray(PickledObject):
    """NumPy's array before its state is known."""

    def numpy(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        return np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """Return a tensor as an array; refuse one that reaches beyond its storage, or is larger.

    A pickle may pass any object that it can make, so that nothing is assumed; NumPy checks the bounds once more.
    """
    if not (isinstance(storage, np.ndarray) and storage.ndim == 1 and storage.dtype.kind in _KINDS):
        raise pickle.UnpicklingError("a tensor whose storage is not a row of numbers")
    if not all(type(number) is int for number in (offset, *size, *stride)):  # NumPy's integers overflow
        raise pickle.UnpicklingError("a tensor whose sizes are not whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    beyond = 0 not in size and (last >= len(storage) or math.prod(size) > len(storage))
    if beyond or min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.ndarray(size, storage.dtype, storage, offset * storage.itemsize, strides).copy()


class _Restricted(pickle.Unpickler):
    """An unpickler that knows the names of `_allowed`, and no others.

    ``room`` is the number of bytes that follow for storages which are kept outside the pickle; None: there are none.
    """

    def __init__(self, stream: IO[bytes], room: int | None = None) -> None:
        super().__init__(stream)
        self._known = _allowed()
        self._room = room
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no data set needs") from None

    def persistent_load(self, pid: Any) -> Any:
        named = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and pid[1] in _STORAGES.values()
        if self._room is None or not named:
            raise pickle.UnpicklingError("an object kept elsewhere")
        kind, key, length = np.dtype(pid[1]), str(pid[2]), pid[4]
        if key not in self.storages:
            if not (type(length) is int and 0 <= length * kind.itemsize <= self._room):
                raise pickle.UnpicklingError("a storage that is longer than what follows")
            self._room -= length * kind.itemsize
            self.storages[key] = np.zeros(length, kind)  # filled in when the numbers follow, after the pickle
        return self.storages[key]


def _allowed() -> dict[tuple[str, str], Any]:
    """Return the names that a pickle may use, as new objects each time: a pickle can set their attributes."""

    def tensor(*args: Any) -> np.ndarray:
        return _tensor(*args)

    def storage(content: bytes) -> np.ndarray:
        return _storage(content)

    def array(*_: Any) -> PickledObject:
        return _PickledArray()

    def scalar(dtype: _PickledDtype, raw: bytes) -> Any:
        return np.frombuffer(raw, dtype.numpy())[0]

    def buffer(raw: Any, dtype: _PickledDtype, shape: tuple[int, ...], order: str) -> np.ndarray:
        return np.frombuffer(raw, dtype.numpy()).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]

    def kind(name: str) -> type[PickledObject]:
        return type(name, (PickledObject,), {})

    def dtype(code: str, *_: Any) -> _PickledDtype:
        return _PickledDtype(code)

    known: dict[tuple[str, str], Callable[..., Any] | str] = {
        ("torch_geometric.data.data", "Data"): kind("Data"),
        ("torch_geometric.data.data", "DataEdgeAttr"): kind("DataEdgeAttr"),
        ("torch_geometric.data.data", "DataTensorAttr"): kind("DataTensorAttr"),
        ("torch_geometric.data.storage", "GlobalStorage"): kind("GlobalStorage"),
        ("collections", "OrderedDict"): type("OrderedDict", (OrderedDict,), {}),
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch.storage", "_load_from_bytes"): storage,
        ("numpy", "ndarray"): kind("ndarray"),
        ("numpy", "dtype"): dtype,
    }
    for core in ("numpy.core", "numpy._core"):
        known[f"{core}.multiarray", "_reconstruct"] = array
        known[f"{core}.multiarray", "scalar"] = scalar
        known[f"{core}.numeric", "_frombuffer"] = buffer
    known |= {("torch", name): code for name, code in _STORAGES.items()}
    known["torch.storage", "UntypedStorage"] = _STORAGES["UntypedStorage"]
    return known


def _storage(content: bytes) -> np.ndarray:
    """Read a storage in torch.save's older format: pickles, then the numbers of each storage."""
    stream = io.BytesIO(content)
    if _Restricted(stream).load() != _LEGACY:
        raise pickle.UnpicklingError("a storage in another format than that of tensors in pickles")
    _Restricted(stream).load()  # the protocol's version
    _Restricted(stream).load()  # byte order and sizes of the machine
    reader = _Restricted(stream, len(content) - stream.tell())
    loaded = reader.load()
    if not isinstance(loaded, np.ndarray):
        raise pickle.UnpicklingError("a storage that holds no numbers")
    for key in _Restricted(stream).load():
        storage = reader.storages[str(key)]
        length = int.from_bytes(stream.read(8), "little")
        raw = stream.read(storage.nbytes)
        if length != len(storage) or len(raw) != storage.nbytes:
            raise pickle.UnpicklingError("a storage that is cut short")
        storage[:] = np.frombuffer(raw, storage.dtype)
    return loaded


def _numbers(value: Any) -> Any:
    return value.numpy() if isinstance(value, _PickledArray) else value


def load(stream: IO[bytes], where: str) -> Any:
    """Return the next object of a file; arrays and tensors as NumPy arrays, other classes as `PickledObject`.

    Raises
    ------
    UserError
        If it is damaged, or names anything that a data set does not need.
    """
    with _refused(where):
        return _numbers(_Restricted(stream).load())


@contextmanager
def _refused(where: str) -> Iterator[None]:
    """Turn any error into one about the file."""
    try:
        yield
    except Exception as error:  # a damaged or malicious pickle raises almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(
            f"{where}: cannot be read as a pickle of HydraGNN: {reason}; write it again, or as ADIOS2"
        ) from error


def tensors_of(sample: Any, where: str) -> dict[str, np.ndarray]:
    """Return the tensors of a PyTorch Geometric ``Data`` object by key; arrays of text or objects are left out.

    Raises
    ------
    UserError
        If it is another object, or damaged.
    """
    state = sample.state if isinstance(sample, PickledObject) else None
    store = state.get("_store") if isinstance(state, dict) else None
    inner = store.state if isinstance(store, PickledObject) else None
    mapping = inner.get("_mapping") if isinstance(inner, dict) else state  # before PyG 2, the state itself
    if not isinstance(mapping, dict):
        raise UserError(f"{where}: holds {type(sample).__name__}, not a graph of PyTorch Geometric; write it again")
    tensors = {}
    for key, value in mapping.items():
        with _refused(f"{where}, {key}"), suppress(pickle.UnpicklingError):
            tensors[key] = _numbers(value)
    return {key: value for key, value in tensors.items() if isinstance(value, np.ndarray)}
