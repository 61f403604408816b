"""What all records have in common: declared in one place, checked when they are read, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


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

Level = Literal["node", "graph"]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, le=1e100)]  # squares and sums of it stay finite
