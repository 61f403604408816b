"""Files of a campaign: written whole or not at all; and the states of members that a folder shows."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hydragnn_hpc import ledger, starts
from hydragnn_hpc.atomic import (
    TEMPORARY_PREFIX,
    StorageError,
    new_folder,
    remove_leftovers,
    write_json,
    write_text,
    written_whole,
)
from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Frozen, State
from hydragnn_hpc.paths import CampaignFolder, read_arrays, write_arrays, write_record
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.sections import Start
from tests.member_records import a_failure, a_result
from tests.waiting import wait_for

EXAMPLE = Path(__file__).parents[1] / "jobs" / "campaigns" / "quickstart.yaml"
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(content=JSON)
@settings(max_examples=40, deadline=None)
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, content)
    assert json.loads(path.read_text()) == content


def test_arrays_of_any_name_read_back(tmp_path: Path) -> None:
    """Also those that numpy would take for an argument of its own."""
    written = {name: np.arange(3.0) + k for k, name in enumerate(("H", "H:noise", "file", "allow_pickle"))}
    write_arrays(tmp_path / "arrays.npz", written)
    read = read_arrays(tmp_path / "arrays.npz")
    assert read is not None and [*read] == [*written]
    assert all(np.array_equal(read[name], written[name]) for name in written)


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), written_whole(path, "w") as stream:
        stream.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*free space, check permissions, or choose another folder"):
        write_text(tmp_path / "missing" / "a", "x")


def test_a_full_disk_is_reported_and_the_old_file_stays(tmp_path: Path) -> None:
    script = """
        import resource, sys
        from pathlib import Path
        from hydragnn_hpc.errors import UserError
        from hydragnn_hpc.atomic import write_text
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(Path(sys.argv[1]), "x" * 5000)
        except UserError as error:
            print(error)
    """
    path = tmp_path / "a"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_vanishes_while_another_is_written_is_the_one_that_is_named(tmp_path: Path) -> None:
    for writer in (written_whole(tmp_path / "copy"), new_folder(tmp_path / "copies")):
        with pytest.raises(UserError, match=r"^cannot access .*source: No such file or directory; check that"), writer:
            (tmp_path / "source").read_bytes()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "remedy"), [(errno.EIO, "make it readable"), (errno.EINVAL, "remove it")])
def test_the_remedy_for_a_damaged_file_of_arrays_is_not_that_for_an_unreadable_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(UserError, match=f"^cannot read .*a.npz: {os.strerror(number)}; {remedy}"):
        read_arrays(tmp_path / "a.npz")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """A writer in another process is killed repeatedly; whatever is read meanwhile is whole."""
    script = """
        import sys
        from pathlib import Path
        from hydragnn_hpc.atomic import write_json
        k = 0
        while True:
            k += 1
            write_json(Path(sys.argv[1]), [k] * 20000)
    """
    path = tmp_path / "a.json"
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if path.exists():
                content = json.loads(path.read_text())
                assert len(content) == 20000 and len(set(content)) == 1, content[:3]

    with ThreadPoolExecutor() as pool:
        watched = pool.submit(watch)
        try:
            for moment in (0.25, 0.3, 0.35, 0.4):
                writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path)])
                wait_for(path.exists)
                time.sleep(moment)
                writer.kill()
                writer.wait()
        finally:
            stop.set()
        watched.result()
    leftovers = len(list(tmp_path.glob(".tmp-*")))
    assert remove_leftovers(tmp_path) == leftovers
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_new_folder_removes_what_its_killed_writers_left_whatever_its_name(tmp_path: Path) -> None:
    for name in ("[ab]", "a"):
        (tmp_path / f"{TEMPORARY_PREFIX}{name}-01234567").mkdir()
    with new_folder(tmp_path / "[ab]") as made:
        (made / "x").touch()
    assert {p.name for p in tmp_path.iterdir()} == {"[ab]", f"{TEMPORARY_PREFIX}a-01234567"}


def test_a_folder_that_another_writer_made_first_is_reported_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StorageError, match="something else is in its place"), new_folder(out):
        out.mkdir()
        (out / "theirs").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "theirs"]


@pytest.fixture
def folder(tmp_path: Path) -> CampaignFolder:
    """The folder of a campaign, not made yet."""
    return CampaignFolder(tmp_path / "out")


@pytest.fixture
def frozen(folder: CampaignFolder) -> Frozen:
    """A campaign frozen into ``folder``."""
    campaign = load_campaign(EXAMPLE)
    folder.root.mkdir()
    made = Frozen(campaign, config_hash(campaign, "abc"), "abc")
    ledger.freeze(folder, made)
    return made


def test_a_frozen_campaign_comes_back(folder: CampaignFolder, frozen: Frozen) -> None:
    assert ledger.read_frozen(folder) == frozen


@pytest.mark.parametrize(
    "damage", ["", "campaign: {}", "[]", "hash: x", "\x00", "campaign: {name: 3}\nhash: a", "a: 2026-13-45"]
)
def test_a_damaged_campaign_is_reported_in_one_line(folder: CampaignFolder, frozen: Frozen, damage: str) -> None:
    folder.campaign.write_text(damage)
    with pytest.raises(UserError, match=re.escape(str(folder.campaign))):
        ledger.read_frozen(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("earlier", "abc", "earlier: Input should be a list"),
        ("earlier", ["abc"], "earlier.0: Input should be a section"),
        ("earlier", [{"since": "", "hash": "a"}], "missing key 'earlier.0.campaign'"),
        ("since", [1], "since: Input should be a valid string"),
        ("hash", 3, "hash: Input should be a valid string"),
        ("campaign", 3, "campaign: Input should be a section"),
        ("earlyer", [], "unknown key 'earlyer'; did you mean 'earlier'?"),
    ],
)
def test_a_damaged_key_of_a_frozen_campaign_is_named(
    folder: CampaignFolder, frozen: Frozen, key: str, value: object, message: str
) -> None:
    folder.campaign.write_text(yaml.safe_dump({**yaml.safe_load(folder.campaign.read_text()), key: value}))
    with pytest.raises(UserError) as caught:
        ledger.read_frozen(folder)
    assert str(caught.value).startswith(f"{folder.campaign} was not written by a run: {message}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_campaign(folder: CampaignFolder) -> None:
    with pytest.raises(UserError, match="holds no campaign"):
        ledger.read_frozen(folder)


def test_a_source_that_lacks_the_variant_is_named(folder: CampaignFolder, frozen: Frozen) -> None:
    start = Start.model_validate({"from": str(folder.root), "variant": "HCN"})
    for read in (starts.check_unchanged, starts.source_of):
        with pytest.raises(UserError, match=f"^{re.escape(str(folder.root))} has no variant 'HCN'; did you mean 'HC"):
            read(start)


def test_the_remedy_for_a_damaged_test_set_is_not_that_for_a_members_file(
    folder: CampaignFolder, frozen: Frozen
) -> None:
    folder.test_set.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cannot read .*test_set\.npz: .*; remove it, and run again$"):
        Snapshot(folder, frozen, []).test_set()


def test_the_states_of_a_member(folder: CampaignFolder, frozen: Frozen) -> None:
    def state(running: tuple[str, ...] = ()) -> State:
        return ledger.read_members(folder, frozen.campaign, running)[0].state

    files = folder.member("HCM", 0)
    assert state() is State.WAITING
    assert state(("HCM/00",)) is State.RUNNING
    files.make()
    files.checkpoint.write_bytes(b"x")
    assert state() is State.INTERRUPTED
    half = files.root / f"{TEMPORARY_PREFIX}half"
    half.touch()
    ledger.add_failure(files, a_failure(cause="killed"))
    assert not half.exists(), "what the dead worker left half-written is removed with its failure recorded"
    assert state() is State.INTERRUPTED
    ledger.add_failure(files, a_failure(cause="killed", final=True))
    assert state() is State.FAILED
    ledger.reopen(files)
    assert state() is State.INTERRUPTED
    write_record(files.result, a_result())
    assert state(("HCM/00",)) is State.FINISHED, "a result on disk outweighs an old progress file"
    write_record(files.result, a_result(state="diverged"))
    assert state() is State.DIVERGED
    causes = [f.cause for f in ledger.read_member(folder, "HCM", 0).failures]
    assert causes == ["killed", "killed"], "failures stay on record"


def test_the_previous_checkpoint_alone_still_means_interrupted(folder: CampaignFolder, frozen: Frozen) -> None:
    files = folder.member("M", 1)
    files.make()
    files.previous_checkpoint.write_bytes(b"x")
    assert ledger.read_member(folder, "M", 1).state is State.INTERRUPTED


def test_members_come_in_the_campaigns_order(folder: CampaignFolder, frozen: Frozen) -> None:
    names = [m.name for m in ledger.read_members(folder, frozen.campaign)]
    assert names == [f"{v}/{r:02d}" for v in ("HCM", "HC", "HM", "CM", "H", "C", "M") for r in (0, 1)]


def test_a_damaged_record_of_failures_does_no_harm(folder: CampaignFolder, frozen: Frozen) -> None:
    files = folder.member("HCM", 0)
    files.make()
    for damage in ("[{", "3", "[3]", "{}"):
        files.failure.write_text(damage)
        assert ledger.read_member(folder, "HCM", 0).state is State.WAITING
    ledger.add_failure(files, a_failure())
    assert len(ledger.read_member(folder, "HCM", 0).failures) == 1


def test_a_damaged_result_is_reported(folder: CampaignFolder, frozen: Frozen) -> None:
    files = folder.member("HCM", 0)
    files.make()
    whole = a_result().model_dump(mode="json", by_alias=True)
    files.result.write_text(json.dumps(whole))
    assert ledger.read_member(folder, "HCM", 0).state is State.FINISHED
    changes = (
        {"schema": 2}, {"tasks": [1]}, {"tasks": {"H": 3}}, {"seconds": 1e308}, {"seconds": float("nan")},
        {"validation_loss": float("nan")}, {"sessions": [3]}, {"epochs": True}, {"device": "cpu"}, {"novelty": 1},
    )  # fmt: skip
    for damage in ("{", "[1]", "3", "[" * 100_000, *(json.dumps({**whole, **change}) for change in changes)):
        files.result.write_text(damage)
        found = ledger.read_member(folder, "HCM", 0)
        assert found.state is State.WAITING and found.result is None
        assert "HCM/00/result.json" in found.problem and "the next run sets it aside" in found.problem, damage
    ledger.set_aside(files)
    assert ledger.read_member(folder, "HCM", 0).problem == ""
    assert len(list(files.root.glob("result.json.unreadable-*"))) == 1, "it is kept"


def test_damaged_failures_are_reported_and_set_aside(folder: CampaignFolder, frozen: Frozen) -> None:
    files = folder.member("HCM", 0)
    files.make()
    whole = json.dumps(a_result().model_dump(mode="json", by_alias=True))
    files.result.write_text(whole)
    for damage in ("", "{", "[3]", "[" * 100_000):
        files.failure.write_text(damage)
        found = ledger.read_member(folder, "HCM", 0)
        assert found.state is State.FINISHED and found.failures == ()
        assert "failure.json" in found.problem and "earlier failed attempts are not known" in found.problem, damage
        ledger.set_aside(files)
        assert not files.failure.exists() and ledger.read_member(folder, "HCM", 0).problem == ""
    assert files.result.read_text() == whole and len(list(files.root.glob("failure.json.unreadable-*"))) == 4


def test_a_member_folder_that_is_a_file_is_reported(folder: CampaignFolder, frozen: Frozen) -> None:
    files = folder.member("HCM", 0)
    files.root.parent.mkdir(parents=True)
    files.root.touch()
    assert "Not a directory" in ledger.read_member(folder, "HCM", 0).problem
    ledger.set_aside(files)
    files.make()
    assert ledger.read_member(folder, "HCM", 0).problem == ""
