"""The set of the split to which a structure belongs as its source states: by the key ``split``, or by its path."""

from __future__ import annotations

import re

import numpy as np

from hydragnn_hpc.dataset.read.frames import Frame, Unreadable
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PARTS

SOURCE = "source"
"""The value of ``split_by`` that takes the split from the source."""
_WORDS = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2, "testing": 2}


def stated_part(frame: Frame) -> int:
    """Return 0, 1 or 2: training, validation or test set.

    Raises
    ------
    UserError
        If neither the key ``split`` nor exactly one of the words in the path of its file says which.
    """
    part = part_of_key(frame)
    if part is not None:
        return part
    named = {_WORDS[word] for word in re.findall("[a-z]+", frame.origin.casefold()) if word in _WORDS}
    if len(named) != 1:
        what = (
            "belongs to no set of the split" if not named else f"belongs to several sets of the split: {frame.origin}"
        )
        raise UserError(
            f"{frame.where}: {what}; write split=train, validation or test into it, or"
            " one of these words into its file's name"
        )
    return named.pop()


def part_of_key(frame: Frame) -> int | None:
    """Return 0, 1 or 2, as the key ``split`` states; None where there is none, or it is NaN.

    Raises
    ------
    UserError
        If its value is another one.
    """
    stated = frame.values.get("split")
    if stated is None or (isinstance(stated, float) and np.isnan(stated)):
        return None
    if isinstance(stated, Unreadable):
        raise UserError(f"{frame.where}: 'split' {stated.reason}")
    if isinstance(stated, str) and stated.casefold() in _WORDS:
        return _WORDS[stated.casefold()]
    if isinstance(stated, int | float | np.number) and not isinstance(stated, bool) and stated in range(len(PARTS)):
        return int(stated)
    raise UserError(f"{frame.where}: split={stated}; write train, validation or test")


def check_complete(part: np.ndarray, source: str) -> None:
    """Refuse a split without a training, validation or test set.

    Raises
    ------
    UserError
        If one of them is empty.
    """
    for number, name in enumerate(PARTS):
        if not (part == number).any():
            raise UserError(
                f"{source}: --split-by source: the {name} set is empty; move structures to it, or choose another split"
            )
