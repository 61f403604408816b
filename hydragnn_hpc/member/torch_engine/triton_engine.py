"""The torch engine with Triton's kernels for what takes most of the time on a GPU: the aggregation, and Adam."""

from __future__ import annotations

from torch import Tensor

from hydragnn_hpc.member.engine.optimize import BETA_1, BETA_2, Adam, AdamW, Optimizer
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.member.triton_kernels import operations


class TritonEngine(TorchEngine):
    """The torch engine, faster on a GPU; parameters as for `hydragnn_hpc.member.torch_engine.engine.TorchEngine`."""

    name = "triton"
    kernels = True

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        if not isinstance(optimizer, Adam):
            optimizer.step(parameters, gradients, factors)
            return
        first, second = (optimizer.state[name] for name in optimizer.MOMENTS)
        decay, decoupled = optimizer.options.weight_decay, isinstance(optimizer, AdamW)
        operations.adam(parameters, gradients, first, second, factors, BETA_1, BETA_2, decay, decoupled)
