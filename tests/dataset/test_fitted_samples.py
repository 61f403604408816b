"""With ``training.fitted_to: samples``, inputs, scaling and references are fitted to the samples trained on alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.staged import copies, requirements
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.training_data import from_staged, with_reference
from tests import campaigns

FEW = 80
"""Samples trained on, fewer than the training set has."""


def with_inputs(reference: str = "none", **training: Any) -> Campaign:
    """A campaign of H and M with shells as inputs, and with a ``reference`` for H."""
    tasks = {
        "H": {"level": "graph", "field": "mixing_enthalpy", "reference": reference},
        "M": {"level": "node", "field": "magnetic_moment"},
    }
    content = {**campaigns.SMALL, "tasks": tasks, "inputs": ["species", {"name": "shells", "number": 2}]}
    return parse_campaign({**content, "variants": ["HM"], "training": {"batch_size": 16, **training}}, "c.yaml")


def without_inputs(**training: Any) -> Campaign:
    """The campaign without inputs or references: a plain copy is all that it requires."""
    content = {**campaigns.SMALL, "variants": ["HM"], "training": {"batch_size": 16, **training}}
    return parse_campaign(content, "c.yaml")


@pytest.fixture(scope="module")
def plain(small_bp: Path, tmp_path_factory: pytest.TempPathFactory) -> copies.StagedData:
    """A copy of the small data set."""
    folder = tmp_path_factory.mktemp("plain")
    copies.copy(small_bp, folder)
    return copies.open_staged(folder)


@pytest.mark.parametrize("reference", ["none", "composition", "species", "linear"])
def test_samples_that_are_not_trained_on_change_nothing(
    plain: copies.StagedData, tmp_path: Path, reference: str
) -> None:
    campaign = with_inputs(reference, samples=FEW, fitted_to="samples")
    wanted = requirements.of(campaign)
    trained = from_staged(plain, without_inputs(samples=FEW)).split.train
    assert len(trained) == FEW
    shifted = dict(plain.arrays)
    others = np.setdiff1d(np.arange(len(shifted["split"])), trained)
    shifted["scaled_mixing_enthalpy"] = np.array(shifted["scaled_mixing_enthalpy"])
    shifted["scaled_mixing_enthalpy"][others] += 7.0
    recipes = []
    for name, arrays in (("as is", plain.arrays), ("shifted", shifted)):
        (tmp_path / name).mkdir()
        requirements.write(tmp_path / name, arrays, plain.manifest, wanted)
        recipes.append(requirements.read(tmp_path / name))
    assert recipes[0] == recipes[1]


@pytest.mark.parametrize("reference", ["none", "composition", "linear"])
def test_targets_and_inputs_are_scaled_by_the_samples_trained_on(
    small_bp: Path, tmp_path: Path, reference: str
) -> None:
    few, all_samples = (with_inputs(reference, samples=FEW, fitted_to=to) for to in ("samples", "all"))
    copies.copy(small_bp, tmp_path, [requirements.of(few), requirements.of(all_samples)])
    staged = copies.open_staged(tmp_path)
    data, fitted_to_all = from_staged(staged, few), from_staged(staged, all_samples)
    np.testing.assert_array_equal(data.split.train, fitted_to_all.split.train)
    atoms = copies.atoms_of(data.graphs.atom_offsets, data.split.train)
    means, means_of_all = (d.inputs[atoms, 1:].mean(axis=0) for d in (data, fitted_to_all))
    assert np.abs(means).max() < 1e-5 < np.abs(means_of_all).max()
    moments = data.targets["M"][atoms]
    assert moments.min() == 0 and moments.max() == pytest.approx(1) and data.targets["M"].max() > 1
    values = data.targets["H"][data.split.train]
    if reference == "none":
        assert values.min() == 0 and values.max() == pytest.approx(1)
    else:
        assert np.sqrt((values**2).mean()) == pytest.approx(1, rel=1e-4)
    every = np.arange(len(data.graphs.sample_geometry))
    for task in ("H", "M"):  # restored, so that errors are of the same values
        rows = every if task == "H" else slice(None)
        restored = with_reference(data, task, every, data.targets[task][rows])
        expected = with_reference(fitted_to_all, task, every, fitted_to_all.targets[task][rows])
        np.testing.assert_allclose(restored, expected, atol=2e-6)


def test_only_a_value_other_than_the_default_changes_the_hash() -> None:
    assert config_hash(with_inputs(), "d") == config_hash(with_inputs(fitted_to="all"), "d")
    assert config_hash(with_inputs(), "d") != config_hash(with_inputs(fitted_to="samples"), "d")


def test_resampling_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.fitted_to=samples: replicas that resample"):
        with_inputs(fitted_to="samples", resample="bootstrap")
