"""Least squares within groups, whose slopes lean on those of the groups around where a group says little."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

_LEAN = 1.0  # weight of the common slopes: that of so many rows whose columns vary as they do on average
_DEGREE = 3  # of the polynomial, in where groups lie, that common slopes follow
_GROUPS = 2  # for each of its terms, at least: fewer say too little of it
_UNKNOWNS = 3000  # of the common fit, at most: a second of work
_STILL = 1e-10  # share of a column's square that is rounding: a column that varies less within groups does not vary


class Within:
    """Sums over rows of columns x and a target y by group and kind, from which the fit follows.

    Parameters
    ----------
    groups, kinds : int
        Slopes are fitted for each pair; what is common is common to a kind.
    columns : int
        F.
    places : numpy.ndarray
        ``[groups, D]``, where groups lie: common slopes are a polynomial in it, of a degree (3 at most) that the number
        of groups allows.
    """

    def __init__(self, groups: int, kinds: int, columns: int, places: np.ndarray) -> None:
        self._shape = (groups, kinds)
        self._terms = _terms(places, columns)
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
        spread = np.einsum("gkff->kf", xx)
        square = np.einsum("gkff->kf", self._xx.reshape(xx.shape))
        rows = np.maximum(self._n.reshape(self._shape).sum(axis=0), 1)[:, None]
        lean = _LEAN * np.where(spread > _STILL * square, spread / rows, square + 1.0)[:, :, None] * np.eye(f)
        common = np.stack([_common(self._terms, xx[:, k], xy[:, k], lean[k]) for k in range(self._shape[1])], axis=1)
        slopes = np.linalg.solve(xx + lean, xy + lean @ common)[..., 0]
        at_zero = np.where(self._n > 0, y - (x * slopes.reshape(-1, f)).sum(axis=1), np.nan)
        return at_zero.reshape(self._shape), slopes


def _terms(places: np.ndarray, columns: int) -> np.ndarray:
    """Return the polynomial's terms at every group, ``[groups, M]``."""
    groups, width = places.shape
    away, terms = places - places.mean(axis=0), [np.ones(groups)]
    for degree in range(1, _DEGREE + 1):
        of_degree = [away[:, list(which)].prod(axis=1) for which in combinations_with_replacement(range(width), degree)]
        number = len(terms) + len(of_degree)
        if number * _GROUPS > groups or number * columns > _UNKNOWNS:
            break
        terms += of_degree
    return np.stack(terms, axis=1)


def _common(terms: np.ndarray, xx: np.ndarray, xy: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Fit all groups' slopes as a polynomial; ``[groups, F, 1]``.

    Parameters
    ----------
    terms : numpy.ndarray
        ``[groups, M]``.
    xx, xy, lean : numpy.ndarray
        ``[groups, F, F]``, ``[groups, F, 1]`` and ``[F, F]``: products of a group's columns, with the target, and the
        weight of slopes that are zero.
    """
    groups, m = terms.shape
    f = xx.shape[-1]
    pairs = (terms[:, :, None] * terms[:, None]).reshape(groups, -1)
    square = (pairs.T @ xx.reshape(groups, -1)).reshape(m, m, f, f).transpose(0, 2, 1, 3).reshape(m * f, m * f)
    right = (terms.T @ xy.reshape(groups, -1)).reshape(m * f)
    fitted = np.linalg.solve(square + np.kron(np.eye(m), lean), right).reshape(m, f)
    slopes: np.ndarray = (terms @ fitted)[..., None]
    return slopes
