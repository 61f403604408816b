"""What all records have in common: declared in one place, checked when they are read, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


class Record(BaseModel):
    """A declared record: frozen, and without keys that nobody declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """A record, or a part of one, that one process sends to another; numbers in it may be infinite."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class FileRecord(Record):
    """A record, or a part of one, in a file: every value has its declared type, and no number is infinite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def _as_unicode(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _iso(value: str) -> str:
    datetime.fromisoformat(value)
    return value


Prose = Annotated[str, BeforeValidator(_as_unicode)]
"""Text for people. An exception may quote a path that is not UTF-8; its invalid bytes become question marks."""

Moment = Annotated[str, AfterValidator(_iso)]
"""A time, ISO 8601."""

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


def first_error(error: ValidationError) -> str:
    """Return in one line the first value that does not fit: its key, the reason, what was given."""
    first = min(error.errors(include_url=False, include_context=False), key=lambda e: e["loc"] != ("schema",))
    place, given = ".".join(map(str, first["loc"])), first["input"]
    if first["type"] == "missing":
        return f"missing key '{place}'"
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'"
    if first["loc"] == ("schema",):
        return f"format version {given!r}, which this version of the program does not read"
    shown = f" (given: {given!r:.60})" if place and isinstance(given, str | int | float | bool | None) else ""
    return f"{place}: {first['msg']}{shown}" if place else first["msg"]
