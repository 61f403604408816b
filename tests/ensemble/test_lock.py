"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

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
def test_a_holder_on_another_host_is_judged_by_its_counter(tmp_path: Path, monkeypatch, lives: bool) -> None:
    """Such a holder's process cannot be seen from here, and flock may not reach across."""
    monkeypatch.setattr(lock, "_STANDSTILL_SECONDS", 3.0)
    path, ended = tmp_path / "run.lock", threading.Event()
    about = {"host": "elsewhere", "pid": os.getpid(), "since": "then"}
    path.write_text(json.dumps({**about, "beats": 1}))

    def beat() -> None:
        for beats in range(2, 100):
            if ended.wait(0.4):
                return
            path.write_text(json.dumps({**about, "beats": beats}).ljust(256))

    thread = threading.Thread(target=beat if lives else lambda: None)
    thread.start()
    try:
        if lives:
            with pytest.raises(UserError, match="on elsewhere since then"):
                RunLock(path).acquire()
        else:
            taken = RunLock(path)
            taken.acquire()
            taken.release()
    finally:
        ended.set()
        thread.join()


def test_a_lock_of_garbage_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.write_bytes(b"\x00\xffnot json")
    taken = RunLock(path)
    taken.acquire()
    taken.release()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        RunLock(tmp_path / "nowhere" / "run.lock").acquire()
