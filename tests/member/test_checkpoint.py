"""Checkpoints: what was saved comes back, or the one before it; never other numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydragnn_hpc.member.training import checkpoint
from hydragnn_hpc.member.training.checkpoint import Checkpoint
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.paths import MemberFolder
from hydragnn_hpc.records.member import Identity, Session

IDENTITY = Identity(config_hash="c", dataset_sha256="d", variant="HCM", replica=1)
SESSION = Session(
    started="2026-01-01T00:00:00.000+00:00", ended="2026-01-01T00:01:00.000+00:00", host="n", rank=0, slot=0, epochs=2,
    engine="torch",
)  # fmt: skip
SHAPES = {"parameters": 300, "buffers": 40}


def made(epoch: int) -> Checkpoint:
    """A checkpoint after that epoch."""
    numbers = torch.Generator().manual_seed(epoch)
    tensors = {name: torch.randn(length, generator=numbers) for name, length in SHAPES.items()}
    history = [[k + 1.0, 0.5, 0.25, 1e-3, 1.0, 0.1] for k in range(epoch)]
    return Checkpoint(IDENTITY, tensors, Schedule(1e-3, best=0.25, best_epoch=1), history, [SESSION])


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two hold the same, to the bit."""
    tensors = all(torch.equal(one.tensors[name], other.tensors[name]) for name in SHAPES)
    rest = all(getattr(one, k) == getattr(other, k) for k in ("identity", "schedule", "history", "sessions"))
    return tensors and rest


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> MemberFolder:
    """A member's folder after two checkpoints."""
    files = MemberFolder(tmp_path_factory.mktemp("campaign"), "HCM", 1)
    files.make()
    for epoch in (1, 2):
        checkpoint.save(files, made(epoch))
    return files


def test_the_latest_comes_back(files: MemberFolder) -> None:
    message: list[str] = []
    found = checkpoint.load(files, IDENTITY, SHAPES, message.append)
    assert found is not None and same(found, made(2)) and not message
    assert same(checkpoint._read(files.previous_checkpoint, IDENTITY, SHAPES), made(1))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kind=st.sampled_from(["flip", "cut", "lose"]))
def test_damage_anywhere_never_gives_other_numbers(files: MemberFolder, place: float, bit: int, kind: str) -> None:
    """It is unchanged (the byte has no meaning), or the previous checkpoint is used, which is reported."""
    whole = files.checkpoint.read_bytes()
    hurt, at = bytearray(whole), int(place * len(whole))
    if kind == "flip":
        hurt[at] ^= 1 << bit
    else:
        del hurt[at : len(whole) if kind == "cut" else at + 1]
    message: list[str] = []
    try:
        files.checkpoint.write_bytes(hurt)
        found = checkpoint.load(files, IDENTITY, SHAPES, message.append)
    finally:
        files.checkpoint.write_bytes(whole)
    assert found is not None and same(found, made(1 if message else 2)), (kind, at, message)


@pytest.mark.parametrize("changed", [{"replica": 2}, {"config_hash": "x"}, {"dataset_sha256": "x"}, {"variant": "H"}])
def test_a_checkpoint_of_something_else_is_not_used(files: MemberFolder, changed: dict) -> None:
    message: list[str] = []
    assert checkpoint.load(files, IDENTITY.model_copy(update=changed), SHAPES, message.append) is None
    assert len(message) == 2 and all("of another campaign or member" in line for line in message)


def test_a_member_without_checkpoint_begins(tmp_path: Path) -> None:
    assert checkpoint.load(MemberFolder(tmp_path, "HCM", 0), IDENTITY, SHAPES, pytest.fail) is None
