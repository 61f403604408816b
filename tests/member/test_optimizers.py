"""Every optimiser steps as torch's of the same name, with the same defaults."""

from __future__ import annotations

import pytest
import torch

from hydragnn_hpc.member.engine.optimize import Adam
from hydragnn_hpc.sections import OPTIMIZERS, Training


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.01, "weight_decay": 0.1}], ids=["defaults", "given"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs(name: str, settings: dict[str, float]) -> None:
    options = Training.model_validate({"optimizer": {"name": name, **settings}}).optimizer
    generator = torch.Generator().manual_seed(1)
    parameters = torch.randn(2, 50, generator=generator)
    expected = torch.nn.Parameter(parameters.clone())
    renamed = {{"learning_rate": "lr"}.get(key, key): value for key, value in settings.items()}
    torchs = getattr(torch.optim, name)([expected], **renamed)
    ours = Adam.fresh(options, parameters)
    for factors in ours.plan(20, torch.full((2,), options.learning_rate).numpy()):
        gradients = torch.randn(2, 50, generator=generator)
        expected.grad = gradients.clone()
        torchs.step()
        ours.step(parameters, gradients, factors)
    torch.testing.assert_close(parameters, expected.detach())
