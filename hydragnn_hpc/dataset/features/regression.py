"""Least squares within groups, whose slopes lean on those of the groups around where a group says little."""

from __future__ import annotations

import numpy as np

_LEAN = 1.0  # weight of the common slopes: that of so many rows whose columns vary as they do on average
_FOLDS = 4  # parts of the rows, each of which is predicted from the others to choose how much slopes lean
_ROWS = 3  # for each unknown of a common fit, at least, or more groups are taken in
_GROUPS = 2  # for each unknown of a slope, at least: fewer say too little of how it changes
_UNKNOWNS = 600  # of one group's common fit, at most: a hundredth of a second of work
_FAR = 4.0  # widths: what is farther weighs less than a thousandth
_STILL = 1e-10  # share of a column's square that is rounding: a column that varies less within groups does not vary
_DIGITS = 4  # rows that agree to so many, in a sum of their columns, are alike: kept in one part


class Within:
    """Sums over rows of columns x and a target y by group and kind, from which the fit follows.

    Parameters
    ----------
    groups, kinds : int
        Slopes are fitted for each pair; what is common is common to a kind.
    columns : int
        F.
    places : numpy.ndarray
        ``[groups, D]``, where groups lie: slopes lean on those of the groups around.
    leanings : numpy.ndarray, optional
        ``[C, F]``, candidates: how much the slopes by a column lean on the common ones, and those on zero. The one is
        taken that predicts left-out rows best. Rows that are alike are left out together: else those that are there
        many times would speak for a fit that knows them by heart.
    """

    def __init__(
        self, groups: int, kinds: int, columns: int, places: np.ndarray, leanings: np.ndarray | None = None
    ) -> None:
        self._leanings = np.ones((1, columns)) if leanings is None else leanings
        self._shape = (groups, kinds)
        self._places = places
        # Products of 1, the columns and the target with one another, by part.
        parts = _FOLDS if len(self._leanings) > 1 else 1
        self._sums = np.zeros((parts, groups * kinds, columns + 2, columns + 2))
        self._direction = np.random.default_rng(0).normal(size=columns)

    def add(self, group: np.ndarray, kind: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Count rows in: ``group`` and ``kind`` ``[n]``, ``x`` ``[n, F]``, ``y`` ``[n]``; NaN: left out."""
        there = np.isfinite(y)
        rows = np.column_stack([np.ones(there.sum()), x[there], y[there]]).astype(np.float64)
        place = (self._part(rows[:, 1:-1]) * self._shape[0] + group[there]) * self._shape[1] + kind[there]
        order = np.argsort(place, kind="stable")
        flat = self._sums.reshape(-1, *self._sums.shape[2:])
        for some in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
            if len(some):
                flat[place[some[0]]] += rows[some].T @ rows[some]

    def _part(self, x: np.ndarray) -> np.ndarray:
        """Return each row's part, the same for rows that are alike: equal but for the order of the sums in them."""
        mantissa, exponent = np.frexp(x @ self._direction)
        number = np.round(mantissa * 10**_DIGITS).astype(np.int64) * 1009 + exponent
        scrambled: np.ndarray = (number * 2654435761 >> 16) % len(self._sums)  # Knuth's multiplicative hash
        return scrambled

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values at x = 0 ``[groups, kinds]``, NaN without a row, and slopes ``[groups, kinds, F]``."""
        whole = self._sums.sum(axis=0)
        best = self._leanings[0]
        if len(self._leanings) > 1:
            best = min(self._leanings, key=lambda leaning: sum(self._left(whole, out, leaning) for out in self._sums))
        return self._fit(whole, best)

    def _left(self, whole: np.ndarray, out: np.ndarray, leaning: np.ndarray) -> float:
        """Return the squares that a fit to the other rows leaves of those left ``out``, in groups that have others."""
        at_zero, slopes = self._fit(whole - out, leaning)
        known = np.isfinite(at_zero).ravel()
        taken = np.column_stack([-at_zero.ravel(), -slopes.reshape(known.size, -1), np.ones(known.size)])[known]
        return float(np.einsum("gi,gij,gj->", taken, out[known], taken))

    def _fit(self, sums: np.ndarray, leaning: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, f = sums[:, 0, 0], sums.shape[-1] - 2
        n = np.maximum(number, 1)
        mean = sums[:, 0] / n[:, None]
        about = (sums - n[:, None, None] * mean[:, :, None] * mean[:, None]).reshape(*self._shape, f + 2, f + 2)
        xx, xy = about[..., 1:-1, 1:-1], about[..., 1:-1, -1:]
        spread = np.einsum("gkff->kf", xx)
        square = np.einsum("gkff->kf", sums.reshape(about.shape)[..., 1:-1, 1:-1])
        of_group = number.reshape(self._shape)
        rows = np.maximum(of_group.sum(axis=0), 1)[:, None]
        weight = _LEAN * leaning * np.where(spread > _STILL * square, spread / rows, square + 1.0)
        lean = weight[:, :, None] * np.eye(f)
        common = np.stack(
            [_common(self._places, of_group[:, k], xx[:, k], xy[:, k], lean[k]) for k in range(self._shape[1])], axis=1
        )
        slopes = np.linalg.solve(xx + lean, xy + lean @ common)[..., 0]
        at_zero = mean[:, -1] - (mean[:, 1:-1] * slopes.reshape(-1, f)).sum(axis=1)
        return np.where(number > 0, at_zero, np.nan).reshape(self._shape), slopes


def _common(places: np.ndarray, n: np.ndarray, xx: np.ndarray, xy: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Fit each group's slopes to those of the groups around, linear in where they lie; ``[groups, F, 1]``.

    Local linear regression (Cleveland & Devlin, J. Am. Stat. Assoc. 83, 596 (1988)): slopes may change quickly at one
    end of the range, which no polynomial of low degree follows. Weights are Gaussian in the distance, as wide as the
    distance to the third nearest group along a line, one more for each dimension more, or to where rows are enough.

    Parameters
    ----------
    places : numpy.ndarray
        ``[groups, D]``.
    n : numpy.ndarray
        ``[groups]``, rows of each.
    xx, xy, lean : numpy.ndarray
        ``[groups, F, F]``, ``[groups, F, 1]`` and ``[F, F]``: products of a group's columns, with the target, and the
        weight of slopes that are zero.
    """
    groups, width = places.shape
    f = xx.shape[-1]
    linear = groups >= _GROUPS * (width + 1) and f * (width + 1) <= _UNKNOWNS
    m = 1 + width if linear else 1
    common = np.empty_like(xy)
    for g in range(groups):
        away = places - places[g]
        distance = np.linalg.norm(away, axis=1)
        order = np.argsort(distance, kind="stable")
        enough = int(np.searchsorted(np.cumsum(n[order]), _ROWS * m * f))
        near = distance[order[min(max(width + 2, enough), groups - 1)]] or 1.0
        around = np.flatnonzero(distance < _FAR * near)
        weight = np.exp(-((distance[around] / near) ** 2) / 2)
        terms = np.concatenate([np.ones((len(around), 1)), away[around] / near], axis=1)[:, :m]
        pairs = (weight[:, None, None] * terms[:, :, None] * terms[:, None]).reshape(-1, m * m)
        square = (pairs.T @ xx[around].reshape(-1, f * f)).reshape(m, m, f, f).transpose(0, 2, 1, 3)
        right = (weight[:, None] * terms).T @ xy[around, :, 0]
        fitted = np.linalg.solve(square.reshape(m * f, m * f) + np.kron(np.eye(m), lean), right.reshape(m * f))
        common[g, :, 0] = fitted[:f]
    return common
