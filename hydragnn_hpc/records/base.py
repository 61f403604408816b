"""The base classes of all records: declared in one place, validated when they are read, and immutable."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Record(BaseModel):
    """A declared record: frozen; undeclared keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """A record, or a part of one, that one process sends to another; numbers in it may be infinite."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class FileRecord(Record):
    """A record, or a part of one, of a file or of a command's output: values are not converted, numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def _as_unicode(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _check_iso(value: str) -> str:
    datetime.fromisoformat(value)
    return value


Text = Annotated[str, BeforeValidator(_as_unicode)]
"""Text for human readers. An exception may quote a path that is not UTF-8; its invalid bytes become question marks."""

Timestamp = Annotated[str, AfterValidator(_check_iso)]
"""A point in time in ISO 8601."""

Level = Literal["node", "graph"]
Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0, le=1e100)]  # so that its squares and sums stay finite
