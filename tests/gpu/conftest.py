"""The pretended device of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.gpu.pretended import COMPILER, Device, pretended


@pytest.fixture(scope="session", autouse=True)
def _possible() -> None:
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch is built for real devices")


@pytest.fixture
def device() -> Iterator[Device]:
    """A device that is pretended during the test."""
    with pretended() as found:
        yield found
