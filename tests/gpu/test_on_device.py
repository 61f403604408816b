"""The checks for a real device, run on the CPU and on the emulated device, so that they are whole when there is one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu_estimate
from tests.gpu import on_device
from tests.gpu.emulated import Device
from tests.gpu.problems import GPU, PROBLEMS


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines: the kernels' interpreter is slow."""
    monkeypatch.setattr(on_device, "PROBLEMS", {name: PROBLEMS[name] for name in ("torch", "library, GIN")})


def test_checks_and_measurements_run_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.md"
    monkeypatch.setattr(on_device, "SECONDS", 0.1)
    monkeypatch.setattr(gpu_estimate, "ENGINES", ("torch",))
    words = ["--device", "cpu", "--cases", "206", "--members", "1", "--report", str(report)]
    monkeypatch.setattr(sys, "argv", ["on_device", *words])
    assert on_device.main() == 0
    assert capsys.readouterr().out == report.read_text()
    lines = report.read_text().splitlines()
    right = [line for line in lines if line.startswith("- right: ")]
    assert len(right) == 4 and "one worker killed" in right[3], lines
    assert sum("Not on cpu" in line for line in lines) == len(on_device.CHECKS) - 5
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| 206 ")]
    assert [row[1].strip() for row in rows] == ["PyTorch Geometric", "torch"]
    assert all(float(row[3].replace(",", "")) > 1 for row in rows) and rows[1][7].strip().endswith("%")
    assert lines[-1].startswith("84 members in stacks of 1,")


def test_the_checks_need_no_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; from tests.gpu import on_device; print(*on_device.PROBLEMS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=on_device.ROOT, capture_output=True, text=True, check=False)
    assert "torch, missing values" in done.stdout and "triton" not in done.stdout, done.stderr


def test_numbers_and_bits_are_right_on_the_emulated_device(device: Device) -> None:
    assert on_device.numbers(GPU).startswith("2 problems; largest difference ")
    assert on_device.repeatable(GPU) == "1 problems"
    assert on_device.updates(GPU) == "1 problems, Adam, AdamW, SGD"


def test_the_kernels_are_right_on_the_emulated_device(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "triton, geometries and edge lengths that vary"
    monkeypatch.setattr(on_device, "PROBLEMS", {name: PROBLEMS[name]})
    assert on_device.any_stack(GPU) == "1 problems"
    assert on_device.updates(GPU).startswith("1 problems")


def test_what_is_wrong_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    once = on_device.trained
    calls = iter(range(100))
    monkeypatch.setattr(on_device, "trained", lambda *given: [t + 1e-2 * next(calls) for t in once(*given)[:1]])
    monkeypatch.setattr(on_device, "CHECKS", (on_device.numbers, on_device.repeatable, on_device.waits))
    found = list(on_device.checked(torch.device("cpu"), time.monotonic() + 100))
    assert [line[: line.index(":")] for line, _ in found] == ["- WRONG", "- WRONG", "- not run"]
    assert [right for _, right in found] == [False, False, True]
    assert next(on_device.checked(torch.device("cpu"), 0.0)) == (
        "- not run: Losses, gradients, statistics and predictions are those of the CPU. No time is left.", True,
    )  # fmt: skip
