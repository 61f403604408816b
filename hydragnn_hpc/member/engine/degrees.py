"""PNA's scalers: factors of an atom's aggregates that depend on its number of neighbours."""

from __future__ import annotations

import numpy as np

from hydragnn_hpc.member.engine.sizes import Array


def degree_scales(degree: Array, average_degree: tuple[float, float]) -> Array:
    """Return the `SCALERS` of each degree (Corso et al. 2020, eq. 5): identity, amplification, attenuation, linear.

    All are zero at degree 0: an atom without neighbours has no message, so that its aggregates are zero.

    Parameters
    ----------
    degree : int array [n]
    average_degree : (float, float)
        The mean degree and the mean of log(degree + 1).

    Returns
    -------
    float64 array [n, 4]
    """
    linear, logarithmic = average_degree
    log = np.log(np.maximum(degree, 1) + 1.0)
    scales = np.stack([np.ones_like(log), log / logarithmic, logarithmic / log, degree / linear], axis=1)
    scales[degree == 0] = 0.0
    return scales
