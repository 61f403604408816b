"""The emulated device as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gpu.emulated import COMPILER, REAL, Device, emulated, load_guard

if COMPILER and not REAL:
    load_guard()  # before any test: at the first backward pass of a process, autograd counts the devices, once


@pytest.fixture(scope="session", autouse=True)
def _skip_unless_emulated() -> None:
    if COMPILER is None:
        pytest.skip("no C++ compiler, which the emulated device needs")
    if REAL:
        pytest.skip("this torch is built for real devices, which tests.gpu.on_device checks")


@pytest.fixture
def device() -> Iterator[Device]:
    """A device that is emulated during the test."""
    with emulated() as made:
        yield made
