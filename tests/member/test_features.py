"""The distribution of features over the training set (the features: `tests/prediction/test_distance.py`)."""

from __future__ import annotations

import numpy as np
import pytest

from hydragnn_hpc.member.features import LEAST_SHRINKAGE, FeatureDistribution

ATOMS = np.array([5, 2, 9])


def test_distances_are_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4)) + 3
    found = FeatureDistribution.of(features, ATOMS)
    covariance = np.cov(features.T, ddof=0)
    centred = features - features.mean(axis=0)
    expected = np.sqrt(np.einsum("sf,fg,sg->s", centred, np.linalg.inv(covariance), centred))
    assert np.linalg.norm(found.whitened(features), axis=1) == pytest.approx(expected, rel=0.02)
    assert found.distances[[0, 500, -1]] == pytest.approx(np.quantile(expected, [0, 0.5, 1]), rel=0.02)
    assert found.quantile(found.distances[[0, 250, 1000]]) == pytest.approx([0.0, 0.25, 1.0])
    assert found.quantile(np.array([0.0, 1e9])).tolist() == [0.0, 1.0]
    assert found.atoms.tolist() == [2, 9]


def test_features_that_are_zero_or_depend_on_each_other_are_no_obstacle() -> None:
    """What was zero in the training set and no longer is lies far away."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=(3000, 1))
    found = FeatureDistribution.of(np.hstack([one, 2 * one, np.zeros((3000, 2))]).astype(np.float32), ATOMS)
    assert np.isfinite(found.whitening).all()
    usual, dead = np.array([[0.5, 1.0, 0, 0]]), np.array([[0.5, 1.0, 1.0, 0]])
    assert np.linalg.norm(found.whitened(usual)) < found.distances[-1] < np.linalg.norm(found.whitened(dead))
    for few in (np.zeros((1, 3)), rng.normal(size=(2, 3)), np.zeros((4, 3))):
        assert np.isfinite(FeatureDistribution.of(few, ATOMS).whitening).all()


def test_the_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    """Against its definition, sample by sample."""
    x = np.random.default_rng(2).normal(size=(30, 6)) * np.arange(1, 7)
    x -= x.mean(axis=0)
    covariance = x.T @ x / 30
    target = np.trace(covariance) / 6 * np.eye(6)
    noise = np.mean([((np.outer(row, row) - covariance) ** 2).sum() for row in x]) / 30
    share = max(LEAST_SHRINKAGE, min(1.0, noise / ((covariance - target) ** 2).sum()))
    assert 0.01 < share < 1
    shrunk = (1 - share) * covariance + share * target
    w = FeatureDistribution.of(x, ATOMS).whitening
    assert np.linalg.inv(w.T @ w) == pytest.approx(shrunk, rel=1e-9, abs=1e-9)
