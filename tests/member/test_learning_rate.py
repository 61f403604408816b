"""Learning rates: half a cosine, which depends on the epoch alone, and the plateau; early stopping with either."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from hydragnn_hpc.member.training.schedule import Schedule, cosine_rate
from hydragnn_hpc.sections import Cosine, EarlyStopping, Plateau, Training


def rates(options: Training, losses: list[float]) -> list[float]:
    """The rate of every epoch; the schedule is stored and restored in between."""
    schedule, seen = Schedule.fresh(options), []
    for epoch, loss in enumerate(losses, start=1):
        seen.append(schedule.rate)
        schedule.record(loss, epoch, options)
        schedule = Schedule(**asdict(schedule))
    return seen


def in_torch(kind: type[LRScheduler], options: Training, losses: list[float], **arguments: float) -> list[float]:
    """The same rates from torch's scheduler of this kind."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options.optimizer.learning_rate)
    scheduler, seen = kind(optimizer, **arguments), []
    for loss in losses:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(loss) if kind is ReduceLROnPlateau else scheduler.step()
    return seen


@pytest.mark.parametrize("minimum", [0.0, 2e-4])
def test_the_cosine_is_torchs(minimum: float) -> None:
    options = Training(epochs=30, schedule="cosine", cosine=Cosine(minimum=minimum))
    torchs = in_torch(CosineAnnealingLR, options, [1.0] * 30, T_max=30, eta_min=minimum)
    assert rates(options, [1.0] * 30) == pytest.approx(torchs, rel=1e-9)


def test_the_plateau_is_torchs() -> None:
    options = Training(plateau=Plateau(patience=2))
    losses = [1.0, 0.9, 0.9, 0.95, 0.9, 0.9, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4] + [0.4] * 60
    torchs = in_torch(ReduceLROnPlateau, options, losses, factor=0.5, patience=2, min_lr=1e-5)
    assert rates(options, losses) == pytest.approx(torchs, rel=1e-9)


def test_the_plateau_of_negative_losses() -> None:
    """A loss that rises is no improvement; in torch it is one while it stays within 1e-4 of a negative best."""
    options = Training(plateau=Plateau(patience=2))
    seen = rates(options, [-1.0, -2.0, -1.99999, -1.99998, -1.99997, -1.99997, -2.0001, -2.1])
    assert seen == pytest.approx([1e-3] * 5 + [5e-4] * 3)


def test_warm_up_length_and_rates_after_the_end() -> None:
    options = Training(epochs=12, schedule="cosine", cosine=Cosine(epochs=8, minimum=1e-4, warmup=3))
    seen = rates(options, [1.0] * 12)
    assert seen[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert seen[8:] == pytest.approx([1e-4] * 4)
    assert seen[3:9] == sorted(seen[3:9], reverse=True) and len(set(seen[3:9])) == 6


def test_losses_do_not_change_the_cosine_but_stop_the_training() -> None:
    options = Training(epochs=9, schedule="cosine", early_stopping=EarlyStopping(patience=3))
    assert rates(options, [1.0] * 9) == rates(options, [float(k) for k in range(9)])
    schedule = Schedule.fresh(options)
    assert [schedule.record(loss, k, options) for k, loss in enumerate((3.0, 2.0, 2.5, 2.4, 2.2), 1)] == [1, 1, 0, 0, 0]
    assert schedule.should_stop(5, options.early_stopping) and not schedule.should_stop(4, options.early_stopping)


@given(st.integers(0, 500), st.integers(1, 300), st.integers(0, 400), st.floats(0, 1), st.floats(1e-9, 1.0))
def test_rates_stay_between_zero_and_the_full_rate(
    done: int, length: int, warmup: int, minimum: float, full: float
) -> None:
    rate = cosine_rate(done, full, Cosine(epochs=length, warmup=warmup, minimum=minimum), 7)
    assert 0 <= rate <= full * (1 + 1e-12)
