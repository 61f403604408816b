"""Checkpoints: what was saved is restored, or else the previous checkpoint; never other numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc.member.training import checkpoint
from hydragnn_hpc.member.training.checkpoint import Checkpoint
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.paths import MemberFolder
from hydragnn_hpc.records.member import HistoryRow, Identity, Session

IDENTITY = Identity(config_hash="c", dataset_sha256="d", variant="HCM", replica=1)
SESSION = Session(
    started="2026-01-01T00:00:00.000+00:00", ended="2026-01-01T00:01:00.000+00:00", host="n", rank=0, slot=0, epochs=2,
    engine="torch",
)  # fmt: skip
LENGTHS = {"parameters": 300, "buffers": 40}


def made(epoch: int) -> Checkpoint:
    """A checkpoint after that epoch."""
    numbers = torch.Generator().manual_seed(epoch)
    tensors = {name: torch.randn(length, generator=numbers) for name, length in LENGTHS.items()}
    history = [HistoryRow(k + 1, 0.5, 0.25, 1e-3, 1.0, 0.1) for k in range(epoch)]
    return Checkpoint(IDENTITY, tensors, Schedule(1e-3, best=0.25, best_epoch=1), history, [SESSION])


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are the same, to the bit."""
    tensors = all(torch.equal(one.tensors[name], other.tensors[name]) for name in LENGTHS)
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


def test_the_latest_is_restored(files: MemberFolder) -> None:
    messages: list[str] = []
    found = checkpoint.load(files, IDENTITY, LENGTHS, messages.append)
    assert found is not None and same(found, made(2)) and not messages
    assert same(checkpoint._read(files.previous_checkpoint, IDENTITY, LENGTHS), made(1))


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kind=st.sampled_from(["flip", "cut", "lose"]))
def test_damage_anywhere_never_gives_other_numbers(files: MemberFolder, place: float, bit: int, kind: str) -> None:
    """Either the byte has no meaning, or the previous checkpoint is used, which is reported."""
    whole = files.checkpoint.read_bytes()
    damaged, at = bytearray(whole), int(place * len(whole))
    if kind == "flip":
        damaged[at] ^= 1 << bit
    else:
        del damaged[at : len(whole) if kind == "cut" else at + 1]
    messages: list[str] = []
    try:
        files.checkpoint.write_bytes(damaged)
        found = checkpoint.load(files, IDENTITY, LENGTHS, messages.append)
    finally:
        files.checkpoint.write_bytes(whole)
    assert found is not None and same(found, made(1 if messages else 2)), (kind, at, messages)


@pytest.mark.parametrize("changed", [{"replica": 2}, {"config_hash": "x"}, {"dataset_sha256": "x"}, {"variant": "H"}])
def test_a_checkpoint_of_something_else_is_not_used(files: MemberFolder, changed: dict) -> None:
    messages: list[str] = []
    assert checkpoint.load(files, IDENTITY.model_copy(update=changed), LENGTHS, messages.append) is None
    reason = "cannot be used (it belongs to another campaign or member)"
    assert messages == [
        f"checkpoint.pt {reason}; continuing from the one before",
        f"checkpoint.previous.pt {reason}; training from the beginning",
    ]


def test_a_checkpoint_without_a_tensor_is_not_used(files: MemberFolder) -> None:
    """As one of another optimiser: the line names the tensor."""
    messages: list[str] = []
    assert checkpoint.load(files, IDENTITY, {**LENGTHS, "velocity": 300}, messages.append) is None
    assert len(messages) == 2 and all("('velocity' is missing)" in line for line in messages)


def test_a_member_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    assert checkpoint.load(MemberFolder(tmp_path, "HCM", 0), IDENTITY, LENGTHS, pytest.fail) is None
