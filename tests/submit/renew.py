"""Write the golden job scripts again: ``python -m tests.submit.renew``; read the difference before you commit it."""

from __future__ import annotations

from hydragnn_hpc.submit.site import site_names
from tests.submit.test_scripts import GOLDEN, script_of

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in site_names():
        (GOLDEN / f"{name}.sh").write_text(script_of(name))
