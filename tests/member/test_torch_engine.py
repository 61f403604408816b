"""Steps of the torch engine as CUDA graphs on a real device; `tests/gpu` has them on an emulated one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hydragnn_hpc.member.torch_engine.captured import CaptureError
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.member.contract.problem import CPU, Problem, random_neighbours, random_samples


def one_geometry() -> Problem:
    """Return a problem with a single geometry: only the steps of such problems are captured."""
    rng = np.random.default_rng(2)
    return Problem(random_samples(rng, [random_neighbours(rng, 9, 18)]))


def steps(problem: Problem, engine: TorchEngine, device: torch.device) -> list[torch.Tensor]:
    """Return losses, gradients and buffers of five steps on batches of two sizes; the stack shrinks in between."""
    parameters, buffers = (t.to(device) for t in problem.stack(engine, torch.float32))
    results = []
    for number, samples in enumerate((6, 6, 3, 6, 6)):
        if number == 3:
            parameters, buffers = parameters[1:].clone(), buffers[1:].clone()
        index = problem.index(samples, number)[: len(parameters)]
        gradients = torch.zeros_like(parameters)
        results.append(engine.step(parameters, gradients, buffers, index).clone())
        results += [gradients.clone(), buffers.clone()]
        parameters -= 0.01 * gradients
        engine.predict(parameters, buffers, np.arange(14))
    return [tensor.cpu() for tensor in results]


def test_without_cuda_no_step_is_captured() -> None:
    problem = one_geometry()
    with pytest.raises(CaptureError):
        steps(problem, TorchEngine(problem.sizes, problem.data, CPU, together=True, capture=True), CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_gives_the_same_results_as_plain_steps() -> None:
    device = torch.device("cuda")
    problem = one_geometry()
    plain, captured = (TorchEngine(problem.sizes, problem.data, device, capture=c) for c in (False, True))
    expected = steps(problem, plain, device)
    actual = steps(problem, captured, device)
    for result, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, reference)
