"""What all records have in common: declared in one place, checked when they are read, never changed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Record(BaseModel):
    """A declared record: frozen, and without keys that nobody declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """A record, or a part of one, that one process sends to another; numbers in it may be infinite."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


def _as_unicode(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


Prose = Annotated[str, BeforeValidator(_as_unicode)]
"""Text for people. An exception may quote a path that is not UTF-8; its invalid bytes become question marks."""
