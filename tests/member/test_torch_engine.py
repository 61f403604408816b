"""The torch engine against PyTorch Geometric's own layers, in float64."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from graphs_for_tests import Reference, make_samples

from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import Samples
from hydragnn_hpc.member.torch_engine import engine as torch_engine
from hydragnn_hpc.member.torch_engine.engine import TorchEngine

TASKS = {"H": ("graph", 1), "C": ("node", 1), "V": ("node", 3)}
CPU = torch.device("cpu")


def network(samples: Samples, pooling: str = "mean", layers: int = 3) -> NetworkSizes:
    """A small network over the samples' tasks, with loss weights that differ."""
    tasks = tuple(
        TaskSizes(name, level, width, (7, 5), 1.0 + k) for k, (name, (level, width)) in enumerate(TASKS.items())
    )
    return NetworkSizes(1, (6,) * layers, tasks, samples.average_degree(), pooling)


def stack(sizes: NetworkSizes, members: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial parameters and buffers of a stack, float64."""
    layout = ParameterLayout.of(sizes)
    parameters = torch.stack([layout.initial_parameters(seed + e) for e in range(members)]).double()
    return parameters, torch.stack([layout.initial_buffers()] * members).double()


def reference_step(sizes, samples, parameters, index):
    """Losses [T], gradients by name, and the model, from the library's layers."""
    layout = ParameterLayout.of(sizes)
    model = Reference(sizes, layout, parameters)
    predicted = model(samples, index)
    found = []
    for task in sizes.tasks:
        rows = atoms_of(samples.structure.atom_offsets, index) if task.level == "node" else index
        found.append((predicted[task.name] - torch.from_numpy(samples.targets[task.name][rows])).square().mean())
    sum(t.weight * f for t, f in zip(sizes.tasks, found, strict=True)).backward()
    return torch.stack(found).detach(), gradients_by_name(model, sizes), model


def gradients_by_name(model: Reference, sizes: NetworkSizes) -> dict[str, torch.Tensor]:
    """The model's gradients under the layout's names."""
    named = {}
    for layer in range(len(sizes.channels)):
        for name, p in model.convolutions[layer].named_parameters():
            named[f"trunk.{layer}.conv.{name}"] = p.grad
        for name, p in model.norms[layer].named_parameters():
            named[f"trunk.{layer}.norm.{name}"] = p.grad
    for task in sizes.tasks:
        for k in range(len(task.hidden) + 1):
            named[f"heads.{task.name}.{k}.weight"] = model.heads[task.name][2 * k].weight.grad
            named[f"heads.{task.name}.{k}.bias"] = model.heads[task.name][2 * k].bias.grad
    return named


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@pytest.mark.parametrize("graph_sizes", [[9], [1, 4, 12], [5, 5, 5]], ids=["shared", "varying", "same size"])
def test_losses_gradients_and_statistics_are_the_librarys(graph_sizes: list[int], pooling: str) -> None:
    rng = np.random.default_rng(len(graph_sizes))
    samples = make_samples(rng, graph_sizes, 14, TASKS)
    sizes = network(samples, pooling)
    engine = TorchEngine(sizes, samples, CPU, torch.float64)
    parameters, buffers = stack(sizes, 3)
    index = np.stack([rng.permutation(14)[:6] for _ in range(3)])
    gradients = torch.full_like(parameters, 7.0)
    found = engine.step(parameters, gradients, buffers, index)
    for e in range(3):
        losses, expected, model = reference_step(sizes, samples, parameters[e], index[e])
        torch.testing.assert_close(found[e], losses, rtol=1e-12, atol=1e-12)
        views = engine.layout.named(gradients[e])
        for name, gradient in expected.items():
            torch.testing.assert_close(views[name], gradient, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
        statistics = engine.layout.named_buffers(buffers[e])
        for layer, norm in enumerate(model.norms):
            torch.testing.assert_close(statistics[f"trunk.{layer}.norm.running_mean"], norm.running_mean)
            torch.testing.assert_close(statistics[f"trunk.{layer}.norm.running_var"], norm.running_var)
    used = sum(v.numel() for v in engine.layout.named(gradients[0]).values())
    assert not gradients[:, used:].any(), "the padding has gradients"


@pytest.mark.parametrize("at_once", [4096, 40], ids=["at once", "in pieces"])
@pytest.mark.parametrize("graph_sizes", [[9], [1, 4, 12]], ids=["shared", "varying"])
def test_predictions_are_the_librarys(graph_sizes: list[int], at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_engine.PREDICTED_AT_ONCE, "cpu", at_once)
    rng = np.random.default_rng(3)
    samples = make_samples(rng, graph_sizes, 14, TASKS)
    sizes = network(samples)
    engine = TorchEngine(sizes, samples, CPU, torch.float64)
    parameters, buffers = stack(sizes, 2)
    gradients = torch.empty_like(parameters)
    engine.step(parameters, gradients, buffers, np.stack([rng.permutation(14)[:8] for _ in range(2)]))
    index = np.arange(14)
    predicted = engine.predict(parameters, buffers, index)
    for e in range(2):
        model = Reference(sizes, engine.layout, parameters[e]).eval()
        for layer, norm in enumerate(model.norms):
            views = engine.layout.named_buffers(buffers[e])
            norm.running_mean.copy_(views[f"trunk.{layer}.norm.running_mean"])
            norm.running_var.copy_(views[f"trunk.{layer}.norm.running_var"])
        for name, expected in model(samples, index).items():
            torch.testing.assert_close(predicted[name][e], expected.detach(), rtol=1e-12, atol=1e-12)


def alone_and_together(graph_sizes: list[int]):
    """Yield (loss, gradients, statistics) of each of 12 members, alone and in the stack, float32."""
    rng = np.random.default_rng(5)
    samples = make_samples(rng, graph_sizes, 60, TASKS)
    sizes = network(samples)
    engine = TorchEngine(sizes, samples, CPU)
    parameters, buffers = (t.float() for t in stack(sizes, 12))
    index = np.stack([rng.permutation(60)[:40] for _ in range(12)])
    together, statistics = torch.empty_like(parameters), buffers.clone()
    losses = engine.step(parameters, together, statistics, index)
    for e in range(12):
        one = slice(e, e + 1)
        alone, own = torch.empty_like(parameters[one]), buffers[one].clone()
        loss = engine.step(parameters[one], alone, own, index[one])
        yield (loss[0], alone[0], own[0]), (losses[e], together[e], statistics[e])


@pytest.mark.parametrize("graph_sizes", [[16], [9, 9, 9]], ids=["shared", "same size"])
def test_a_member_alone_and_in_a_stack_is_the_same_bit_for_bit(graph_sizes: list[int]) -> None:
    for alone, stacked in alone_and_together(graph_sizes):
        assert all(torch.equal(a, b) for a, b in zip(alone, stacked, strict=True))


def test_where_samples_differ_in_size_a_stack_changes_the_last_bits_only() -> None:
    """Members are padded to the longest of the stack, and the length of a sum decides the order of its terms."""
    for alone, stacked in alone_and_together([1, 4, 16]):
        for a, b in zip(alone, stacked, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_missing_targets_do_not_count() -> None:
    rng = np.random.default_rng(6)
    samples = make_samples(rng, [4, 7], 12, TASKS)
    sizes = network(samples)
    parameters, buffers = stack(sizes, 1)
    index = np.arange(12)[None]
    hidden = {name: values.copy() for name, values in samples.targets.items()}
    for values in hidden.values():
        values[rng.random(values.shape) < 0.3] = np.nan
    spoiled = Samples(samples.structure, samples.inputs, hidden, samples.levels, samples.parts)
    found = TorchEngine(sizes, spoiled, CPU, torch.float64).step(
        parameters, torch.empty_like(parameters), buffers.clone(), index
    )
    model = Reference(sizes, ParameterLayout.of(sizes), parameters[0])
    predicted = model(samples, index[0])
    for t, task in enumerate(sizes.tasks):
        squared = (predicted[task.name].detach().numpy() - hidden[task.name]) ** 2
        assert found[0, t].item() == pytest.approx(np.nanmean(squared), rel=1e-12)


def steps(engine: TorchEngine, members: int, device: torch.device) -> list[torch.Tensor]:
    """Losses, gradients and buffers of five steps over batches of two shapes, the stack shrunk in between."""
    parameters, buffers = (t.float().to(device) for t in stack(engine.sizes, members))
    found = []
    for number, samples in enumerate((6, 6, 3, 6, 6)):
        if number == 3:
            parameters, buffers = parameters[1:].clone(), buffers[1:].clone()
        rng = np.random.default_rng(number)
        index = np.stack([rng.permutation(14)[:samples] for _ in range(len(parameters))])
        gradients = torch.zeros_like(parameters)
        found.append(engine.step(parameters, gradients, buffers, index).clone())
        found += [gradients.clone(), buffers.clone()]
        parameters -= 0.01 * gradients
        engine.predict(parameters, buffers, np.arange(14))
    return [tensor.cpu() for tensor in found]


def test_without_cuda_steps_run_as_they_are_and_say_so() -> None:
    samples = make_samples(np.random.default_rng(2), [9], 14, TASKS)
    sizes = network(samples)
    plain, captured = (TorchEngine(sizes, samples, CPU, together=True, capture=c) for c in (False, True))
    expected = steps(plain, 3, CPU)
    with pytest.warns(UserWarning, match="steps run without a CUDA graph"):
        found = steps(captured, 3, CPU)
    assert all(map(torch.equal, found, expected))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_gives_what_the_step_gives() -> None:
    device = torch.device("cuda")
    samples = make_samples(np.random.default_rng(2), [9], 14, TASKS)
    sizes = network(samples)
    plain, captured = (TorchEngine(sizes, samples, device, capture=c) for c in (False, True))
    expected = steps(plain, 3, device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = steps(captured, 3, device)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
