"""Least squares within groups, whose slopes lean on those of all groups together where a group says little."""

from __future__ import annotations

import numpy as np

_LEAN = 1.0  # weight of the common slopes: that of so many rows whose columns vary as they do on average
_STILL = 1e-10  # share of a column's square that is rounding: a column that varies less within groups does not vary


class Within:
    """Sums over rows of columns x and a target y by group and kind, from which the fit follows.

    Parameters
    ----------
    groups, kinds : int
        Slopes are fitted for each pair; what is common is common to a kind.
    columns : int
        F.
    """

    def __init__(self, groups: int, kinds: int, columns: int) -> None:
        self._shape = (groups, kinds)
        self._n = np.zeros(groups * kinds)
        self._x = np.zeros((groups * kinds, columns))
        self._y = np.zeros(groups * kinds)
        self._xx = np.zeros((groups * kinds, columns, columns))
        self._xy = np.zeros((groups * kinds, columns))

    def add(self, group: np.ndarray, kind: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Count rows in: ``group`` and ``kind`` ``[n]``, ``x`` ``[n, F]``, ``y`` ``[n]``; NaN: left out."""
        there = np.isfinite(y)
        place = (group * self._shape[1] + kind)[there]
        order = np.argsort(place, kind="stable")
        x, y = x[there][order].astype(np.float64), y[there][order].astype(np.float64)
        for part in np.split(np.arange(len(order)), np.flatnonzero(np.diff(place[order])) + 1):
            if len(part):
                at, xs, ys = place[order[part[0]]], x[part], y[part]
                self._n[at] += len(part)
                self._x[at] += xs.sum(axis=0)
                self._y[at] += ys.sum()
                self._xx[at] += xs.T @ xs
                self._xy[at] += xs.T @ ys

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values at x = 0 ``[groups, kinds]``, NaN without a row, and slopes ``[groups, kinds, F]``."""
        n = np.maximum(self._n, 1)
        x, y, f = self._x / n[:, None], self._y / n, self._x.shape[1]
        xx = (self._xx - n[:, None, None] * x[:, :, None] * x[:, None]).reshape(*self._shape, f, f)
        xy = (self._xy - n[:, None] * x * y[:, None]).reshape(*self._shape, f, 1)
        together = xx.sum(axis=0)
        spread = np.einsum("kff->kf", together)
        square = np.einsum("gkff->kf", self._xx.reshape(xx.shape))
        rows = np.maximum(self._n.reshape(self._shape).sum(axis=0), 1)[:, None]
        lean = _LEAN * np.where(spread > _STILL * square, spread / rows, square + 1.0)[:, :, None] * np.eye(f)
        common = np.linalg.solve(together + lean, xy.sum(axis=0))
        slopes = np.linalg.solve(xx + lean, xy + lean @ common)[..., 0]
        at_zero = np.where(self._n > 0, y - (x * slopes.reshape(-1, f)).sum(axis=1), np.nan)
        return at_zero.reshape(self._shape), slopes
