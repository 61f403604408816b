"""A member's folder belongs to one attempt at a time, the latest."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hydragnn_hpc import ownership
from hydragnn_hpc.atomic import remove_leftovers, write_text, written_whole
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ownership import NotOwnerError, Ownership, begin_run, read_claim
from hydragnn_hpc.paths import CampaignFolder, MemberFolder
from hydragnn_hpc.records.claim import Claim


@pytest.fixture
def folder(tmp_path: Path) -> CampaignFolder:
    """A campaign's folder with the folder of member H/00."""
    folder = CampaignFolder(tmp_path)
    folder.member("H", 0).make()
    return folder


@pytest.fixture
def files(folder: CampaignFolder) -> MemberFolder:
    """The files of member H/00."""
    return folder.member("H", 0)


def owner(files: MemberFolder, run: int, assignment: int, patience: float = 60.0) -> Ownership:
    """Return an attempt at member H/00, whose claim has these numbers."""
    return Ownership(files, Claim(run=run, assignment=assignment), patience)


def test_a_later_claim_takes_the_member_and_an_earlier_one_writes_nothing_more(folder, files) -> None:
    first, second, third = owner(files, 1, 9), owner(files, 2, 1), owner(files, 2, 2)
    first.take(folder)
    write_text(files.history, "first", first.held)
    third.take(folder)
    for late in (first, second):
        with pytest.raises(NotOwnerError, match=r"belongs to assignment 2 of run 2: .* writes nothing more"):
            write_text(files.history, "late", late.held)
        with pytest.raises(NotOwnerError):
            late.take(folder)
    assert files.history.read_text() == "first"
    write_text(files.history, "third", third.held)
    assert files.history.read_text() == "third"
    assert {path.name for path in files.root.iterdir()} == {"history.csv", "claim.json"}


def test_the_claim_is_checked_after_the_file_is_written(folder, files) -> None:
    """Where the member is lost while a long file is written, the file is not put into place."""
    first, second = owner(files, 1, 1), owner(files, 1, 2)
    first.take(folder)
    with pytest.raises(NotOwnerError), written_whole(files.model, hold=first.held) as stream:
        stream.write(b"weights")
        second.take(folder)
    assert not files.model.exists() and remove_leftovers(files.root) == 0


@pytest.mark.parametrize("room", [0, 40])
def test_a_claim_that_does_not_fit_on_the_disk_leaves_no_file(folder, files, room: int) -> None:
    def refused(attempt: Ownership) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # a write beyond it fails, or is cut off
        try:
            with pytest.raises(UserError, match=r"cannot write .*claim"):
                attempt.take(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    refused(owner(files, 1, 1))
    assert not files.claim.exists()
    owner(files, 1, 2).take(folder)
    refused(owner(files, 1, 3))
    assert files.claim.exists(), "an earlier claim is kept"


def test_a_finished_member_is_nobodys(folder, files) -> None:
    first, second = owner(files, 1, 1), owner(files, 1, 2)
    first.take(folder)
    second.take(folder)
    files.checkpoint.write_bytes(b"")
    write_text(files.result, "{}", second.held)
    second.end()
    assert {path.name for path in files.root.iterdir()} == {"result.json"}
    for attempt in (first, second):
        with pytest.raises(NotOwnerError, match="no longer belongs to anyone"), attempt.held():
            pass
    with pytest.raises(NotOwnerError, match="has a result"):
        owner(files, 1, 3).take(folder)
    assert not files.claim.exists()


def test_runs_count_up_and_an_earlier_run_claims_nothing(folder, files) -> None:
    assert [begin_run(folder, []) for _ in range(2)] == [1, 2]
    with pytest.raises(NotOwnerError, match="a later run has begun"):
        owner(files, 1, 7).take(folder)
    assert not files.claim.exists()
    owner(files, 2, 7).take(folder)
    folder.run.write_bytes(b"damaged")
    assert begin_run(folder, [files]) == 3


@pytest.mark.parametrize("content", [b"", b"null", b"{", b"[]", b"\xff", b'{"run": "x", "assignment": 1}'])
def test_a_damaged_claim_is_nobodys(folder, files, content: bytes) -> None:
    files.claim.write_bytes(content)
    assert read_claim(files) is None
    with pytest.raises(NotOwnerError), owner(files, 1, 1).held():
        pass
    owner(files, 1, 1).take(folder)
    assert read_claim(files) == Claim(run=1, assignment=1)


def put_into_place_too_late(folder: CampaignFolder, files: MemberFolder, first: Ownership, second: Ownership) -> None:
    """``second`` takes the member while ``first`` is about to put a file into place, which then fails."""

    @contextlib.contextmanager
    def held_too_long():
        with first.held():
            second.take(folder)
            write_text(files.history, "second", second.held)
            yield

    with pytest.raises(NotOwnerError, match="belongs to assignment 2 of run 1"):
        write_text(files.model, "late", held_too_long)
    assert files.history.read_text() == "second" and not files.model.exists()


def test_a_member_is_taken_from_a_worker_that_stalls_while_it_puts_a_file_into_place(folder, files) -> None:
    first, second = owner(files, 1, 1), owner(files, 1, 2, patience=0.2)
    first.take(folder)
    put_into_place_too_late(folder, files, first, second)
    with second.held():
        pass


def test_a_later_owner_that_stalls_keeps_the_member(folder, files) -> None:
    second = owner(files, 1, 2)
    second.take(folder)
    with second.held():
        for late in (owner(files, 1, 1, patience=0.2).take, owner(files, 1, 2, patience=0.2).take):
            with pytest.raises(UserError, match=r"claim\.json has been locked for 0\.2 s"):
                late(folder)
        with (
            pytest.raises(UserError, match=r"locked for 0\.2 s by a process that has stalled"),
            owner(files, 1, 1, patience=0.2).held(),
        ):
            pass
    assert read_claim(files) == Claim(run=1, assignment=2)


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "not on this file system")

    monkeypatch.setattr(fcntl, "flock", missing)


@pytest.mark.usefixtures("no_flock")
def test_what_is_lost_between_check_and_rename_is_not_put_into_place(folder, files) -> None:
    first, second = owner(files, 1, 1), owner(files, 1, 2)
    first.take(folder)
    write_text(files.history, "first", first.held)
    put_into_place_too_late(folder, files, first, second)


@pytest.mark.usefixtures("no_flock")
def test_a_result_that_comes_while_a_member_is_taken_stays(folder, files, monkeypatch) -> None:
    owner(files, 1, 1).take(folder)

    def remove(root: Path) -> int:
        files.result.write_text("{}")
        return remove_leftovers(root)

    monkeypatch.setattr(ownership, "remove_leftovers", remove)
    with pytest.raises(NotOwnerError, match="has a result"):
        owner(files, 1, 2).take(folder)
    assert {path.name for path in files.root.iterdir()} == {"result.json"}


def test_many_at_once(folder, files) -> None:
    """In any order, the greatest claim owns the member in the end, and no lesser one writes after it."""
    written: list[int] = []

    def attempt(number: int) -> None:
        mine = owner(files, 1, number)
        try:
            mine.take(folder)
            for _ in range(20):
                with mine.held():
                    written.append(number)
        except NotOwnerError:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, range(1, 9)))  # raises what an attempt raised
    assert read_claim(files) == Claim(run=1, assignment=8)
    assert written == sorted(written) and written.count(8) == 20
