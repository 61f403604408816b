"""Values so far from all others that scaling by minimum and maximum leaves the others no room."""

from __future__ import annotations

import numpy as np

_FEWEST = 20  # values; with fewer, a quantile says little
_FAR = 10.0  # times the distance between the first and the last decile; a normal distribution ends at 2
_LEFT = 3.0  # the full range must be this many times the range of the others
_RARE = 0.02  # more of them are a part of the distribution


def outlying(values: np.ndarray) -> np.ndarray:
    """Return which values ``[n]`` are so far from all others that a scale over all of them hides the others.

    NaN is never outlying. Deciles, not moments, define the range of the others, so that outliers cannot hide
    themselves.
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
    return far if rare and np.ptp(values[known]) > _LEFT * np.ptp(rest) else np.zeros_like(far)


def rows(values: np.ndarray) -> np.ndarray:
    """Return which rows of ``[n, d]`` have an outlying component."""
    found: np.ndarray = np.any([outlying(values[:, d]) for d in range(values.shape[1])], axis=0)
    return found
