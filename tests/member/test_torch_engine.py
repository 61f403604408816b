"""Steps of the torch engine as CUDA graphs; all else is held by the contract."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.member.contract.problem import CPU, Problem, random_neighbours, random_samples


def a_problem() -> Problem:
    """Over one geometry: only such steps are captured."""
    rng = np.random.default_rng(2)
    return Problem(random_samples(rng, [random_neighbours(rng, 9, 18)]))


def steps(problem: Problem, engine: TorchEngine, device: torch.device) -> list[torch.Tensor]:
    """Losses, gradients and buffers of five steps over batches of two shapes, the stack shrunk in between."""
    parameters, buffers = (t.to(device) for t in problem.stack(engine, torch.float32))
    found = []
    for number, samples in enumerate((6, 6, 3, 6, 6)):
        if number == 3:
            parameters, buffers = parameters[1:].clone(), buffers[1:].clone()
        index = problem.index(samples, number)[: len(parameters)]
        gradients = torch.zeros_like(parameters)
        found.append(engine.step(parameters, gradients, buffers, index).clone())
        found += [gradients.clone(), buffers.clone()]
        parameters -= 0.01 * gradients
        engine.predict(parameters, buffers, np.arange(14))
    return [tensor.cpu() for tensor in found]


def test_without_cuda_steps_run_as_they_are_and_say_so() -> None:
    problem = a_problem()
    plain, captured = (
        TorchEngine(problem.sizes, problem.samples, CPU, together=True, capture=c) for c in (False, True)
    )
    expected = steps(problem, plain, CPU)
    with pytest.warns(UserWarning, match="steps run without a CUDA graph"):
        found = steps(problem, captured, CPU)
    assert all(map(torch.equal, found, expected))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_gives_what_the_step_gives() -> None:
    device = torch.device("cuda")
    problem = a_problem()
    plain, captured = (TorchEngine(problem.sizes, problem.samples, device, capture=c) for c in (False, True))
    expected = steps(problem, plain, device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = steps(problem, captured, device)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
