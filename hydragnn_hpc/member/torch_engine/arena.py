"""Working memory that is allocated once."""

from __future__ import annotations

import math

from torch import Tensor


class Arena:
    """Memory under names, kept from batch to batch: it grows, and is cut to whatever shape is asked for."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._flat = like, dict[str, Tensor]()

    def take(self, name: str, *shape: int) -> Tensor:
        """Return an array of that shape with undefined content; an earlier array of that name becomes invalid."""
        need = math.prod(shape)
        if name not in self._flat or self._flat[name].numel() < need:
            self._flat[name] = self._like.new_empty(need + need // 8)
        return self._flat[name][:need].view(shape)
