"""Durations: every form that Slurm takes, every form with units, and how they are shown."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragnn_hpc.durations import clock, in_words, seconds_of, with_units
from hydragnn_hpc.errors import UserError

whole = st.integers(0, 10**4)


@given(days=whole, hours=whole, minutes=st.integers(0, 59), seconds=st.integers(0, 59))
def test_every_form_gives_the_same_seconds(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = 86400 * days + 3600 * hours + 60 * minutes + seconds
    forms = {
        f"{total // 60}:{total % 60:02d}": total,
        clock(total): total,
        with_units(total): total,
        f"{days}-{hours}": total - 60 * minutes - seconds,
        f"{days}-{hours}:{minutes}": total - seconds,
        f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}": total,
        f"{days}d{hours}h{minutes}m{seconds}s": total,
        f"{hours}H{minutes}min": 3600 * hours + 60 * minutes,
        f" {total}s": total,
        f"{minutes}": 60 * minutes,
        f"{hours}.5h": 3600 * hours + 1800,
        f"{days}.25d": 86400 * days + 21600,
    }
    for text, expected in forms.items():
        if expected:
            assert seconds_of(text, "--time-limit") == expected, text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("1:30:00", 5400), ("1-0", 86400), ("1-00:00:00", 86400), ("1.5h", 5400)],
)
def test_slurms_meaning(text: str, seconds: int) -> None:
    assert seconds_of(text, "--walltime") == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "0", "0s", "0:00", "-1", "1:99", "1:60:00", "1-", "-5", "1-2:60", "1-1:2:3:4", "1:2:3:4", "30m1h",
     "1h30", "1.5:00", "nan", "inf", "1e3", "9" * 400, "٣", "2w"],
)  # fmt: skip
def test_invalid_durations_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"--walltime '.*': expected minutes") as caught:
        seconds_of(text, "--walltime")
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="0123456789dhmins:-. ", max_size=12))
def test_any_text_is_a_positive_time_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        assert 0 < seconds_of(text, "x") < float("inf")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.5, "0.5 s"), (59.7, "1 min 00 s"), (3599.6, "1 h 00 min"), (90061, "1 d 1 h")],
)
def test_durations_in_words(seconds: float, shown: str) -> None:
    assert in_words(seconds) == shown
