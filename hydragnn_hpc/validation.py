"""Pydantic's validation errors as one-line messages for users."""

from __future__ import annotations

import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hydragnn_hpc.errors import nearest

# Pydantic's words for what is a list or a section in YAML.
_WORDS = (
    (
        re.compile(r"a valid dictionary( or instance of \w+| or object to extract fields from)?"),
        "a section: {key: value}",
    ),
    (re.compile("a valid tuple"), "a list: [...]"),
    (re.compile("^Tuple "), "List "),
    (re.compile(" after validation, not "), ", not "),
)


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first error and its place as one line, with the nearest known key if one is misspelt.

    Parameters
    ----------
    error : ValidationError
    model : type
        The model that the content was validated against.
    """
    # A misspelt key takes precedence over the missing key that it causes.
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    location, message = first["loc"], str(first["msg"]).removeprefix("Value error, ")
    if location and str(location[-1]).startswith("literal["):  # none of several alternatives, each with its own error
        location = location[:-1]
        message = ", or: ".join(str(e["msg"]) for e in errors if e["loc"][:-1] == location)
    (place, known), given = _place(model, location), first.get("input")
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'{nearest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"missing key '{place}'"
    if first["type"] == "union_tag_not_found" and isinstance(given, dict):
        tag = str(first["ctx"]["discriminator"]).strip("'")
        extra = [str(key) for key in given if str(key) not in _place(model, (*first["loc"], str(key)))[1]]
        return (
            f"unknown key '{place}.{extra[0]}'{nearest(extra[0], [tag])}" if extra else f"missing key '{place}.{tag}'"
        )
    for theirs, ours in _WORDS:
        message = theirs.sub(ours, message)
    if not place:
        return message
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | type(None)) else ""
    remedy = "; write it in quotes" if first["type"] == "string_type" and shown else ""
    return f"{place}: {message}{shown}{remedy}"


def _place(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """Return an error's location as the file spells it, and the keys that are known there."""
    kinds: list[Any] = [model]
    shown: list[str] = []
    known: list[str] = []
    for part in location:
        sections = {_tag(kind): kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)}
        if None not in sections and part in sections:  # in pydantic's location the alternative's name, not in the file
            kinds = [sections[str(part)]]
            continue
        shown.append(str(part))
        known = [info.alias or key for section in sections.values() for key, info in section.model_fields.items()]
        fields = [s.model_fields[str(part)].annotation for s in sections.values() if str(part) in s.model_fields]
        kinds = [k for inner in (fields or [a for kind in kinds for a in get_args(kind)]) for k in _alternatives(inner)]
    return ".".join(shown), known


def _alternatives(kind: Any) -> list[Any]:
    """Return the alternatives of a union, or the type itself, without annotations."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for argument in get_args(kind) for inner in _alternatives(argument)]
    return [kind]


def _tag(section: type[BaseModel]) -> str | None:
    """Return the ``name`` that selects a section among its alternatives, or None."""
    name = section.model_fields.get("name")
    return get_args(name.annotation)[0] if name is not None and get_origin(name.annotation) is Literal else None
