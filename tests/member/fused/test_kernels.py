"""Compilation and cache of the kernels: once per node, whole or not at all, with a reason if it is not possible."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hydragnn_hpc.member.fused import kernels
from hydragnn_hpc.member.fused.kernels import unavailable
from tests.member.contract.problem import Problem, agree, random_neighbours, random_samples

LOAD = """
import sys, pathlib
from hydragnn_hpc.member.fused import kernels
kernels.FLAGS = [flag for flag in kernels.FLAGS if flag != "-O3"]
kernels.library("float32", pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile in a fifth of the time, where it does not matter how fast the kernels are."""
    monkeypatch.setattr(kernels, "FLAGS", [flag for flag in kernels.FLAGS if flag != "-O3"])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for compiled kernels."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


def compiled_file(cache: Path, suffix: str = ".so") -> Path:
    """The kernels' library for float32, or its lock, in the cache."""
    (compiler, *_) = kernels.find_compilers()
    return cache / f"fused-float32-{kernels._fingerprint(compiler, 'float32')}{suffix}"


def fake_compiler(folder: Path, name: str, script: str) -> None:
    """Write a shell script in place of a compiler of this name."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_kernels_are_available_here() -> None:
    assert unavailable() == unavailable("float64") == ""


def test_workers_that_start_at_once_compile_once(tmp_path: Path, cache: Path) -> None:
    log = tmp_path / "log"
    fake_compiler(
        tmp_path / "bin", "gcc", f'case "$*" in *member.c*) echo x >> {log};; esac\nexec {shutil.which("gcc")} "$@"'
    )
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", LOAD, str(cache)]
    workers = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    printed = "".join(worker.communicate(timeout=120)[1] for worker in workers)
    assert [worker.returncode for worker in workers] == [0] * 2
    assert printed.count("compiled the fused engine with") == 1
    assert log.read_text().split() == ["x"]
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so"]


@pytest.mark.usefixtures("quick")
def test_a_damaged_file_is_compiled_again(cache: Path) -> None:
    target = compiled_file(cache)
    target.write_text("no library")
    assert kernels.library("float32", cache).fused_lanes() > 1
    assert target.stat().st_size > 10_000


def test_without_a_compiler_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kernels.CompilationError, match="no C compiler"):
        kernels.library("float32", tmp_path)


def test_the_first_error_of_a_failing_compiler_is_reported(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path / "bin", "cc", 'echo "license expired" >&2; exit 3')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(kernels.CompilationError, match="cannot compile the kernels: license expired"):
        kernels.library("float32", cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("broken", ["#!/bin/sh\nexit 1\n", "a program for another processor"])
def test_the_next_compiler_is_tried(broken: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("gcc") or shutil.which("cc")
    fake_compiler(tmp_path / "bin", "gcc", "")
    (tmp_path / "bin" / "gcc").write_text(broken)
    fake_compiler(tmp_path / "bin", "clang", f'PATH=/usr/bin:/bin exec {real} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert kernels.library("float32", cache).fused_lanes() > 1


def test_arm_processors_of_different_models_share_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for part in ("0xd0c", "0xd40"):
        text = f"processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"
        monkeypatch.setattr(Path, "read_text", lambda _, text=text: text)
        found.add(kernels._processor())
    assert len(found) == 2


def test_a_reason_holds_for_the_life_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail(dtype: str) -> None:
        asked.append(dtype)
        raise kernels.CompilationError("the compiler has no licence")

    monkeypatch.setattr(kernels, "library", fail)
    assert [unavailable("float16") for _ in range(2)] == ["the compiler has no licence"] * 2
    assert asked == ["float16"]


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(OSError, match="belongs to another user"):
        kernels._private(tmp_path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ("int64_t graph, width, linears;", "int64_t width, graph, linears;", "Task.graph = 8, but fused/plan.py has 0"),
        ("LOSS_MSE, LOSS_MAE,", "LOSS_MAE, LOSS_MSE,", "LOSS_MSE = 1, but fused/plan.py has 0"),
        (
            "int64_t in, out, weight, bias;",
            "int64_t in, out, weight, bias, new;",
            "sizeof Linear = 40, but fused/plan.py has 32",
        ),
    ],
)
def test_another_interface_is_refused(
    was: str, becomes: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A structure or an enumeration that was changed on one side alone would be read as other numbers."""
    shutil.copytree(kernels.SOURCE, tmp_path / "source")
    header = tmp_path / "source" / "plan.h"
    assert was in header.read_text()
    header.write_text(header.read_text().replace(was, becomes))
    monkeypatch.setattr(kernels, "SOURCE", tmp_path / "source")
    (compiler, *_) = kernels.find_compilers()
    monkeypatch.setattr(kernels, "find_compilers", lambda: [compiler])  # the next one would compile the same
    with pytest.raises(kernels.CompilationError, match=words):
        kernels.library("float32", tmp_path)


@pytest.mark.parametrize("narrow", ["-mno-avx512f", "-mno-avx"])
def test_narrower_processors_compute_the_same(narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths for 32- and 16-byte vectors, on this processor; over one geometry and over several."""
    if os.uname().machine != "x86_64":
        pytest.skip("the narrow paths are chosen by x86 options")
    rng = np.random.default_rng(3)
    problem = Problem(random_samples(rng, [random_neighbours(rng, 9, 20)], 30), members=2)
    index, engines = problem.index(21), [problem.engine(name) for name in ("fused", "fused varying")]
    before = [(problem.step(e, index), e.predict(*problem.stack(e), index[0])) for e in engines]
    flags = [flag for flag in kernels.FLAGS if flag != "-O3"]
    monkeypatch.setattr(kernels, "FLAGS", (*flags, "-O1", "-march=native", narrow))  # compiled in half the time
    monkeypatch.setattr(kernels, "NATIVE", ())
    for engine, (expected, predicted) in zip(engines, before, strict=True):
        engine._library = kernels.library("float64", tmp_path)
        agree(problem.step(engine, index), expected)
        for task, values in engine.predict(*problem.stack(engine), index[0]).items():
            torch.testing.assert_close(values, predicted[task], rtol=1e-11, atol=1e-12)


def other_users_library(cache: Path) -> Path:
    """Put another user's library in place of the kernels'; it creates the file ``ran`` when it is loaded."""
    if os.getuid() != 0:
        pytest.skip("only root can make files of another user")
    source, ran = cache.parent / "planted.c", cache.parent / "ran"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{ran}", "w")); }}\n'
    )
    (compiler, *_) = kernels.find_compilers()
    target = compiled_file(cache)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    os.chown(target, 12345, -1)
    return target


def test_a_planted_library_runs_if_it_is_loaded(cache: Path) -> None:
    """Otherwise the next test would show nothing."""
    kernels._loads(other_users_library(cache))
    assert (cache.parent / "ran").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["of another user", "writable by others", "a link"])
def test_a_planted_library_is_not_loaded(cache: Path, how: str) -> None:
    target = other_users_library(cache)
    if how != "of another user":
        os.chown(target, os.getuid(), -1)
    if how == "writable by others":
        target.chmod(0o777)
    if how == "a link":
        target.chmod(0o700)
        target.symlink_to(target.rename(cache.parent / "elsewhere.so"))
    assert kernels.library("float32", cache).fused_lanes() > 1
    status = target.lstat()
    assert (status.st_uid, status.st_mode) == (os.getuid(), 0o100600)
    assert not (cache.parent / "ran").exists()


@pytest.mark.usefixtures("quick")
def test_a_planted_lock_empties_no_file(cache: Path) -> None:
    (cache.parent / "precious").write_text("content")
    compiled_file(cache, ".lock").symlink_to(cache.parent / "precious")
    with contextlib.suppress(kernels.CompilationError):
        kernels.library("float32", cache)
    assert (cache.parent / "precious").read_text() == "content"


def test_a_cache_is_this_users_alone(cache: Path) -> None:
    cache.chmod(0o777)
    assert kernels._private(cache) == cache and cache.stat().st_mode & 0o777 == 0o700
    cache.parent.chmod(0o777)
    with pytest.raises(OSError, match="can be replaced by other users, who can write to"):
        kernels._private(cache)
    cache.parent.chmod(0o1777)
    assert kernels._private(cache) == cache
    if os.getuid() == 0:
        (cache.parent / "link").symlink_to(cache)
        os.chown(cache.parent / "link", 12345, -1, follow_symlinks=False)
        with pytest.raises(OSError, match="link belongs to another user"):
            kernels._private(cache.parent / "link")
