"""How many members of a variant fit into a device's memory, estimated from the training of one."""

from __future__ import annotations

import numpy as np
import torch

from hydragnn_hpc.member.engine.captured import steps_of
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.steps import EpochPlan, StackState
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.sections import Training

SHARE = 0.9
"""Share of the free memory that a stack may take; the rest is for libraries, and for what the estimate does not see."""


class StackTooLargeError(RuntimeError):
    """A stack does not fit into the device's memory, by an estimate.

    Attributes
    ----------
    fits : int
        The number of members that fit.
    """

    def __init__(self, members: int, fits: int) -> None:
        super().__init__(f"the device's memory is estimated to suffice for {fits} of {members} members")
        self.fits = fits


def members_that_fit(engine: Engine, data: TrainingData, options: Training) -> int | None:
    """Train one member for a batch of each size of an epoch, and return how many such members fit, at least one.

    Returns
    -------
    int or None
        None if the device does not report its free memory.
    """
    module = torch.get_device_module(engine.device)
    module.empty_cache()
    try:
        free, _ = module.mem_get_info()
    except RuntimeError:  # not every XPU reports it
        return None
    module.reset_peak_memory_stats()
    before = module.memory_reserved()
    _train_one(engine, data, options)
    needed = module.max_memory_reserved() - before
    module.empty_cache()
    return max(1, int(SHARE * free / max(1, needed)))


def _train_one(engine: Engine, data: TrainingData, options: Training) -> None:
    size = options.batch_size
    number = min(data.epoch_length, size + data.epoch_length % size)
    order = data.split_of(0).train[:number][None]
    state = StackState.untrained(engine, [0], options.optimizer)
    for _ in steps_of(engine).run(state, EpochPlan.of(order, size, state.optimizer, np.zeros(1))):
        pass
