"""What the benchmarks measure is what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.engines import peak_megabytes
from tests.benchmarks.program import measured


def test_the_memory_of_a_command_is_its_own() -> None:
    held = b"1" * (400 << 20)
    assert 10 < measured("--version").megabytes < 200
    assert held


@pytest.mark.slow
def test_hydragnn_trains_the_network_of_the_baseline() -> None:
    if not (Path(sys.prefix) / "hydragnn" / "installed").exists():
        pytest.skip("HydraGNN is not installed; bash envs/tests.sh")
    command = [sys.executable, "-m", "tests.benchmarks.hydragnn"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    assert "parameters: 48376 here, 48796 in HydraGNN" in found.stdout
    assert peak_megabytes("206", "HydraGNN", 1) > 100
