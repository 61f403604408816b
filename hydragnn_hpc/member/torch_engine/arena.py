"""Working memory that is reused from batch to batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Arena:
    """Named blocks of memory, kept from batch to batch; they grow as needed, and are viewed in any shape."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._flat = like, dict[str, Tensor]()

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return an array of that shape with undefined content; an earlier array of that name becomes invalid.

        Without a ``dtype`` it has the arena's own; a name always has the same.
        """
        need = math.prod(shape)
        if name not in self._flat or self._flat[name].numel() < need:
            self._flat[name] = self._like.new_empty(need + need // 8, dtype=dtype)
        return self._flat[name][:need].view(shape)
