"""Faults of storage and of the clock: full disks, read-only folders, lost or broken files, and a second launch."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import storage
from tests.faults import harness
from tests.outcomes import outcome

pytestmark = pytest.mark.mpi


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with 16 MiB."""
    with storage.small_disk(tmp_path / "disk", "16m") as folder:
        yield folder


def error_lines(text: str) -> list[str]:
    """Return the lines of a program's output that name an error."""
    return [line for line in text.splitlines() if "error:" in line.lower()]


def fill(disk: Path, left_kib: int = 0) -> Path:
    """Fill a disk except for ``left_kib`` KiB; return the file that takes the space."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler = disk / "filler"
    try:
        filler.write_bytes(bytes(max(0, free - left_kib * 1024)))
    except OSError as error:
        assert error.errno == errno.ENOSPC  # the campaign has taken the last bytes: the disk is full all the same
    return filler


@pytest.mark.long
@pytest.mark.parametrize("left_kib", [0, 40])
@pytest.mark.parametrize("first", ["checkpoint.pt", "result.json"])
def test_a_full_disk_is_reported_and_nothing_is_lost(arena, small_disk: Path, first: str, left_kib: int) -> None:
    """The disk fills up while the first checkpoint or result is written; once it has space, a run finishes."""
    out = small_disk / "out"
    launch = arena.launch(out)
    launch.wait_for_file(first)
    filler = fill(small_disk, left_kib)
    code = launch.end()
    assert code in (1, 2, 75), f"exit code {code}\n{launch.tail()}"
    assert "No space left on device" in launch.log.read_text()
    filler.unlink()
    arena.recover(out)


@pytest.mark.long
def test_a_report_on_a_full_disk_is_reported_and_made_again(arena, small_disk: Path) -> None:
    out = small_disk / "out"
    arena.finish(out)
    made = report(out)
    assert made.returncode == 0, made.stderr
    expected = outcome(out)  # with the errors of ensemble means, which a run leaves to the report
    filler = fill(small_disk)
    full = report(out)
    errors = error_lines(full.stderr)
    assert full.returncode == 2 and len(errors) == 1 and "No space left on device" in errors[0], full.stderr
    harness.check_files(out)
    assert outcome(out) == expected
    filler.unlink()
    assert report(out).returncode == 0
    harness.check_clean(arena, out)
    assert outcome(out) == expected


def report(out: Path) -> subprocess.CompletedProcess[str]:
    """Run ``report``."""
    command = [str(harness.BIN / "hydragnn-hpc"), "report", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.long
def test_a_folder_that_turns_read_only_is_reported(arena, small_disk: Path) -> None:
    """Files open for writing stay writable, and no other can be opened: as on a file system after an I/O error."""
    out = small_disk / "out"
    launch = arena.launch(out)
    launch.wait_for_file("checkpoint.pt")
    # A file system with open files cannot be made read-only itself, so a read-only view is mounted over it. The view is
    # made read-only elsewhere first: in place, it would have open files too.
    view = arena.folder / "view"
    view.mkdir()
    subprocess.run(["mount", "--bind", str(small_disk), str(view)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
    subprocess.run(["mount", "--bind", str(view), str(small_disk)], check=True)
    subprocess.run(["umount", str(view)], check=True)
    assert launch.end() in (1, 2), launch.tail()
    log = launch.log.read_text()
    assert "Read-only file system" in log and "Traceback" not in log, log
    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    arena.recover(out)


def test_a_read_only_folder_is_refused_in_one_line(arena, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=16m", str(small_disk)], check=True)
    assert arena.run(small_disk / "out") == 2
    errors = error_lines(arena.last().log.read_text())
    assert len(errors) == 1 and "ead-only" in errors[0], arena.last().tail()


@pytest.mark.long
@pytest.mark.parametrize("how", ["removed", "moved away"])
def test_a_folder_taken_away_under_the_run_ends_it(arena, how: str) -> None:
    out, away = arena.folder / "out", arena.folder / "away"
    launch = arena.launch(out)
    launch.wait_for_file("checkpoint.pt")
    out.rename(away)  # in one step, while files are being written
    if how == "removed":
        shutil.rmtree(away, ignore_errors=True)
    assert launch.end() != 0
    log = launch.log.read_text()
    assert log.count("hydragnn-hpc: error: ") == 1 and str(out) in log and "Traceback" not in log, log
    for left in (away, out):
        shutil.rmtree(left, ignore_errors=True)
    arena.finish(out)
    arena.check_outcome(out)


@pytest.mark.long
@pytest.mark.parametrize(
    "damage", ["truncated", "garbage", "empty", "one bit", "another version", "another schedule", "both broken"]
)
def test_broken_checkpoints_are_reported_and_the_last_whole_one_is_used(arena, damage: str, fault_seed: int) -> None:
    out = arena.folder / "out"
    launch = arena.launch(out)

    def has_both() -> bool:  # the older one is renamed first, and for a moment is the only one
        return any(p.with_name("checkpoint.pt").exists() for p in out.glob("members/*/*/checkpoint.previous.pt"))

    assert launch.wait_until(has_both), launch.tail()
    launch.kill()
    broken = [p for p in out.glob("members/*/*/checkpoint.pt") if not (p.parent / "result.json").exists()]
    assert broken, launch.tail()
    resumable = [p for p in broken if damage != "both broken" and p.with_name("checkpoint.previous.pt").exists()]
    for path in broken:
        spoil(path, damage, random.Random(fault_seed))
        if damage == "both broken":
            spoil(path.with_name("checkpoint.previous.pt"), "garbage", random.Random(fault_seed))
    harness.check_status(out)
    arena.finish(out)
    arena.check_outcome(out)
    for path in broken:
        log = path.with_name("log.txt").read_text()
        assert "checkpoint.pt cannot be used" in log and ("resumed after epoch" in log) is (path in resumable), log


def spoil(path: Path, damage: str, rng: random.Random) -> None:
    """Damage a checkpoint."""
    import torch

    content = path.read_bytes() if path.exists() else b""
    if damage == "another version":
        torch.save({"schema": 999}, path)
    elif damage == "another schedule":
        held = torch.load(path, weights_only=True)
        torch.save({**held, "schedule": {**held["schedule"], "cycle": 3}}, path)
    elif damage == "truncated":
        path.write_bytes(content[: rng.randrange(1, max(2, len(content)))])
    elif damage == "one bit":
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        path.write_bytes(changed)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(rng.randbytes(len(content) or 100))


def test_two_launches_at_the_same_moment(arena) -> None:
    """One of them trains, the other is refused in one line."""
    out = arena.folder / "out"
    both = [arena.launch(out, ranks=1) for _ in range(2)]
    codes = [launch.end() for launch in both]
    assert sorted(codes) == [0, 2], [launch.tail() for launch in both]
    errors = error_lines(both[codes.index(2)].log.read_text())
    assert len(errors) == 1 and "in use" in errors[0], errors
    harness.check_clean(arena, out)
    arena.check_outcome(out)


def test_two_launches_in_one_folder(arena) -> None:
    """The second is refused while the first lives, and leaves it alone; a dead one's lock does not block."""
    out = arena.folder / "out"
    first = arena.launch(out)
    first.wait_for_file("checkpoint.pt")
    second = arena.launch(out, ranks=1)
    assert second.end() == 2 and "error" in second.tail()
    assert first.process.poll() is None
    first.kill()
    assert (out / "run.lock").exists(), "the kill came too late to leave a lock"
    arena.recover(out)


def own_data_set(arena: harness.Arena, raw_data: Path) -> Path:
    """Let the campaign train from a copy of the data set; return the copy."""
    arena.campaign = arena.folder / "campaign.yaml"
    shutil.copy(raw_data / "campaign.yaml", arena.campaign)
    return Path(shutil.copytree(raw_data / "small.bp", arena.folder / "small.bp"))


@pytest.mark.long
@pytest.mark.parametrize("how", ["truncated", "other data"])
def test_a_data_set_changed_between_two_runs_is_refused(arena, raw_data: Path, how: str) -> None:
    copy, out = own_data_set(arena, raw_data), arena.folder / "out"
    launch = arena.launch(out)
    launch.wait_for_file("checkpoint.pt")
    launch.kill()
    if how == "truncated":
        data = copy / "data.0"
        data.write_bytes(data.read_bytes()[:-1000])
    else:
        shutil.rmtree(copy)
        prepare = ["data", "prepare", str(raw_data / "raw"), str(copy), "--seed", "77"]
        subprocess.run([str(harness.BIN / "hydragnn-hpc"), *prepare], check=True, capture_output=True, timeout=120)
    assert arena.run(out) == 2, arena.last().tail()
    errors = error_lines(arena.last().log.read_text())
    assert len(errors) == 1 and "small.bp" in errors[0], arena.last().tail()
    shutil.rmtree(copy)
    shutil.copytree(raw_data / "small.bp", copy)
    arena.recover(out)


@pytest.mark.long
def test_a_data_set_changed_under_a_run_does_not_reach_it(arena, raw_data: Path) -> None:
    """A run trains on its node-local copy, which is made after the check."""
    copy, out = own_data_set(arena, raw_data), arena.folder / "out"
    launch = arena.launch(out)
    launch.wait_for_file("checkpoint.pt")
    (copy / "data.0").write_bytes(b"")
    assert launch.end() == 0, launch.tail()
    arena.check_outcome(out)


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) {
  long seconds = 0;
  FILE *file = fopen(getenv("CLOCK_OFFSET"), "r");
  if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
  return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(clock, now);
  if (code == 0 && clock == CLOCK_REALTIME) now->tv_sec += offset();
  return code;
}
int gettimeofday(struct timeval *now, void *zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int code = real(now, zone);
  if (code == 0) now->tv_sec += offset();
  return code;
}
time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}
"""


@pytest.mark.long
def test_a_clock_that_jumps(arena) -> None:
    """While members train, the wall clock jumps to a day ahead, and then to a day behind; no rank is taken for dead."""
    source, library, clock = (arena.folder / name for name in ("clock.c", "clock.so", "clock"))
    source.write_text(CLOCK)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("shifting the clock of single processes needs a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    clock.write_text("0")
    out = arena.folder / "out"
    environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(clock)}
    launch = arena.launch(out, "--time-limit", "10m", environment=environment)
    launch.wait_for_file("checkpoint.pt")
    clock.write_text("86400")
    assert launch.wait_until(lambda: len(list(out.glob("members/*/*/result.json"))) >= 3), launch.tail()
    clock.write_text("-86400")
    assert launch.end() == 0, launch.tail()
    arena.check_outcome(out)
    assert not list(out.glob("members/*/*/failure.json"))
    results = [json.loads(p.read_text()) for p in out.glob("members/*/*/result.json")]
    assert all(0 < r["seconds"] < 100 for r in results)
    days = {r["sessions"][-1]["ended"][:10] for r in results}
    assert len(days) > 1, "the clock did not jump"
