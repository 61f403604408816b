"""Records of files: what is written is read back the same; whatever else is in a file is refused in one line."""

from __future__ import annotations

import json
import math
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.paths import MemberFolder, read_record, write_record
from hydragnn_hpc.records.base import Timestamp
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.jobs import Chain, SubmittedJob
from hydragnn_hpc.records.lock import LockHolder
from hydragnn_hpc.records.member import Failures, Result
from hydragnn_hpc.records.model import ModelFacts
from hydragnn_hpc.records.recipe import FittedReference, StagedRecipe
from hydragnn_hpc.records.remarks import CampaignRemarks
from hydragnn_hpc.records.run import LogLine, Progress

KINDS: tuple[type[BaseModel], ...] = (
    Result, Failures, Manifest, CampaignRemarks, Progress, LogLine, LockHolder, Chain, SubmittedJob,
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
PLAIN = {
    int: st.integers(0, 2**62),
    float: st.floats(0, 1e100),
    str: TEXT,
    bool: st.booleans(),
    types.NoneType: st.none(),
    Any: JSON,
}


def values_of(kind: Any) -> st.SearchStrategy:
    """Return a strategy that draws values of a declared type."""
    if kind == Timestamp:
        return st.datetimes().map(lambda t: t.isoformat())
    if kind in PLAIN:
        return PLAIN[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        patterns = [m.pattern for field in inner[1:] for m in getattr(field, "metadata", ()) if hasattr(m, "pattern")]
        return st.from_regex(patterns[0], fullmatch=True) if patterns else values_of(inner[0])
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, inner))
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is tuple and Ellipsis not in inner:
        return st.tuples(*map(values_of, inner))
    if origin in (tuple, list):
        return st.lists(values_of(inner[0]), max_size=3).map(origin)
    if origin is dict:
        return st.dictionaries(values_of(inner[0]), values_of(inner[1]), max_size=3)
    fields = {f.alias or name: name for name, f in kind.model_fields.items()}
    hints = typing.get_type_hints(kind, include_extras=True)
    if "root" in fields:
        return values_of(kind.model_fields["root"].annotation).map(kind)
    return st.fixed_dictionaries({key: values_of(hints[name]) for key, name in fields.items()}).map(lambda v: kind(**v))


VALUES = {kind: values_of(kind) for kind in KINDS}


def places(content: Any, above: tuple = ()) -> list[tuple]:
    """Return the path of every value in plain data."""
    found = [above]
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found += places(value, (*above, key))
    return found


def changed(content: Any, place: tuple, change: tuple) -> Any:
    """Return plain data with one value replaced or removed, or one key added."""
    what, value = change
    if not place:
        return value
    key, rest = place[0], place[1:]
    made = content.copy()
    if rest:
        made[key] = changed(content[key], rest, change)
    elif what == "remove":
        del made[key]
    elif what == "add" and isinstance(made, dict):
        made["another"] = value
    else:
        made[key] = value
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_record_is_read_as_it_was_written(
    kind: type[BaseModel], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "record.json"
    record = data.draw(VALUES[kind])
    write_record(path, record)
    assert read_record(path, kind) == record
    before = path.read_bytes()
    write_record(path, read_record(path, kind))
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_is_changed_is_read_as_it_is_or_refused_in_one_line(
    kind: type[BaseModel], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.json"
    content = json.loads(json.dumps(data.draw(VALUES[kind]).model_dump(mode="json", by_alias=True)))
    change = data.draw(st.tuples(st.sampled_from(["replace", "remove", "add"]), JSON))
    content = changed(content, data.draw(st.sampled_from(places(content))), change)
    path.write_text(json.dumps(content), "utf-8")
    try:
        record = read_record(path, kind)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return
    written = record.model_dump(mode="json", by_alias=True)
    # A key with a default may have been removed.
    assert change[0] == "remove" or written == content


@given(recipe=values_of(StagedRecipe))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_staged_recipe_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, recipe: StagedRecipe
) -> None:
    """A reference may hold NaN, which other records must not."""
    path = tmp_path_factory.getbasetemp() / "recipe.json"
    unknown = FittedReference(
        kind="composition", level="graph", elements=[26], compositions=[[1.0]], values=[[[math.nan]]], scale=[1.0]
    )
    references = {**recipe.references, "unknown": unknown}
    path.write_text(json.dumps(recipe.model_copy(update={"references": references}).model_dump()))
    found = read_record(path, StagedRecipe)
    assert repr(found.references.pop("unknown")) == repr(unknown)
    assert (found.wanted, found.inputs, found.references) == (recipe.wanted, recipe.inputs, recipe.references)


@given(facts=values_of(ModelFacts), data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_whatever_a_model_holds_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, facts: ModelFacts, data: st.DataObject
) -> None:
    files = MemberFolder(tmp_path_factory.getbasetemp(), "H", 7)
    files.make()
    content = {**facts.plain(), "weights": {"w": torch.zeros(3)}}
    torch.save(content, files.model)
    assert repr(read_model(files).facts) == repr(facts)
    change = data.draw(st.tuples(st.sampled_from(["replace", "remove", "add"]), JSON))
    torch.save(changed(content, data.draw(st.sampled_from(places(content))), change), files.model)
    try:
        read_model(files)
    except UserError as error:
        assert "\n" not in str(error) and str(files.model) in str(error)


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"3", b"\xff", b'{"schema": 2}', b"[" * 100_000])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_record_is_refused_in_one_line(kind: type[BaseModel], tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"record\.json: ") as caught:
        read_record(path, kind)
    assert len(str(caught.value)) < 500
    if kind is Result and b"schema" in damage:
        assert "format version 2" in str(caught.value)
