"""Triton's interpreter without most of its overhead: the same numbers and the same checks in a third of the time.

Kernels in the tests have small tiles, so that nearly all of their time is the interpreter's own: it replaces Triton's
language at every call of a function, makes the type of every intermediate result anew, and checks integers for overflow
with operations of the language.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import ReduceOps, TensorHandle

NUMPY = {tl.int1.name: np.dtype(bool)} | {
    getattr(tl, name).name: np.dtype(name)
    for name in ("int32", "int64", "uint32", "uint64", "float32", "float64")
}  # fmt: skip
"""Types of the kernels' values, by Triton's names."""
WIDE = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


@functools.cache
def accelerate() -> None:
    """Replace the slow parts of the interpreter in this process, if it interprets kernels."""
    if not triton.knobs.runtime.interpret:
        return
    interpreter._patch_lang = _patched_once(interpreter._patch_lang)
    interpreter._get_np_dtype = _numpy_type
    interpreter.interpreter_semantic.binary_op_sanitize_overflow_impl = _check_overflow
    interpreter.interpreter_semantic.broadcast_impl_value = _broadcast
    ReduceOps.generic_reduce = _reduce
    tl.block_type.__init__ = _block_type(tl.block_type.__init__)
    tl.tensor.__init__ = _tensor(tl.tensor.__init__)


def _patched_once(patch: Callable[[FunctionType], Any]) -> Callable[[FunctionType], Any]:
    """Replace the language once for each module, for the rest of the process."""
    modules = set[int]()

    def patched(function: FunctionType) -> Any:
        if id(function.__globals__) not in modules:
            modules.add(id(function.__globals__))
            patch(function)
        return interpreter._LangPatchScope()  # which restores nothing

    return patched


def _numpy_type(dtype: tl.dtype) -> np.dtype[Any]:
    return np.dtype(np.uint64) if dtype.scalar.is_ptr() else NUMPY[dtype.scalar.name]


def _check_overflow(lhs: tl.tensor, rhs: tl.tensor, operation: Callable[..., Any]) -> None:
    a, b = lhs.handle.data, rhs.handle.data
    if a.itemsize < 8:
        name, limits = operation.__name__, np.iinfo(a.dtype)
        wide = WIDE[name](a, b, dtype=np.int64)
        valid = limits.min <= wide.min() and wide.max() <= limits.max
        assert valid, f"{a.dtype} overflow detected for operation {name}"


def _broadcast(lhs: tl.tensor, rhs: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    if not (lhs.type.is_block() or rhs.type.is_block()):
        return lhs, rhs
    shape = np.broadcast_shapes(lhs.handle.data.shape, rhs.handle.data.shape)
    return _to_shape(lhs, shape), _to_shape(rhs, shape)


def _to_shape(x: tl.tensor, shape: tuple[int, ...]) -> tl.tensor:
    if x.type.is_block() and x.handle.data.shape == shape:
        return x
    return tl.tensor(TensorHandle(np.broadcast_to(x.handle.data, shape), x.dtype), tl.block_type(x.dtype, [*shape]))


def _reduce(reduction: ReduceOps, values: tuple[tl.tensor, ...]) -> list[tl.tensor]:
    """Combine whole slices along the axis in place of single numbers."""
    assert reduction.axis is not None and not reduction.keep_dims and len(values) == 1
    slices = np.moveaxis(values[0].handle.data, reduction.axis, 0)
    return [functools.reduce(reduction.combine_fn.fn, (reduction.to_tensor(part, values[0].dtype) for part in slices))]


def _block_type(init: Callable[..., None]) -> Callable[..., None]:
    """Copy the attributes of the first type of each shape."""
    made: dict[tuple[Any, ...], dict[str, Any]] = {}

    def of(block_type: tl.block_type, element: tl.dtype, shape: list[Any]) -> None:
        key = (element.name, *[getattr(size, "value", size) for size in shape])
        if key not in made:
            init(block_type, element, shape)
            made[key] = dict(vars(block_type))
        vars(block_type).update(made[key])

    return of


def _tensor(init: Callable[..., None]) -> Callable[..., None]:
    """Take the shape from the first tensor of each type."""
    made: dict[str, tuple[Any, Any]] = {}

    def of(tensor: tl.tensor, handle: TensorHandle, dtype: tl.dtype) -> None:
        if dtype.name not in made:
            init(tensor, handle, dtype)
            made[dtype.name] = tensor.numel, tensor.shape
        tensor.handle, tensor.type, tensor.dtype = handle, dtype, dtype.scalar
        tensor.numel, tensor.shape = made[dtype.name]

    return of
