"""Kernels of pooling, heads and losses, in Triton's interpreter, against automatic differentiation in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hydragnn_hpc.member.engine.head_groups import head_groups
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.losses import GaussianNll, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from hydragnn_hpc.member.engine.sizes import POOLINGS, NetworkSizes, TaskSizes
from hydragnn_hpc.member.triton_engine import heads
from hydragnn_hpc.member.triton_engine.heads import Heads
from hydragnn_hpc.member.triton_engine.rows import Rows
from tests.triton_interpreter import accelerate

accelerate()

HCM = (TaskSizes("H", "graph", 1, (7, 5)), TaskSizes("C", "node", 1, (7, 5), 2.0), TaskSizes("M", "node", 1, (7, 5)))
# Two groups of each level, one of them with a task of another group between its own, and heads without hidden layers.
GROUPS = (
    TaskSizes("C", "node", 1, (7,), 2.0), TaskSizes("V", "node", 3, (), 0.5), TaskSizes("M", "node", 1, (7,)),
    TaskSizes("H", "graph", 1, (40, 35)), TaskSizes("D", "graph", 3, (6,), 3.0, Huber(0.5)),
)  # fmt: skip
WIDE = (TaskSizes("C", "node", 3, (128, 64), 2.0), TaskSizes("H", "graph", 20, (33,)))
LOSSES = (MeanSquaredError(), MeanAbsoluteError(), Huber(0.7), GaussianNll())


@dataclass
class Case:
    """A batch of E members, R rows each, of which the last are padding for some of them.

    ``lengths`` [B] are those of the first member's samples; other members have them in another order, and one atom more
    for each member before them.
    """

    tasks: tuple[TaskSizes, ...]
    lengths: tuple[int, ...] = (3, 1, 5)
    members: int = 3
    features: int = 6
    pooling: str = "mean"
    missing: float = 0.0
    dtype: torch.dtype = torch.float64
    shared: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(7)
        self.sizes = NetworkSizes(1, (4, self.features), self.tasks, (1.0, 1.0), self.pooling)  # type: ignore[arg-type]
        self.layout = ParameterLayout.of(self.sizes)
        self.groups = head_groups(self.sizes)
        length = torch.stack([torch.tensor(self.lengths).roll(e) for e in range(self.members)])
        if not self.shared:
            length[:, 0] += torch.arange(self.members)
        samples, rows = len(self.lengths), int(length.sum(1).max())
        stride, start = (
            (samples, torch.arange(samples).expand_as(length)) if self.shared else (1, length.cumsum(1) - length)
        )
        self.sample = torch.full((self.members, rows), -1)
        for e, b in torch.cartesian_prod(torch.arange(self.members), torch.arange(samples)).tolist():
            self.sample[e, start[e, b] + torch.arange(int(length[e, b])) * stride] = b
        # Indices of padding would be read from outside the targets.
        atoms = torch.where(self.sample >= 0, torch.randint(50, (self.members, rows)), 10**6)
        none = torch.empty(0)
        self.rows = Rows(
            self.members, samples, rows, stride, length.sum(1).int(), start.int().contiguous(), length.int(),
            torch.randint(20, length.shape), atoms, self.sample.int(), none, none, none,
        )  # fmt: skip
        # Few different numbers: maxima tie, and zeros are maxima too.
        x = torch.randn(self.members, rows, self.features).mul(2).round().div(2).clamp(min=0).to(self.dtype)
        self.x = torch.where(self.sample[..., None] >= 0, x, torch.nan)
        self.targets = [self._target(group.level, len(group.tasks) * group.tasks[0].width) for group in self.groups]
        self.parameters = 0.3 * torch.randn(self.members, self.layout.parameter_size, dtype=self.dtype)

    def _target(self, level: str, width: int) -> Tensor:
        values = torch.randn(50 if level == "node" else 20, width, dtype=self.dtype)
        if self.missing:
            values[torch.rand(values.shape) < self.missing] = torch.nan
            values[:, 0] = torch.nan
        return values

    def heads(self) -> Heads:
        """The heads under test."""
        return Heads(self.sizes, self.layout, self.x.new_empty(0), self.missing > 0)

    def only(self, e: int) -> Case:
        """The same case with member ``e`` alone."""
        one = replace(self)
        names = ("count", "start", "length", "numbers", "atoms", "sample")
        one.rows = replace(self.rows, members=1, **{name: getattr(self.rows, name)[e : e + 1] for name in names})
        one.x, one.parameters = self.x[e : e + 1], self.parameters[e : e + 1]
        one.targets = self.targets
        return one


@dataclass
class Expected:
    """Losses [E, T]; gradients of the parameters [E, P], and of the features [E, R, F] by level; values by group."""

    losses: Tensor
    parameters: Tensor
    features: dict[str, Tensor]
    values: list[Tensor]


def expected(case: Case) -> Expected:
    """What `computed` returns, by automatic differentiation in float64, member after member."""
    parameters = case.parameters.double().requires_grad_()
    x = {level: case.x.double().nan_to_num().requires_grad_() for level in ("node", "graph")}
    losses, total = torch.zeros(case.members, len(case.tasks), dtype=torch.float64), torch.zeros(())
    values: list[list[Tensor]] = [[] for _ in case.groups]
    for e in range(case.members):
        atom, named = case.sample[e] >= 0, case.layout.named(parameters[e])
        pool = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}[case.pooling]
        pooled = torch.stack([pool(x["graph"][e, case.sample[e] == b], 0) for b in range(case.rows.samples)])
        for group, target, of_group in zip(case.groups, case.targets, values, strict=True):
            node = group.level == "node"
            row = case.rows.atoms[e, atom] if node else case.rows.numbers[e]
            for t, task in enumerate(group.tasks):
                y = x["node"][e, atom] if node else pooled
                for k in range(len(group.widths)):
                    name = f"heads.{task.name}.{k}"
                    y = (y.relu() if k else y) @ named[f"{name}.weight"].T + named[f"{name}.bias"]
                of_group.append(y.detach())
                truth = target[row, t * task.width : (t + 1) * task.width].double()
                known = ~truth.isnan()
                mean, *noise = task.loss.split(y)
                value = task.loss.of((mean - truth)[known], *(n[known] for n in noise)).sum() / known.sum().clamp(min=1)
                losses[e, case.tasks.index(task)] = value.detach()
                total = total + task.weight * value
    total.backward()
    assert parameters.grad is not None
    gradients = {level: torch.zeros_like(v) if v.grad is None else v.grad for level, v in x.items()}
    together = [
        [torch.cat(v[e * len(g.tasks) : (e + 1) * len(g.tasks)], 1) for e in range(case.members)]
        for v, g in zip(values, case.groups, strict=True)
    ]
    padded = [
        torch.stack([torch.cat([v, v.new_zeros(case.rows.rows - len(v), v.shape[1])]) for v in of_group])
        if group.level == "node" and not case.shared else torch.stack(of_group)
        for of_group, group in zip(together, case.groups, strict=True)
    ]  # fmt: skip
    return Expected(losses, parameters.grad, gradients, padded)


def computed(case: Case) -> Expected:
    """The kernels' numbers; the gradient of pooled features is spread over atoms."""
    gradients = torch.zeros_like(case.parameters)
    back = case.heads().train(case.x, case.rows, case.targets, case.parameters, gradients)
    levels = {task.level for task in case.tasks}
    assert {"node": back.node is not None, "graph": back.pooled is not None} == {
        v: v in levels for v in ("node", "graph")
    }
    features = {"node": torch.zeros_like(case.x) if back.node is None else back.node, "graph": torch.zeros_like(case.x)}
    if back.pooled is not None:
        assert back.values is not None
        member = torch.arange(len(case.x))[:, None]
        sample = case.rows.sample.clamp(min=0).long()
        share = back.pooled[member, sample]
        if case.pooling == "max":
            share = torch.where(case.x == back.values[member, sample], share, 0.0)
        elif case.pooling == "mean":
            share = share / case.rows.length[member, sample][..., None]
        features["graph"] = torch.where(case.rows.sample[..., None] >= 0, share, 0.0)
    values = case.heads().predict(case.x, case.rows, case.parameters)
    return Expected(back.losses, gradients, features, values)


def check(case: Case) -> None:
    """Check that the kernels agree with automatic differentiation to rounding."""
    tolerance = 1e-10 if case.dtype == torch.float64 else 3e-5
    got, want = computed(case), expected(case)
    for name in ("losses", "parameters"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=tolerance, atol=tolerance)
    for level in ("node", "graph"):
        torch.testing.assert_close(got.features[level].double(), want.features[level], rtol=tolerance, atol=tolerance)
    for a, b in zip(got.values, want.values, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "missing"), [(torch.float32, 0.0), (torch.float64, 0.4)])
@pytest.mark.parametrize("tasks", [HCM, GROUPS, WIDE, HCM[:1], HCM[1:]], ids=["HCM", "groups", "wide", "H", "CM"])
def test_heads_of_every_kind(tasks: tuple[TaskSizes, ...], missing: float, dtype: torch.dtype) -> None:
    """Both levels, several tasks and groups, vectors, padding, a task without a known value."""
    check(Case(tasks, missing=missing, dtype=dtype))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_every_loss(loss: Loss, missing: float) -> None:
    tasks = [replace(task, width=d, loss=loss) for task, d in zip(HCM, (2, 1, 3), strict=True)]
    check(Case((*tasks, TaskSizes("V", "node", 2, (), 0.5, loss)), missing=missing))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("features", [6, 70])
def test_every_pooling(pooling: str, shared: bool, features: int) -> None:
    """Also with several groups of graphs, and more atoms than a program pools at once."""
    lengths = (100, 100) if shared else (3, 100, 1)
    check(Case(GROUPS, lengths, features=features, pooling=pooling, shared=shared, dtype=torch.float64))


@pytest.mark.parametrize("lengths", [(1,), (7, 30)])
def test_small_and_large_batches(lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """One atom; many tiles of rows, the last of them not full or all padding; sums over more than one part."""
    monkeypatch.setattr(heads, "ROWS", 2)
    monkeypatch.setattr(heads, "SUMMED", 8)
    monkeypatch.setattr(heads, "COUNTED", 8)
    check(Case(HCM, lengths, missing=0.2))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_numbers_of_a_member_do_not_depend_on_the_others(pooling: str) -> None:
    case = Case(GROUPS, pooling=pooling, dtype=torch.float32, missing=0.2)
    together = computed(case)
    for e in range(case.members):
        alone = computed(case.only(e))
        assert torch.equal(alone.losses[0], together.losses[e])
        assert torch.equal(alone.parameters[0], together.parameters[e])
        assert all(torch.equal(alone.features[v][0], together.features[v][e]) for v in ("node", "graph"))


def test_a_member_that_diverges_shows_it() -> None:
    """A feature that is not a number leaves no finite loss, and the other members as they are."""
    case = Case(HCM, pooling="max")
    want = computed(case)
    case.x[1, 0, 2] = torch.nan
    got = computed(case)
    assert got.losses[1].isnan().all() and torch.equal(got.losses[[0, 2]], want.losses[[0, 2]])
    assert torch.equal(got.parameters[[0, 2]], want.parameters[[0, 2]])


@pytest.mark.parametrize(("missing", "launches"), [(0.0, 5), (0.4, 7)])
def test_the_number_of_launches(missing: float, launches: int) -> None:
    """One to pool, two for each group, and one more where values may be missing."""

    class Launches(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.number += func.namespace == "hydragnn_hpc"
            return func(*args, **(kwargs or {}))

    case = Case(HCM, missing=missing)
    with Launches() as counted:
        case.heads().train(case.x, case.rows, case.targets, case.parameters, torch.zeros_like(case.parameters))
    assert counted.number == launches


def test_what_the_kernels_cannot_do() -> None:
    assert not heads.unsupported(NetworkSizes(1, (20,), WIDE, (1.0, 1.0)))
    wide = NetworkSizes(1, (20,), (TaskSizes("H", "graph", 1, (129,)),), (1.0, 1.0))
    assert heads.unsupported(wide) == "they support at most 128 features in each layer of a head, not those of task H"
