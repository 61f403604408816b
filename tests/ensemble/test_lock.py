"""One run at a time in a folder."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hydragnn_hpc import processes
from hydragnn_hpc.ensemble import lock
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from hydragnn_hpc.ensemble.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""
ELSEWHERE = {"host": "elsewhere", "pid": 7, "since": "2026-01-01 12:00:00", "token": "0" * 16, "beats": 3}


def test_the_second_is_refused_while_the_first_lives_and_not_after(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(UserError, match=rf"is in use: process {holder.pid} on "):
        RunLock(path).acquire()
    holder.kill()
    holder.wait()
    assert path.exists()
    again = RunLock(path)
    started = time.monotonic()
    again.acquire()
    assert time.monotonic() - started < 10, "a dead run's lock blocked"
    again.release()
    assert not path.exists()


@pytest.mark.parametrize("lives", [True, False])
def test_a_holder_on_another_host_is_judged_by_its_counter(tmp_path: Path, lives: bool) -> None:
    """Its process cannot be seen from this host, and flock may not work between hosts."""
    path, ended = tmp_path / "run.lock", threading.Event()
    path.write_text(json.dumps({**ELSEWHERE, "beats": 1}))

    def beat() -> None:
        for beats in range(2, 100):
            if ended.wait(0.4):
                return
            path.write_text(json.dumps({**ELSEWHERE, "beats": beats}).ljust(256))

    thread = threading.Thread(target=beat if lives else lambda: None)
    thread.start()
    try:
        if lives:
            with pytest.raises(UserError, match="on elsewhere since 2026-01-01 12:00:00"):
                RunLock(path, standstill=3.0).acquire()
        else:
            taken = RunLock(path, standstill=3.0)
            taken.acquire()
            taken.release()
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("content", [b"", b"\x00\xffnot json", b"[" * 9000, b"[]", b'{"host": 3}'])
def test_a_lock_of_garbage_does_not_block(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.lock"
    path.write_bytes(content)
    taken = RunLock(path, standstill=0.5)
    taken.acquire()
    taken.release()
    assert list(tmp_path.iterdir()) == []


OF_ANOTHER_VERSION = json.dumps({**ELSEWHERE, "unknown": 1}).encode().ljust(512)


@pytest.mark.parametrize(
    ("content", "seconds"),
    [(b"short", 4), (b"\x00\xff" * 256, 4), (b"{" * 512, 4), (b"[" * 90000, 4), (OF_ANOTHER_VERSION, 60)],
    ids=["short", "binary", "braces", "nested", "another version"],
)
def test_only_a_record_is_watched_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, seconds: float
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(lock, "_changes", lambda path, before, limit: waits.append(limit))
    path = tmp_path / "run.lock"
    path.write_bytes(content)
    taken = RunLock(path)
    taken.acquire()
    taken.release()
    assert waits == [seconds]


RACE = """
import errno, fcntl, os, sys, time
from pathlib import Path
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.errors import UserError
path, links, moment = Path(sys.argv[1]), sys.argv[2] == "links", float(sys.argv[3])
def missing(*arguments):
    raise OSError(errno.ENOSYS, "not on this file system")
fcntl.flock = missing
if not links:
    os.link = missing
refuse = RunLock._refuse_living
def refuse_and_wait(*arguments):  # until all have seen the same dead holder
    refuse(*arguments)
    time.sleep(0.3)
RunLock._refuse_living = refuse_and_wait
lock = RunLock(path, standstill=0.3)
while time.time() < moment:
    pass
try:
    lock.acquire()
    print("holds", flush=True)
except UserError as error:
    print(error, flush=True)
input()
"""


@pytest.mark.parametrize("links", ["links", "no links"])
@pytest.mark.parametrize("before", ["nothing", "a dead run", "a dead run and a dead claim on it", "garbage"])
def test_one_of_many_takes_it_on_a_file_system_without_flock(tmp_path: Path, links: str, before: str) -> None:
    path = tmp_path / "run.lock"
    if before.startswith("a dead run"):
        path.write_text(json.dumps(ELSEWHERE))
    if before.endswith("claim on it"):
        (tmp_path / f".tmp-run.lock-{'0' * 16}").write_text(json.dumps({**ELSEWHERE, "token": "a" * 16}))
    if before == "garbage":
        path.write_text("garbage")
    command = [sys.executable, "-c", RACE, str(path), links, str(time.time() + 0.8)]
    claimants = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [claimant.stdout.readline().strip() for claimant in claimants if claimant.stdout]
    pids = [claimant.pid for claimant, word in zip(claimants, said, strict=True) if word == "holds"]
    assert len(pids) == 1, said
    assert json.loads(path.read_text())["pid"] == pids[0]
    # An unknown process: the holder was writing its record at that moment.
    assert all(re.search("is in use: (process|an unknown process)", word) for word in said if word != "holds"), said
    for claimant in claimants:
        claimant.kill()
        claimant.communicate()
    assert [p.name for p in tmp_path.iterdir()] == ["run.lock"]


def test_the_record_keeps_its_form(tmp_path: Path) -> None:
    """Another version's run reads it; it is overwritten in place, and has one length."""
    path = tmp_path / "run.lock"
    held = RunLock(path)
    held.acquire()
    assert list(json.loads(path.read_text())) == [
        "host", "pid", "boot", "namespace", "started", "since", "token", "beats"
    ]  # fmt: skip
    first = path.read_bytes()
    held.beat(force=True)
    assert len(first) == 512 and path.read_bytes() == first.replace(b'"beats": 0', b'"beats": 1')
    held.release()


def test_a_reused_pid_does_not_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({**ELSEWHERE, **processes.identity().model_dump(), "started": "17"}))
    RunLock(path).acquire()
    assert "waiting" not in capsys.readouterr().err


def test_a_holder_that_was_replaced_learns_of_it_and_leaves_the_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    mine = RunLock(path)
    mine.acquire()
    assert mine.beat(force=True)
    content = path.read_text()
    path.unlink()
    assert mine.beat(force=True), "a file that was removed is nobody's"
    path.write_text(content.replace(json.loads(content)["token"], "f" * 16))
    assert not mine.beat(force=True)
    mine.release()
    assert path.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        RunLock(tmp_path / "nowhere" / "run.lock").acquire()


def test_a_lock_that_does_not_fit_on_the_disk_is_not_left(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            RunLock(tmp_path / "run.lock").acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["nowhere", "run.lock"])
def test_a_link_in_its_place_is_refused(tmp_path: Path, target: str) -> None:
    path = tmp_path / "run.lock"
    path.symlink_to(target)
    with pytest.raises(UserError, match="move or remove it"):
        RunLock(path).acquire()
    assert [p.name for p in tmp_path.iterdir()] == ["run.lock"]
