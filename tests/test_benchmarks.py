"""What the benchmarks measure is what they say."""

from __future__ import annotations

from tests.benchmarks.program import measured


def test_the_memory_of_a_command_is_its_own() -> None:
    held = b"1" * (400 << 20)
    assert 10 < measured("--version").megabytes < 200
    assert held
