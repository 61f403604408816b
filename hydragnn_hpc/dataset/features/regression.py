"""Least squares within groups, whose slopes are shrunk towards those of neighbouring groups where data are few."""

from __future__ import annotations

import numpy as np

_SHRINKAGE = 1.0  # weight of the common slopes: that of this many rows whose columns vary as they do on average
_FOLDS = 4  # of the cross-validation that chooses the strength of shrinkage
_ROWS = 3  # per unknown of a common fit, at least; otherwise more groups are included
_GROUPS = 2  # per unknown of a slope, at least: fewer say too little about how it changes
_UNKNOWNS = 600  # of one group's common fit, at most: a hundredth of a second of work
_FAR = 4.0  # widths: beyond this distance, a group weighs less than a thousandth
_CONSTANT = 1e-10  # of a column's mean square: a smaller variance within groups is rounding error
_DIGITS = 4  # rows whose sum over columns agrees to this many are alike, and kept in one fold


class GroupedRegression:
    """Sums over rows of columns x and a target y by group and kind, from which the fit follows.

    Parameters
    ----------
    groups, kinds : int
        Slopes are fitted for each pair; common slopes are those of a kind.
    columns : int
        F.
    positions : numpy.ndarray
        ``[groups, D]``, position of each group: slopes are shrunk towards those of nearby groups.
    shrinkage : numpy.ndarray, optional
        ``[C, F]``, candidates: how strongly each column's slopes are shrunk towards the common ones, and the common
        ones towards zero. Cross-validation chooses the one that predicts left-out rows best. Rows that are alike are
        left out together: otherwise rows that occur many times would favour a fit that overfits them.
    """

    def __init__(
        self, groups: int, kinds: int, columns: int, positions: np.ndarray, shrinkage: np.ndarray | None = None
    ) -> None:
        self._shrinkage = np.ones((1, columns)) if shrinkage is None else shrinkage
        self._shape = (groups, kinds)
        self._positions = positions
        # Products of 1, the columns and the target with one another, by fold.
        folds = _FOLDS if len(self._shrinkage) > 1 else 1
        self._sums = np.zeros((folds, groups * kinds, columns + 2, columns + 2))
        self._direction = np.random.default_rng(0).normal(size=columns)

    def add(self, group: np.ndarray, kind: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows: ``group`` and ``kind`` ``[n]``, ``x`` ``[n, F]``, ``y`` ``[n]``; rows with NaN in y are skipped."""
        known = np.isfinite(y)
        rows = np.column_stack([np.ones(known.sum()), x[known], y[known]]).astype(np.float64)
        index = (self._fold(rows[:, 1:-1]) * self._shape[0] + group[known]) * self._shape[1] + kind[known]
        order = np.argsort(index, kind="stable")
        flat = self._sums.reshape(-1, *self._sums.shape[2:])
        for some in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
            if len(some):
                flat[index[some[0]]] += rows[some].T @ rows[some]

    def _fold(self, x: np.ndarray) -> np.ndarray:
        """Return each row's fold, the same for rows that differ only by rounding errors of summation."""
        mantissa, exponent = np.frexp(x @ self._direction)
        number = np.round(mantissa * 10**_DIGITS).astype(np.int64) * 1009 + exponent
        scrambled: np.ndarray = (number * 2654435761 >> 16) % len(self._sums)  # Knuth's multiplicative hash
        return scrambled

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values at x = 0 ``[groups, kinds]``, NaN without a row, and slopes ``[groups, kinds, F]``."""
        whole = self._sums.sum(axis=0)
        best = self._shrinkage[0]
        if len(self._shrinkage) > 1:
            best = min(self._shrinkage, key=lambda s: sum(self._squared_error(whole, fold, s) for fold in self._sums))
        return self._fit(whole, best)

    def _squared_error(self, whole: np.ndarray, fold: np.ndarray, shrinkage: np.ndarray) -> float:
        """Return the squared residuals of one ``fold``, predicted from the others, in groups that have other rows."""
        at_zero, slopes = self._fit(whole - fold, shrinkage)
        known = np.isfinite(at_zero).ravel()
        residual = np.column_stack([-at_zero.ravel(), -slopes.reshape(known.size, -1), np.ones(known.size)])[known]
        return float(np.einsum("gi,gij,gj->", residual, fold[known], residual))

    def _fit(self, sums: np.ndarray, shrinkage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, f = sums[:, 0, 0], sums.shape[-1] - 2
        n = np.maximum(number, 1)
        mean = sums[:, 0] / n[:, None]
        about = (sums - n[:, None, None] * mean[:, :, None] * mean[:, None]).reshape(*self._shape, f + 2, f + 2)
        xx, xy = about[..., 1:-1, 1:-1], about[..., 1:-1, -1:]
        variance = np.einsum("gkff->kf", xx)
        square = np.einsum("gkff->kf", sums.reshape(about.shape)[..., 1:-1, 1:-1])
        of_group = number.reshape(self._shape)
        rows = np.maximum(of_group.sum(axis=0), 1)[:, None]
        weight = _SHRINKAGE * shrinkage * np.where(variance > _CONSTANT * square, variance / rows, square + 1.0)
        penalty = weight[:, :, None] * np.eye(f)
        common = np.stack(
            [_common(self._positions, of_group[:, k], xx[:, k], xy[:, k], penalty[k]) for k in range(self._shape[1])],
            axis=1,
        )
        slopes = np.linalg.solve(xx + penalty, xy + penalty @ common)[..., 0]
        at_zero = mean[:, -1] - (mean[:, 1:-1] * slopes.reshape(-1, f)).sum(axis=1)
        return np.where(number > 0, at_zero, np.nan).reshape(self._shape), slopes


def _common(positions: np.ndarray, n: np.ndarray, xx: np.ndarray, xy: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Fit each group's slopes to those of the groups nearby, linear in their positions; ``[groups, F, 1]``.

    Local linear regression (Cleveland & Devlin, J. Am. Stat. Assoc. 83, 596 (1988)): slopes may change quickly at one
    end of the range, which no polynomial of low degree follows. Weights are Gaussian in the distance. Their width is
    the distance to the third nearest group in one dimension, to one further group for each further dimension, or as
    large as it must be to include enough rows.

    Parameters
    ----------
    positions : numpy.ndarray
        ``[groups, D]``.
    n : numpy.ndarray
        ``[groups]``, rows of each.
    xx, xy, penalty : numpy.ndarray
        ``[groups, F, F]``, ``[groups, F, 1]`` and ``[F, F]``: products of a group's columns, with the target, and the
        weight of zero slopes.
    """
    groups, width = positions.shape
    f = xx.shape[-1]
    linear = groups >= _GROUPS * (width + 1) and f * (width + 1) <= _UNKNOWNS
    m = 1 + width if linear else 1
    common = np.empty_like(xy)
    for g in range(groups):
        away = positions - positions[g]
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
        fitted = np.linalg.solve(square.reshape(m * f, m * f) + np.kron(np.eye(m), penalty), right.reshape(m * f))
        common[g, :, 0] = fitted[:f]
    return common
