"""The accelerated interpreter refuses what Triton's own does."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from tests.triton_interpreter import accelerate

accelerate()


@triton.jit
def product(numbers, to, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Multiply the first LEFT numbers by the first RIGHT ones."""
    left, right = tl.load(numbers + tl.arange(0, LEFT)), tl.load(numbers + tl.arange(0, RIGHT))
    tl.store(to + tl.arange(0, LEFT), left * right)


def test_overflow_and_shapes_that_differ_are_refused() -> None:
    numbers, to = torch.tensor([1, 2, 46340, -46340], dtype=torch.int32), torch.empty(4, dtype=torch.int32)
    product[1,](numbers, to, 4, 4)
    assert to.tolist() == (numbers * numbers).tolist()
    with pytest.raises(InterpreterError, match="shape mismatch"):
        product[1,](numbers, to, 4, 2)
    numbers[3] = 46341  # the square is 2^31 + 4633
    with pytest.raises(InterpreterError, match="int32 overflow detected for operation mul"):
        product[1,](numbers, to, 4, 4)
