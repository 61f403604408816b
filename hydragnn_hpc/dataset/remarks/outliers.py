"""Outliers: values so far from all others that min-max scaling leaves little of the range to the others."""

from __future__ import annotations

import numpy as np

_FEWEST = 20  # values; with fewer, a quantile says little
_FAR = 10.0  # times the distance between the first and the last decile; normally distributed values stay within 2
_STRETCH = 3.0  # the full range must be this many times the range of the others
_RARE = 0.02  # a larger share is a part of the distribution


def outlying(values: np.ndarray) -> np.ndarray:
    """Return which values ``[n]`` are outliers; NaN never is.

    Deciles, not moments, define the range of the others, since outliers would inflate moments and so hide themselves.
    """
    far = np.zeros(len(values), bool)
    known = np.isfinite(values)
    if np.count_nonzero(known) < _FEWEST:
        return far
    low, median, high = np.quantile(values[known], (0.1, 0.5, 0.9))
    if low == high:
        return far
    with np.errstate(invalid="ignore"):
        far = known & (np.abs(values - median) > _FAR * (high - low))
    rest = values[known & ~far]
    rare = 0 < np.count_nonzero(far) <= max(3, _RARE * np.count_nonzero(known))
    return far if rare and np.ptp(values[known]) > _STRETCH * np.ptp(rest) else np.zeros_like(far)


def outlying_rows(values: np.ndarray) -> np.ndarray:
    """Return which rows of ``[n, d]`` have an outlying component."""
    outliers: np.ndarray = np.any([outlying(values[:, d]) for d in range(values.shape[1])], axis=0)
    return outliers
