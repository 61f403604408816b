"""Steps of the torch engine as CUDA or XPU graphs: which devices have them; `tests/gpu` has them on an emulated one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.member import choose
from hydragnn_hpc.member.torch_engine.captured import CapturedSteps, CaptureError, why_not_captured
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests import campaigns
from tests.member.contract.problem import CPU, TASKS, Problem, random_neighbours, random_samples


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


def test_on_a_cpu_no_step_is_captured() -> None:
    problem = one_geometry()
    with pytest.raises(CaptureError, match="has no cpu graphs"):
        steps(problem, TorchEngine(problem.sizes, problem.data, CPU, together=True, capture=True), CPU)


class OnXpu(torch.Tensor):
    """A tensor of the CPU that says that it is on an XPU."""

    device = torch.device("xpu", 0)


class Recorder:
    """Stands in for ``torch.xpu.XPUGraph``, and for ``torch.xpu.graph``: repeats the steps taken while it captured."""

    now: Recorder | None = None

    def __init__(self) -> None:
        self.steps: list[Callable[[], object]] = []

    def replay(self) -> None:
        for step in self.steps:
            step()

    @staticmethod
    @contextmanager
    def capture(graph: Recorder, pool: object) -> Iterator[None]:
        assert pool == "pool of the XPU"
        Recorder.now = graph
        yield
        Recorder.now = None


def test_on_an_xpu_steps_are_captured_by_its_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied, losses = [], torch.zeros(2, 1)
    stand_ins = {
        "XPUGraph": Recorder, "graph": Recorder.capture, "graph_pool_handle": lambda: "pool of the XPU",
        "empty_cache": lambda: emptied.append(1),
    }  # fmt: skip
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.xpu, name, stand_in)
        monkeypatch.delattr(torch.cuda, name.replace("XPU", "CUDA"))

    def step(parameters, gradients, buffers, numbers):
        if Recorder.now:
            Recorder.now.steps.append(lambda: step(parameters, gradients, buffers, numbers))
        gradients.copy_(parameters * numbers.sum())
        return losses.copy_(gradients)

    captured = CapturedSteps(lambda members, samples: step)
    parameters, gradients, buffers = (torch.ones(2, 1).as_subclass(OnXpu) for _ in range(3))
    for last in (3, 5):
        captured.step(parameters, gradients, buffers, torch.tensor([1, last]), (2, 1))
        assert losses.tolist() == [[1.0 + last]] * 2
    captured.step(parameters[:1], gradients[:1], buffers[:1], torch.tensor([1]), (1, 1))
    assert emptied == [1], "the pool's memory is kept when the stack shrinks"


def test_a_torch_without_xpu_graphs_trains_without_them_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    xpu = torch.device("xpu", 0)
    assert not why_not_captured(xpu) and not why_not_captured(torch.device("cuda", 0))
    monkeypatch.delattr(torch.xpu, "XPUGraph")
    assert why_not_captured(xpu) == f"torch {torch.__version__} has no xpu graphs"
    monkeypatch.setattr(choose, "why_no_kernels", lambda *_: "")
    monkeypatch.setattr(choose, "general_engine", lambda *_, **__: SimpleNamespace(name="triton"))
    tasks = {t.name: {"level": t.level, "field": t.name} for t in TASKS}
    campaign = parse_campaign({**campaigns.SMALL, "tasks": tasks, "variants": ["HCV"]}, "")
    _, reason = choose.choose(campaign, campaign.variants[0], one_geometry().data, xpu)
    assert reason.endswith(f"work on it; steps are not captured: torch {torch.__version__} has no xpu graphs")
    monkeypatch.undo()
    monkeypatch.delattr(torch.xpu, "XPUGraph")
    monkeypatch.setattr(choose, "TorchEngine", lambda *_, capture: SimpleNamespace(capture=capture))
    problem = one_geometry()
    made = [
        choose.general_engine(campaign.model, problem.sizes, problem.data, torch.device(d)) for d in ("xpu", "cuda")
    ]
    assert [engine.capture for engine in made] == [False, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
def test_a_graph_gives_the_same_results_as_plain_steps() -> None:
    device = torch.accelerator.current_accelerator()
    assert device is not None
    problem = one_geometry()
    plain, captured = (TorchEngine(problem.sizes, problem.data, device, capture=c) for c in (False, True))
    expected = steps(problem, plain, device)
    actual = steps(problem, captured, device)
    for result, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, reference)
