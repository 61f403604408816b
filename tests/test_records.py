"""Records of files and messages are read as they were written; anything else is refused, in files in one line."""

from __future__ import annotations

import enum
import importlib
import json
import math
import pickle
import pkgutil
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from hydragnn_hpc import records
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.paths import MemberFolder, read_record, write_record
from hydragnn_hpc.records.base import Message, Timestamp
from hydragnn_hpc.records.campaign import CampaignRecord
from hydragnn_hpc.records.claim import Claim, RunNumber
from hydragnn_hpc.records.dataset import ExportedDataset, Manifest
from hydragnn_hpc.records.doctor import Adios2Answer, Diagnosis, MpiAnswer, TorchAnswer
from hydragnn_hpc.records.events import Command, Epoch, Event, Failed, MemberEpoch, read_command, read_event, to_line
from hydragnn_hpc.records.jobs import Chain, SubmittedJob
from hydragnn_hpc.records.lock import LockHolder, ProcessIdentity
from hydragnn_hpc.records.member import Failures, Result
from hydragnn_hpc.records.messages import RankMessage
from hydragnn_hpc.records.model import CheckpointFacts, ModelFacts
from hydragnn_hpc.records.pace import PaceAnswer, PaceQuestion
from hydragnn_hpc.records.recipe import FittedReference, Requirements, StagedRecipe
from hydragnn_hpc.records.remarks import CampaignRemarks
from hydragnn_hpc.records.run import LogLine, Progress
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.records.summary import DatasetSummary

ROOT = Path(__file__).parents[1]
# Of files, and of processes that answer in JSON.
KINDS: tuple[type[BaseModel], ...] = (
    Result, Failures, Manifest, DatasetSummary, CampaignRemarks, Progress, Rungs, RunNumber, Claim, LogLine,
    LockHolder, ProcessIdentity, Chain, SubmittedJob, ExportedDataset, Requirements,
    PaceQuestion, PaceAnswer, MpiAnswer, TorchAnswer, Adios2Answer, Diagnosis,
)  # fmt: skip
IN_OTHER_FILES = {
    StagedRecipe: "its numbers may be NaN: a test of its own below",
    ModelFacts: "beside tensors: a test of its own below",
    CheckpointFacts: "beside tensors: tests/member/test_checkpoint.py",
    CampaignRecord: "YAML: tests/test_any_campaign.py",
}
Place = tuple[str | int, ...]
"""Keys and indices that lead to a value in plain data."""
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def json_of(floats: st.SearchStrategy[float]) -> st.SearchStrategy:
    """Return a strategy that draws JSON, with the floats that are allowed."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=5,
    )


JSON = json_of(st.floats())
PLAIN = {
    int: st.integers(0, 2**62),
    float: st.floats(0, 1e100),
    str: TEXT,
    bool: st.booleans(),
    types.NoneType: st.none(),
    Path: TEXT.map(Path),
    Any: json_of(st.floats(allow_nan=False, allow_infinity=False)),
}


def values_of(kind: Any) -> st.SearchStrategy:
    """Return a strategy that draws values of a declared type."""
    if kind == Timestamp:
        return st.datetimes().map(lambda t: t.isoformat())
    if kind in PLAIN:
        return PLAIN[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        bounds = [m for field in inner[1:] for m in getattr(field, "metadata", ())]
        patterns = [m.pattern for m in bounds if hasattr(m, "pattern")]
        fewest = max((m.min_length for m in bounds if hasattr(m, "min_length")), default=0)
        of_kind = st.from_regex(patterns[0], fullmatch=True) if patterns else values_of(inner[0])
        return of_kind.filter(lambda drawn: len(drawn) >= fewest) if fewest else of_kind
    if isinstance(kind, enum.EnumMeta):
        return st.sampled_from(kind)
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
    least = {key: m.ge for key, name in fields.items() for m in kind.model_fields[name].metadata if hasattr(m, "ge")}
    return (
        st.fixed_dictionaries({key: values_of(hints[name]) for key, name in fields.items()})
        .filter(lambda drawn: all(drawn[key] is None or drawn[key] >= ge for key, ge in least.items()))
        .map(lambda drawn: kind(**drawn))
    )


VALUES = {kind: values_of(kind) for kind in KINDS}


def parts_of(kind: Any) -> set[type]:
    """Return the records that a declared type consists of, with those that they are derived from."""
    inner = [*typing.get_args(kind)]
    own: set[type] = set()
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        own = {*kind.__mro__}
        inner += [field.annotation for field in kind.model_fields.values()]
    return own.union(*map(parts_of, inner))


def test_every_record_is_tested() -> None:
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(records.__path__, f"{records.__name__}.")]
    declared = {
        kind for m in modules for kind in vars(m).values() if isinstance(kind, type) and issubclass(kind, BaseModel)
    } - {BaseModel, RootModel}
    assert len(declared) > 80
    untested = declared - set().union(*map(parts_of, (*KINDS, *IN_OTHER_FILES, Event, Command, RankMessage)))
    assert not untested
    # A part of another record that is also read alone is tested alone.
    text = "".join(path.read_text("utf-8") for path in (ROOT / "hydragnn_hpc").rglob("*.py"))
    read = {*re.findall(r"\bread_record\(.*?, (?:\w+\.)?(\w+)\)", text)}
    read |= {*re.findall(r"(\w+)\.model_validate(?:_json)?\(", text)}
    assert {Result, Claim, Rungs} <= {kind for kind in declared if kind.__name__ in read} <= {*KINDS, *IN_OTHER_FILES}


@given(message=values_of(Event) | values_of(Command), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_message_is_read_as_it_was_sent(message: Event | Command, data: st.DataObject) -> None:
    """A changed line is another message, or refused with the one error that its reader expects."""
    line, parse = to_line(message), read_event if isinstance(message, Event) else read_command
    assert parse(line) == message and line.count(b"\n") == 1
    content = json.loads(line)
    change = data.draw(st.tuples(st.sampled_from(["replace", "remove", "add"]), JSON))
    made = json.dumps(changed(content, data.draw(st.sampled_from(places(content))), change)).encode()
    for damaged in (made, line[: data.draw(st.integers(0, len(line) - 2))]):
        try:
            assert isinstance(parse(damaged), Message)
        except ValueError:
            continue


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_message_may_hold_infinity(loss: float) -> None:
    message = Epoch(
        variant="H", members=(MemberEpoch(replica=0, epoch=1, validation_loss=loss, learning_rate=0.1, seconds=1.0),)
    )
    assert repr(read_event(to_line(message))) == repr(message)


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
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        read_event(line)


@given(message=values_of(RankMessage))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_message_between_ranks_is_received_as_it_was_sent(message: RankMessage) -> None:
    """mpi4py sends it pickled."""
    received = pickle.loads(pickle.dumps(message))
    assert received == message and type(received) is type(message)


def places(content: Any, above: Place = ()) -> list[Place]:
    """Return the place of every value in plain data."""
    found = [above]
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found += places(value, (*above, key))
    return found


def changed(content: Any, place: Place, change: tuple[str, Any]) -> Any:
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
    assert holds(written, content)


def holds(written: Any, content: Any) -> bool:
    """Whether a record holds all of a file's content; keys without a value need not be written."""
    if isinstance(content, dict):
        return all(value is None or holds(written.get(key), value) for key, value in content.items())
    if isinstance(content, list):
        return len(content) == len(written) and all(map(holds, written, content))
    return bool(written == content)


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
