"""Events and commands between worker, rank and rank 0: each survives a round trip, and nothing else is accepted."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragnn_hpc.records.events import Command, Epoch, Event, Failed, MemberEpoch, read_command, read_event, to_line

events = st.one_of(*map(st.from_type, get_args(Event)))
commands = st.one_of(*map(st.from_type, get_args(Command)))
MEMBER = {"replica": 0, "epoch": 3, "learning_rate": 1e-3, "seconds": 0.5}


@given(events, commands)
def test_messages_survive_a_round_trip(event: Event, command: Command) -> None:
    for message, read in ((event, read_event), (command, read_command)):
        line = to_line(message)
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert repr(read(line[:-1])) == repr(message)  # repr: NaN does not equal itself


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_loss_may_be_infinite(loss: float) -> None:
    epoch = Epoch(variant="H", members=(MemberEpoch(validation_loss=loss, **MEMBER),))
    assert repr(read_event(to_line(epoch))) == repr(epoch)


def test_a_cause_may_quote_a_path_that_is_not_unicode() -> None:
    assert Failed(cause="no such file: \udcff.bp", detail="OSError").cause == "no such file: ?.bp"


@pytest.mark.parametrize(
    "line",
    [
        b"", b"17", b"null", b"[]", b"{}", b"\xff\x00\x80garbage", b'{"kind":"unknown"}', b'{"kind":"train"}',
        b'{"kind":"alive","more":1}', b'{"kind":"finished","variant":"H","replica":"first","state":"finished"}',
        b'{"kind":"died","cause":"a rank says this, no worker"}', b"[" * 5000,
    ],
)  # fmt: skip
def test_anything_but_an_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_event(line)
