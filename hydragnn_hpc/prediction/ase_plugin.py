"""The calculator as a plug-in of ASE: ``ase info --plugins`` lists it (`ase.plugins` in setup.py names this module).

ASE's interface is experimental. Where it is missing or has changed there is no plug-in, and ASE's commands still run.
"""

from __future__ import annotations

from typing import Any

__ase_plugins__: set[Any] = set()
try:
    from ase._4.plugins.plugin import CalculatorPlugin

    __ase_plugins__.add(
        CalculatorPlugin(
            "hydragnn_hpc",
            citation="Lupo Pasini, Zhang, Reeve & Choi, Mach. Learn.: Sci. Technol. 3 025007 (2022)",
            implementation="hydragnn_hpc.prediction.calculator.EnsembleCalculator",
        )
    )
except (ImportError, TypeError):
    pass
