"""A member's learning rate and early stopping, as its validation losses determine them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from hydragnn_hpc.sections import Cosine, EarlyStopping, Plateau, Training

PLATEAU_THRESHOLD = 1e-4  # relative; the default of torch.optim.lr_scheduler.ReduceLROnPlateau
SMALLEST_CHANGE = 1e-8  # of the learning rate; the default `eps` of the same scheduler


@dataclass
class Schedule:
    """A member's learning rate, constant within an epoch, and its early stopping.

    The rate follows ``torch.optim.lr_scheduler.ReduceLROnPlateau`` (where losses are positive), or half a period of a
    cosine (`cosine_rate`); training stops after ``patience`` epochs without a new lowest validation loss.

    Attributes
    ----------
    rate : float
        The learning rate of the next epoch.
    best : float
        The lowest validation loss so far.
    best_epoch : int
        Its epoch, counted from 1; 0 before the first.
    plateau_best, num_bad_epochs : float, int
        ``best`` and ``num_bad_epochs`` of ``ReduceLROnPlateau``; not used by a cosine.
    """

    rate: float
    best: float = math.inf
    best_epoch: int = 0
    plateau_best: float = math.inf
    num_bad_epochs: int = 0

    @classmethod
    def fresh(cls, options: Training) -> Schedule:
        """Return the schedule before the first epoch."""
        full = options.optimizer.learning_rate
        match options.schedule:
            case "plateau":
                return cls(full)
            case "cosine":
                return cls(cosine_rate(0, full, options.cosine, options.epochs))
            case unknown:
                assert_never(unknown)

    def record(self, loss: float, epoch: int, options: Training) -> bool:
        """Record the validation loss of ``epoch`` (counted from 1); return whether it is the lowest so far."""
        match options.schedule:
            case "plateau":
                if options.plateau is not None:
                    self._update_plateau(loss, options.plateau)
            case "cosine":
                # Computed from the epoch alone, so that interruptions do not change it.
                self.rate = cosine_rate(epoch, options.optimizer.learning_rate, options.cosine, options.epochs)
            case unknown:
                assert_never(unknown)
        if loss < self.best:
            self.best, self.best_epoch = loss, epoch
            return True
        return False

    def should_stop(self, epoch: int, stopping: EarlyStopping | None) -> bool:
        """Return whether to stop early after ``epoch``."""
        return stopping is not None and epoch - self.best_epoch >= stopping.patience

    def _update_plateau(self, loss: float, plateau: Plateau) -> None:
        # torch's bound, best * (1 - threshold), is above a negative best: even higher losses would count as lower.
        sign = 1 if self.plateau_best > 0 else -1
        if loss < self.plateau_best * (1 - sign * PLATEAU_THRESHOLD):
            self.plateau_best, self.num_bad_epochs = loss, 0
            return
        self.num_bad_epochs += 1
        if self.num_bad_epochs > plateau.patience:
            self.num_bad_epochs = 0
            lower = max(self.rate * plateau.factor, plateau.minimum)
            if self.rate - lower > SMALLEST_CHANGE:
                self.rate = lower


def cosine_rate(done: int, full: float, options: Cosine, epochs: int) -> float:
    """Return the learning rate of the epoch after ``done`` epochs (Loshchilov & Hutter 2017, without restarts).

    Parameters
    ----------
    done : int
    full : float
        The highest rate.
    options : Cosine
    epochs : int
        Number of epochs of the whole training.
    """
    if done < options.warmup:
        return full * (done + 1) / (options.warmup + 1)
    length = (options.epochs or epochs) - options.warmup
    progress = min((done - options.warmup) / length, 1.0) if length > 0 else 1.0
    # A minimum above the full rate would make the rate rise instead of fall.
    lowest = min(options.minimum, full)
    return lowest + (full - lowest) * (1 + math.cos(math.pi * progress)) / 2
