"""One member's learning rate and its end, from its validation losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from hydragnn_hpc.sections import Cosine, EarlyStopping, Plateau, Training

PLATEAU_THRESHOLD = 1e-4  # relative; as torch.optim.lr_scheduler.ReduceLROnPlateau
SMALLEST_CHANGE = 1e-8  # of a learning rate; as there


@dataclass
class Schedule:
    """One member's learning rate and its end, from its validation losses. One rate holds for an epoch.

    The rate follows ``torch.optim.lr_scheduler.ReduceLROnPlateau``, or half a cosine (`cosine_rate`); the training
    ends after ``patience`` epochs without a lower validation loss than the best.
    """

    rate: float
    best: float = math.inf
    best_epoch: int = 0
    plateau_best: float = math.inf
    plateau_bad: int = 0

    @classmethod
    def fresh(cls, options: Training) -> Schedule:
        """Before the first epoch."""
        full = options.optimizer.learning_rate
        match options.schedule:
            case "plateau":
                return cls(full)
            case "cosine":
                return cls(cosine_rate(0, full, options.cosine, options.epochs))
            case unknown:
                assert_never(unknown)

    def see(self, loss: float, epoch: int, options: Training) -> bool:
        """Take the validation loss of ``epoch`` (from 1); returns whether it is the best so far."""
        match options.schedule:
            case "plateau":
                if options.plateau is not None:
                    self._see_plateau(loss, options.plateau)
            case "cosine":
                # From the epoch alone, so that it is the same however often the training was interrupted.
                self.rate = cosine_rate(epoch, options.optimizer.learning_rate, options.cosine, options.epochs)
            case unknown:
                assert_never(unknown)
        if loss < self.best:
            self.best, self.best_epoch = loss, epoch
            return True
        return False

    def over(self, epoch: int, stopping: EarlyStopping | None) -> bool:
        """Whether to stop early after ``epoch``."""
        return stopping is not None and epoch - self.best_epoch >= stopping.patience

    def _see_plateau(self, loss: float, plateau: Plateau) -> None:
        if loss < self.plateau_best * (1 - PLATEAU_THRESHOLD):
            self.plateau_best, self.plateau_bad = loss, 0
            return
        self.plateau_bad += 1
        if self.plateau_bad > plateau.patience:
            self.plateau_bad = 0
            lower = max(self.rate * plateau.factor, plateau.minimum)
            if self.rate - lower > SMALLEST_CHANGE:
                self.rate = lower


def cosine_rate(done: int, full: float, options: Cosine, epochs: int) -> float:
    """Return the learning rate of the epoch that follows ``done`` epochs (Loshchilov & Hutter 2017, no restarts).

    Parameters
    ----------
    full : float
        The highest rate.
    options : Cosine
    epochs : int
        Of the whole training.
    """
    if done < options.warmup:
        return full * (done + 1) / (options.warmup + 1)
    length = (options.epochs or epochs) - options.warmup
    part = min((done - options.warmup) / length, 1.0) if length > 0 else 1.0
    # A minimum above the full rate would turn the schedule upside down.
    lowest = min(options.minimum, full)
    return lowest + (full - lowest) * (1 + math.cos(math.pi * part)) / 2
