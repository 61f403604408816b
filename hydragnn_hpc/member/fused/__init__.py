"""The fused CPU engine: PNA networks over one shared geometry, in one compiled kernel per training step.

``unavailable()`` says why it cannot be used here (``""`` if it can); ``FusedEngine`` is the engine. The C source lies
in ``source/`` and is compiled at first use.
"""

from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.fused.kernels import unavailable
from hydragnn_hpc.member.sizes import Geometry, NetworkSizes, ParameterTable, TaskSizes

__all__ = ["FusedEngine", "Geometry", "NetworkSizes", "ParameterTable", "TaskSizes", "unavailable"]
