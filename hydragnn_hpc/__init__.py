"""Ensembles of multi-task graph neural networks on supercomputers: one model per GPU, one shared data set.

The public interface for Python is what this module exports; it is imported when it is first used, so that
``import hydragnn_hpc`` itself loads neither torch nor pandas. All modules below are private: they may change in any
version. Campaigns are run with the command ``hydragnn-hpc``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydragnn_hpc.errors import UserError
    from hydragnn_hpc.prediction.calculator import EnsembleCalculator
    from hydragnn_hpc.prediction.ensemble import Ensemble, TaskPrediction
    from hydragnn_hpc.report.results.load import Results, load

__version__ = "0.1.0"
__all__ = ["Ensemble", "EnsembleCalculator", "Results", "TaskPrediction", "UserError", "__version__", "load"]

_MODULES = {
    "Ensemble": "hydragnn_hpc.prediction.ensemble",
    "EnsembleCalculator": "hydragnn_hpc.prediction.calculator",
    "Results": "hydragnn_hpc.report.results.load",
    "TaskPrediction": "hydragnn_hpc.prediction.ensemble",
    "UserError": "hydragnn_hpc.errors",
    "load": "hydragnn_hpc.report.results.load",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'hydragnn_hpc' has no attribute '{name}'; it exports {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
