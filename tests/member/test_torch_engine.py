"""Steps of the torch engine as CUDA or XPU graphs: which devices have them; `tests/gpu` has them on an emulated one."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.member import choose
from hydragnn_hpc.member.engine.captured import CaptureError, steps_of, why_not_captured
from hydragnn_hpc.member.engine.optimize import new_optimizer
from hydragnn_hpc.member.engine.steps import EpochPlan, StackState
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.sections import AdamOptimizer
from tests import campaigns
from tests.member.contract.problem import CPU, TASKS, Problem, random_neighbours, random_samples


def one_geometry() -> Problem:
    """Return a problem with a single geometry: only the steps of such problems are captured."""
    rng = np.random.default_rng(2)
    return Problem(random_samples(rng, [random_neighbours(rng, 9, 18)]))


def trained(problem: Problem, engine: TorchEngine, device: torch.device) -> list[torch.Tensor]:
    """Return all that is computed in three epochs of a large and a small batch; the stack shrinks after the second."""
    parameters, buffers = (t.to(device) for t in problem.stack(engine, torch.float32))
    state = StackState.new(engine, parameters, buffers, new_optimizer(AdamOptimizer(name="Adam"), parameters))
    steps, results = steps_of(engine), []
    for number in range(3):
        if number == 2:
            kept = torch.arange(1, len(parameters), device=device)
            tensors = state.parameters[kept], state.buffers[kept]
            state = StackState.new(engine, *tensors, state.optimizer.select(kept))
        order = problem.index(9, number)[: len(state.parameters)]
        for _ in steps.run(state, EpochPlan.of(order, 6, state.optimizer, np.full(len(order), 1e-2))):
            results += [t.clone() for t in (state.losses, state.gradients, state.buffers)]
            engine.predict(state.parameters, state.buffers, np.arange(14))
    return [tensor.cpu() for tensor in results]


def test_on_a_cpu_no_step_is_captured() -> None:
    problem = one_geometry()
    with pytest.raises(CaptureError, match="has no cpu graphs"):
        trained(problem, TorchEngine(problem.sizes, problem.data, CPU, together=True, capture=True), CPU)


@pytest.mark.parametrize(("kind", "graph"), [("cuda", "CUDAGraph"), ("xpu", "XPUGraph")])
def test_torch_has_the_functions_that_capture_steps(kind: str, graph: str) -> None:
    module = torch.get_device_module(kind)
    assert not why_not_captured(torch.device(kind, 0))
    assert "pool" in inspect.signature(module.graph).parameters
    assert callable(getattr(module, graph).replay) and module.graph_pool_handle and module.empty_cache


def campaign(engine: str) -> Campaign:
    """Return a campaign with the tasks of `one_geometry` that asks for this engine."""
    tasks = {t.name: {"level": t.level, "field": t.name} for t in TASKS}
    training = {**campaigns.SMALL["training"], "engine": engine}
    return parse_campaign({**campaigns.SMALL, "tasks": tasks, "variants": ["HCV"], "training": training}, "")


def test_the_reason_for_an_engine_that_was_asked_for_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "general_engine", lambda *_, **__: SimpleNamespace(name="torch"))
    asked = campaign("torch")
    _, reason = choose.choose(asked, asked.variants[0], one_geometry().data, torch.device("cuda", 0))
    assert reason == "torch: training.engine=torch"


def test_a_torch_without_xpu_graphs_trains_without_them_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    xpu = torch.device("xpu", 0)
    assert not why_not_captured(xpu) and not why_not_captured(torch.device("cuda", 0))
    monkeypatch.delattr(torch.xpu, "XPUGraph")
    assert why_not_captured(xpu) == f"torch {torch.__version__} has no xpu graphs"
    monkeypatch.setattr(choose, "why_no_kernels", lambda *_: "")
    monkeypatch.setattr(choose, "general_engine", lambda *_, **__: SimpleNamespace(name="triton"))
    asked = campaign("auto")
    _, reason = choose.choose(asked, asked.variants[0], one_geometry().data, xpu)
    assert reason.endswith(f"work on it; steps are not captured: torch {torch.__version__} has no xpu graphs")
    monkeypatch.undo()
    monkeypatch.delattr(torch.xpu, "XPUGraph")
    monkeypatch.setattr(choose, "TorchEngine", lambda *_, capture: SimpleNamespace(capture=capture))
    problem = one_geometry()
    made = [choose.general_engine(asked.model, problem.sizes, problem.data, torch.device(d)) for d in ("xpu", "cuda")]
    assert [engine.capture for engine in made] == [False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
def test_a_graph_gives_the_same_results_as_plain_steps() -> None:
    device = torch.accelerator.current_accelerator()
    assert device is not None
    problem = one_geometry()
    plain, captured = (TorchEngine(problem.sizes, problem.data, device, capture=c) for c in (False, True))
    expected = trained(problem, plain, device)
    actual = trained(problem, captured, device)
    for result, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, reference)
