"""A CUDA device emulated on a CPU: its arithmetic is the CPU's, its rules are CUDA's.

``with emulated() as device:`` runs the code that would run on a GPU; its tensors report that they are on ``cuda:0``.
What CUDA forbids is an error, memory whose content it leaves undefined holds NaN, and what costs time is counted
(`Device`).

A captured graph behaves like CUDA's: nothing runs during the capture, and a replay runs the captured operations on the
same memory, whatever has become of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import types
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import hydragnn_hpc

SOURCE = Path(__file__).with_name("guard.cpp")
MEMORY = 80 << 30
"""Of the device, bytes."""
REAL = bool(torch.version.cuda or torch.version.hip)
"""Whether this torch is built for real devices: then none can be emulated."""
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}
VIEWS = {"_unsafe_view", "_reshape_alias", "alias", "detach", "lift_fresh"}
"""Views that do not declare themselves as such; the others are recognised by their schema."""
WAITS = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "masked_select", "nonzero",
    "unique_consecutive", "unique_dim",
}  # fmt: skip
"""Operations whose result the host needs: a number, or the size of what is computed."""
ATOMICS = {"_embedding_bag_dense_backward", "index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce"}
"""Operations that add in an order that changes from run to run."""


@functools.cache
def load_guard() -> ctypes.CDLL:
    """Compile, once for each version of torch, and load what answers torch's questions to a device."""
    folder = Path(torch.__file__).parent
    name = f"guard-{torch.__version__}-{zlib.crc32(SOURCE.read_bytes()):08x}"
    built = SOURCE.parent / "__pycache__" / f"{name}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        libraries = [f"-L{folder / 'lib'}", "-lc10", "-ltorch_cpu"]
        command = [str(COMPILER), "-std=c++20", "-shared", "-fPIC", f"-I{folder / 'include'}", str(SOURCE)]
        subprocess.run([*command, *libraries, "-o", str(part)], check=True)
        part.rename(built)
    return ctypes.CDLL(str(built))


class OnDevice(Tensor):
    """A tensor that reports that it is on the device; ``inner`` holds its values on the host."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cuda:0",
        )
        made.inner = inner
        return made

    def data_ptr(self) -> int:
        """The address of the values."""
        return self.inner.data_ptr()

    @property
    def data(self) -> Tensor:
        """The same values, detached from autograd."""
        return self.detach()

    @data.setter
    def data(self, other: OnDevice) -> None:
        """Use the memory of a tensor of the same shape."""
        self.inner = other.inner

    def tolist(self) -> list[Any]:
        """The values on the host."""
        values: list[Any] = self.cpu().tolist()
        return values

    def __repr__(self) -> str:
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside the emulated device")


class Device(TorchDispatchMode):
    """The device, and a record of its use.

    Attributes
    ----------
    waits : Counter
        Waits of the host for the device, as "function of the package: reason".
    launches : Counter
        Launches by operation; a replay counts as one. A real device may launch several kernels for an operation.
    atomics : Counter
        Operations whose last digits differ from run to run.
    graphs : WeakSet of Graph
        The graphs that exist.
    captures, after_failure : int
        Graphs captured; operations after a failed capture, which leaves torch in an undefined state.
    limit : int or None
        Memory in bytes; None: no limit, and the peak is not recorded.
    peak, recent_peak : int
        The largest number of bytes in use, ever and since `reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.atomics: Counter[str] = Counter()
        self.graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self.captures = self.after_failure = 0
        self.limit: int | None = None
        self.peak = self.recent_peak = 0
        self.capturing: Graph | None = None
        self.failed = False
        self._blocks: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def bytes(self) -> int:
        """Memory in use."""
        self._blocks = {key: block for key, block in self._blocks.items() if not block[0].expired()}
        return sum(size for _, size in self._blocks.values())

    def reset_peak(self) -> None:
        """Start a new ``recent_peak``."""
        self.recent_peak = self.bytes

    def wait(self, reason: str) -> None:
        """Record that the host waits."""
        self.waits[f"{_function()}: {reason}"] += 1
        if self.capturing is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({reason})")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        _each((*args, *kwargs.values()), tensors.append)
        known = {id(x.inner): x for x in tensors if isinstance(x, OnDevice)}
        wanted = kwargs.get("device")
        here = bool(known) if wanted is None else torch.device(wanted).type == "cuda"
        if not known and not here:
            return func(*args, **kwargs)
        operation = _operation(func)
        self._check(operation.name, args, kwargs, tensors, here)
        inner = {name: _each(value, _inner) for name, value in kwargs.items() if name != "pin_memory"}
        if wanted is not None:
            inner["device"] = torch.device("cpu")

        def wrapped(result: Tensor) -> Tensor:
            return known[id(result)] if id(result) in known else self._hold(result) if here else result

        return _each(self._compute(operation, _each(args, _inner), inner), wrapped)

    def _hold(self, inner: Tensor) -> OnDevice:
        storage = inner.untyped_storage()
        if storage._cdata not in self._blocks:
            self._blocks[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
            if self.limit is not None:
                self._allow(storage.nbytes())
        return OnDevice(inner)

    def _allow(self, asked: int) -> None:
        used = self.bytes
        self.peak, self.recent_peak = max(self.peak, used), max(self.recent_peak, used)
        if used > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {asked} bytes")

    def _compute(self, operation: Operation, args: Any, kwargs: Any) -> Any:
        func, name = operation.func, operation.name
        if operation.is_view:
            return func(*args, **kwargs)
        if name in ALLOCATIONS:
            return _each(func(*args, **kwargs), _poison)
        if self.capturing is not None:
            return self.capturing.record(operation, args, kwargs)
        self.launches[name] += 1
        self.after_failure += self.failed
        adds = name == "_index_put_impl_" or (name in ("index_put_", "index_put") and (*args, False)[3])
        if name in ATOMICS or adds:
            self.atomics[f"{_function()}: {name}"] += 1
        return func(*args, **kwargs)

    def _check(self, name: str, args: Any, kwargs: Any, tensors: list[Tensor], here: bool) -> None:
        """Refuse tensors on two devices, and record waits."""
        if name in ("_to_copy", "copy_"):
            source, to = (args[1], isinstance(args[0], OnDevice)) if name == "copy_" else (args[0], here)
            asynchronous = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
            if isinstance(source, OnDevice) and not to:
                self.wait("copy to the host")
            elif to and not isinstance(source, OnDevice) and not (asynchronous and getattr(source, "pinned", False)):
                self.wait("copy of memory that is not pinned")
            return
        if any(x.dim() and not isinstance(x, OnDevice) for x in tensors):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found cuda:0 and cpu")
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        unknown_size = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in WAITS or by_mask or unknown_size:
            self.wait(name)


class Graph:
    """Stands in for ``torch.cuda.CUDAGraph``.

    Attributes
    ----------
    operations : list
        What was captured: function, arguments, and the tensors that hold its results.
    """

    def __init__(self, device: Device) -> None:
        self._device, self.pool = device, object()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        device.graphs.add(self)

    def record(self, operation: Operation, args: Any, kwargs: Any) -> Any:
        """Record an operation, and return where its result will be."""
        func = operation.func
        if operation.written:
            named = {**dict(zip(operation.arguments, args, strict=False)), **kwargs}
            written = tuple(named[name] for name in operation.written)
            self.operations.append((func, args, kwargs, None))
            if not func._schema.returns:
                return None
            return written if len(written) > 1 else written[0]
        # On copies: some operations write to arguments that they declare as read-only.
        copies = _each(args, torch.clone), {name: _each(value, torch.clone) for name, value in kwargs.items()}
        result = _each(func(*copies[0], **copies[1]), _poison)
        self.operations.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        """Run what was captured."""
        assert self._device.capturing is None
        self._device.launches["replay"] += 1
        with _disable_current_modes():
            for func, args, kwargs, places in self.operations:
                results = func(*args, **kwargs)
                if places is not None:
                    left = iter([results] if isinstance(results, Tensor) else results)
                    _each(places, lambda place, left=left: place.copy_(next(left)))  # type: ignore[misc]


@dataclass(frozen=True)
class Operation:
    """What an operation declares.

    Attributes
    ----------
    arguments, written : tuple of str
        Names of all arguments, and of those that it writes to.
    is_view : bool
        Whether its result shares the memory of an argument that it does not write to.
    """

    func: Any
    name: str
    arguments: tuple[str, ...]
    written: tuple[str, ...]
    is_view: bool


@functools.cache
def _operation(func: Any) -> Operation:
    schema, name = func._schema, func.overloadpacket.__name__
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    is_view = name in VIEWS or (not written and any(r.alias_info is not None for r in schema.returns))
    return Operation(func, name, tuple(a.name for a in schema.arguments), written, is_view)


def _each(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a value with all its tensors changed; tensors may be in tuples and lists."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_each(v, change) for v in value) if type(value) in (tuple, list) else value


def _inner(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, OnDevice) else tensor


def _poison(tensor: Tensor) -> Tensor:
    """Fill new memory with NaN, so that a value computed from it shows."""
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


def _function() -> str:
    """The innermost function of the package that is running."""
    root, frame = str(Path(hydragnn_hpc.__file__).parent), sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(root):
            place = Path(frame.f_code.co_filename).relative_to(root).with_suffix("")
            return f"{place} {frame.f_code.co_qualname.split('.<locals>')[0]}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


@contextlib.contextmanager
def _capture(device: Device, graph: Graph, pool: object = None) -> Iterator[None]:
    """Stands in for ``torch.cuda.graph``."""
    graph.pool = pool or graph.pool
    device.captures += 1
    device.capturing = graph
    try:
        yield
    except BaseException:
        device.failed = True
        raise
    finally:
        device.capturing = None


def _pinned(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


@contextlib.contextmanager
def emulated(memory: int = MEMORY) -> Iterator[Device]:
    """Emulate a device with ``memory`` bytes of memory."""
    device, lifts = Device(), torch._C._only_lift_cpu_tensors()
    properties = types.SimpleNamespace(name="emulated", uuid="GPU-emulated", total_memory=memory)
    stand_ins = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "synchronize": lambda _=None: device.wait("synchronize"),
        "empty_cache": lambda: None,
        "get_device_properties": lambda _: properties,
        "mem_get_info": lambda: (memory - device.bytes, memory),
        "memory_reserved": lambda: device.bytes,
        "max_memory_reserved": lambda: device.recent_peak,
        "reset_peak_memory_stats": device.reset_peak,
        "graph_pool_handle": object,
        "CUDAGraph": lambda: Graph(device),
        "graph": functools.partial(_capture, device),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(Tensor, "pin_memory", _pinned)
        configuration = torch.__config__.show()  # with a device, torch asks a library for it that is not there
        patch.setattr(torch.__config__, "show", lambda: configuration)
        # A module moved to the device then gets new parameters, instead of the host's with their data exchanged.
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        load_guard().emulate(True)
        torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(..., device="cuda") is dispatched too
        try:
            with device:
                yield device
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            load_guard().emulate(False)
