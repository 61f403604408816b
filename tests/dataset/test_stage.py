"""Node-local copies under faults: crashing and hanging readers, kills, several runs at once, no space."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import reseal

from hydragnn_hpc import processes
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build.prepare import fit_scaling
from hydragnn_hpc.dataset.staged import copies, room, staging
from hydragnn_hpc.dataset.staged.copies import open_staged
from hydragnn_hpc.dataset.staged.room import node_local_parent
from hydragnn_hpc.dataset.staged.staging import Staging
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import Property
from tests.storage import small_disk
from tests.waiting import wait_for

HOLD = """
import sys, time
from pathlib import Path
from hydragnn_hpc.dataset.staged.staging import Staging
with Staging(Path(sys.argv[1]), Path(sys.argv[2])) as staging:
    print(staging.folder, flush=True)
    time.sleep(float(sys.argv[3]))
print(any(name in sys.modules for name in ("torch", "adios2")))
"""


def holder(bp: Path, parent: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds a copy for ``seconds``."""
    command = [sys.executable, "-c", HOLD, str(bp), str(parent), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """Node-local storage for this test alone."""
    folder = tmp_path / "node-local"
    folder.mkdir()
    return folder


@pytest.fixture
def hurt(small_bp: Path, tmp_path: Path) -> Callable[[str, Callable[[bytes], bytes]], Path]:
    """``hurt(name, change)``: a data set with damage that its manifest does not reveal, so that it reaches ADIOS2."""

    def make(name: str, change: Callable[[bytes], bytes]) -> Path:
        bp = Path(shutil.copytree(small_bp, tmp_path / "hurt.bp"))
        (bp / name).write_bytes(change((bp / name).read_bytes()))
        reseal(bp)
        return bp

    return make


def copying(bp: Path) -> list[int]:
    """The IDs of the processes that copy this data set."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hydragnn_hpc.dataset.staged.copies" in words and str(bp).encode() in words:
            found.append(int(entry.parent.name))
    return found


def test_a_copy_is_private_named_after_the_content_and_as_large_as_estimated(small_bp: Path, parent: Path) -> None:
    manifest = store.read_manifest(small_bp)
    beats = []
    with Staging(small_bp, parent, lambda: beats.append(1)) as staging:
        assert staging.folder.parent == parent and manifest.sha256[:12] in staging.folder.name
        assert staging.folder.stat().st_mode & 0o777 == 0o700
        size = sum(p.stat().st_size for p in staging.folder.iterdir())
        assert size <= copies.space_needed(manifest) <= size + 1_100_000
        assert beats
        staged = open_staged(staging.folder)
        assert all(isinstance(a, np.memmap) for a in staged.arrays.values())
        with pytest.raises(ValueError, match="read-only"):
            staged.arrays["node_inputs"][0] = 1
    assert not list(parent.iterdir())


def test_a_reader_that_crashes_is_reported(hurt, parent: Path) -> None:
    """An emptied index is a segmentation fault of ADIOS2 2.12."""
    bp = hurt("md.idx", lambda data: b"")
    with pytest.raises(UserError, match=r"hurt\.bp.*SIGSEGV|finds no array"), Staging(bp, parent):
        pass
    assert not list(parent.iterdir())


def test_a_reader_that_hangs_is_ended_and_reported(hurt, parent: Path) -> None:
    """ADIOS2 2.12 waits forever for the rest of truncated data, and ignores an interrupt."""
    bp = hurt("data.0", lambda data: data[: len(data) // 2])
    started = time.monotonic()
    with pytest.raises(UserError, match="made no progress for 3 s"), Staging(bp, parent, silence=3.0):
        pass
    assert time.monotonic() - started < 60
    assert not list(parent.iterdir())
    assert not copying(bp)


def test_a_child_that_only_computes_makes_progress(tmp_path: Path) -> None:
    """Fitting references to thousands of compositions takes minutes without a byte read or written."""
    program = "print(flush=True)\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        before = staging._progress(child.pid, tmp_path)
        wait_for(lambda: staging._progress(child.pid, tmp_path) > before)
    finally:
        child.kill()
        child.communicate()


def test_a_killed_run_takes_its_copying_child_along(hurt, parent: Path) -> None:
    bp = hurt("data.0", lambda data: data[: len(data) // 2])
    run = holder(bp, parent, 0)
    wait_for(lambda: bool(copying(bp)))
    time.sleep(0.5)
    run.kill()
    run.communicate()
    wait_for(lambda: not copying(bp), 10)


def test_copies_of_killed_runs_are_removed_by_the_next_and_those_of_living_runs_stay(
    small_bp: Path, parent: Path
) -> None:
    runs = [holder(small_bp, parent, 60) for _ in range(2)]
    folders = [Path(run.stdout.readline().strip()) for run in runs if run.stdout]
    runs[0].send_signal(signal.SIGKILL)
    runs[0].communicate()
    assert all(f.is_dir() for f in folders)
    with Staging(small_bp, parent) as staging:
        assert sorted(parent.iterdir()) == sorted([folders[1], staging.folder])
        open_staged(folders[1])
    runs[1].kill()
    runs[1].communicate()


def test_several_runs_stage_on_one_node_at_once(small_bp: Path, parent: Path) -> None:
    runs = [holder(small_bp, parent, 0.1) for _ in range(3)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert out.splitlines()[1] == "False", "the rank's process loaded torch or adios2"
    assert not list(parent.iterdir())


def test_a_folder_removed_before_its_lock_is_held_is_made_again(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may take the new folder for an abandoned one, just before its lock is held."""
    real, stolen = staging.fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        if not stolen:
            stolen.extend(parent.iterdir())
            shutil.rmtree(stolen[0])
        real(handle, how)

    monkeypatch.setattr(staging.fcntl, "flock", flock)
    folder, lock = staging._own_folder(parent, "hydragnn-hpc-x-")
    assert folder.is_dir() and folder != stolen[0] and os.fstat(lock).st_nlink == 1
    os.close(lock)


def test_a_file_system_without_flock(small_bp: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data can be staged there, and only the copies of dead processes are removed."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "not on this file system")

    monkeypatch.setattr(staging.fcntl, "flock", missing)
    dead = staging._own_folder(parent, "hydragnn-hpc-dead-")[0]
    (dead / "lock").write_text(json.dumps({**processes.identity().model_dump(), "started": "17"}))
    unknown = staging._own_folder(parent, "hydragnn-hpc-unknown-")[0]
    (unknown / "lock").write_text("")
    with Staging(small_bp, parent) as copy:
        assert not dead.exists() and unknown.exists()
        assert staging.remove_abandoned(parent) == 0
        open_staged(copy.folder)
    assert list(parent.iterdir()) == [unknown]


def test_links_among_the_copies_are_not_followed(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (parent / "hydragnn-hpc-link").symlink_to(tmp_path / "precious")
    assert staging.remove_abandoned(parent) == 0
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["file"]


def test_an_incomplete_copy_is_not_opened(small_bp: Path, parent: Path, tmp_path: Path) -> None:
    with Staging(small_bp, parent) as staging:
        for name, change in (
            ("pos.npy", lambda p: p.unlink()),
            ("pos.npy", lambda p: p.write_bytes(b"")),
            ("pos.npy", lambda p: p.write_bytes(p.read_bytes()[:-8])),
            ("manifest.json", lambda p: p.unlink()),
            ("manifest.json", lambda p: p.write_text("{")),
        ):
            copy = Path(shutil.copytree(staging.folder, tmp_path / "copy"))
            change(copy / name)
            with pytest.raises(UserError, match="run the same command again"):
                open_staged(copy)
            shutil.rmtree(copy)


def test_a_missing_data_set_is_reported(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data set"), Staging(tmp_path / "none.bp", parent):
        pass
    assert not list(parent.iterdir())


def test_storage_without_space_is_reported(small_bp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", "128k") as disk:
        with pytest.raises(UserError, match=r"0\.1 MB free.*needed.*--stage-dir"), Staging(small_bp, disk):
            pass
        monkeypatch.setenv("TMPDIR", str(disk))
        with Staging(small_bp, None) as elsewhere:  # a full folder is passed over
            assert elsewhere.folder.parent in (Path("/dev/shm"), Path("/tmp"))
        child = staging._own_folder(disk, "hydragnn-hpc-x-")[0]
        command = [sys.executable, "-m", "hydragnn_hpc.dataset.staged.copies", str(small_bp), str(child)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "no space left" in done.stderr.lower() and "Traceback" not in done.stderr
        shutil.rmtree(child)
        (disk / "filler").write_bytes(bytes(disk.stat().st_blksize * 31))
        with pytest.raises(OSError, match="No space left"):
            staging._own_folder(disk, "hydragnn-hpc-x-")
        assert [p.name for p in disk.iterdir()] == ["filler"]


def test_copies_go_to_the_first_folder_that_can_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert node_local_parent(None) == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    assert node_local_parent(None) in (Path("/dev/shm"), Path("/tmp"))
    monkeypatch.delenv("TMPDIR")
    assert node_local_parent(None) in (Path("/dev/shm"), Path("/tmp"))
    assert node_local_parent(tmp_path, 10) == tmp_path
    (tmp_path / "file").touch()
    for name in ("gone", "file"):
        with pytest.raises(UserError, match=f"{name} is not a folder"):
            node_local_parent(tmp_path / name)
    with pytest.raises(UserError, match=r"/dev/shm has .* MB free of .*; /tmp has .*--stage-dir"):
        node_local_parent(None, 10**18)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with pytest.raises(UserError, match=r"data set: /tmp has [^/]*; /dev/shm has [^/]*$"):
        node_local_parent(None, 10**18)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("root", ["/", "/job"], ids=["whole tree", "container"])
def test_a_copy_in_memory_counts_against_the_jobs_memory_limit(version: int, root: str, tmp_path: Path) -> None:
    """Slurm limits a step; the limit of any group round the process's own holds as well."""
    point, proc = tmp_path / "groups", tmp_path / "proc"
    proc.mkdir()
    kind = "cgroup2 cgroup rw" if version == 2 else "cgroup cgroup rw,memory"
    (proc / "mountinfo").write_text(
        f"1 0 0:5 / / rw - ext4 /dev/a rw\n2 1 0:30 {root} {point} rw,nosuid shared:9 - {kind}\n"
        f"3 1 0:31 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n"
    )
    (proc / "cgroup").write_text("0::/job/step/task\n" if version == 2 else "5:cpu:/\n4:memory:/job/step/task\n")
    assert room.memory_allowed(proc) == math.inf  # nothing is limited
    prefix, names = ("total_", room._V1) if version == 1 else ("", room._V2)
    for group, limit in (("job", 8 << 30), ("job/step", 4 << 30), ("job/step/task", "max" if version == 2 else 2**63)):
        folder = point / group.removeprefix(root[1:]).lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{3 << 30}\n")
        (folder / "memory.stat").write_text(f"cache 7\n{prefix}inactive_file {1 << 30}\n{prefix}active_file 5\n")
    assert room.memory_allowed(proc) == (2 << 30) + 5


def test_the_mount_of_a_group_whose_name_begins_alike_is_not_the_groups(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(f"2 1 0:30 /job/1 {tmp_path}/groups rw - cgroup2 cgroup rw\n")
    (tmp_path / "cgroup").write_text("0::/job/12\n")
    folder = tmp_path / "groups/job/12"
    folder.mkdir(parents=True)
    for name, content in (("memory.max", "70"), ("memory.current", "30"), ("memory.stat", "inactive_file 5\n")):
        (folder / name).write_text(content)
    assert room.memory_allowed(tmp_path) == 45


def test_a_copy_beyond_the_jobs_memory_limit_goes_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(room, "memory_allowed", lambda: 1e6)
    assert node_local_parent(None, 10) == Path("/dev/shm")
    assert node_local_parent(None, 2_000_000) == Path("/tmp")
    with pytest.raises(
        UserError, match=r"/dev/shm is in memory, and the 2\.0 MB needed are more than half of the 1\.0 MB"
    ):
        node_local_parent(Path("/dev/shm"), 2_000_000)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_scaled_values_fill_zero_to_one(values: list[float]) -> None:
    array = np.array(values)[:, None]
    low, high = array.min(axis=0).tolist(), array.max(axis=0).tolist()
    scaled = copies.scaled(array, low, high)
    assert scaled.dtype == np.float32 and np.isfinite(scaled).all()
    if low == high:
        assert (scaled == 0).all()
    else:
        assert scaled.min() == 0 and scaled.max() == 1
        np.testing.assert_allclose(
            scaled.astype(float) * (high[0] - low[0]) + low[0], array, atol=1e-6 * (high[0] - low[0])
        )


@settings(max_examples=60, deadline=None)
@given(level=st.sampled_from(["graph", "node"]), over=st.sampled_from(["all", "train"]), width=st.integers(1, 4),
       seed=st.integers(0, 999))  # fmt: skip
def test_components_are_scaled_over_the_chosen_samples_and_missing_values_stay(
    level: str, over: str, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 4, 12))])
    split = np.array([0, 0, 0, *rng.integers(0, 3, 9)], np.uint8)
    part = np.repeat(split, np.diff(offsets)) if level == "node" else split
    values = rng.normal(size=(len(part), width)) * 10.0 ** rng.integers(-6, 6, width) + rng.normal(size=width)
    values[2:][rng.random((len(part) - 2, width)) < 0.3] = np.nan  # the first two are of the training set
    arrays = {"split": split, "atom_offsets": offsets, "target_x": values}
    fitted = fit_scaling(arrays, over, [Property("x", level, "eV", "x")])["x"]
    scaled = copies.scaled(values, fitted.minimum, fitted.maximum)
    assert np.array_equal(np.isnan(scaled), np.isnan(values)) and fitted.missing == np.isnan(values).sum()
    used = scaled[part == 0] if over == "train" else scaled
    assert np.nanmin(used, axis=0).tolist() == [0.0] * width and np.nanmax(used, axis=0).tolist() == [1.0] * width
    low, high = np.array(fitted.minimum), np.array(fitted.maximum)
    error = np.abs(scaled.astype(float) * (high - low) + low - values)
    assert np.nanmax(error / np.fmax(np.abs(values - low), high - low)) < 1e-6


def test_the_staged_manifest_is_that_of_the_data_set(small_bp: Path, parent: Path) -> None:
    with Staging(small_bp, parent) as staging:
        kept = json.loads((staging.folder / "manifest.json").read_text())
    assert kept == store.read_manifest(small_bp).plain()


def test_a_copy_is_private_whatever_the_umask(small_bp: Path, parent: Path) -> None:
    """Root becomes another user, who cannot read what is in it."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    parent.chmod(0o1777)
    before = os.umask(0)
    try:
        with Staging(small_bp, parent) as staging:
            script = f"import os; os.chdir({str(parent)!r}); os.setuid(12345); os.listdir({staging.folder.name!r})"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    finally:
        os.umask(before)
    assert "PermissionError" in done.stderr


def test_a_copy_that_another_user_changed_or_linked_is_not_opened(small_bp: Path, parent: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make files of another user")
    with Staging(small_bp, parent) as staging:
        mine = parent / "mine"
        for put in (lambda: os.chown(mine, 12345, -1), lambda: mine.chmod(0o777)):
            shutil.copytree(staging.folder, mine)
            open_staged(mine)
            put()
            with pytest.raises(UserError, match=r"changed by another user.*--stage-dir"):
                open_staged(mine)
            shutil.rmtree(mine)
        mine.symlink_to(staging.folder)
        with pytest.raises(UserError, match="changed by another user"):
            open_staged(mine)
