"""The compiled kernels: loaded from a per-user cache, and compiled into it at first use.

The file's name contains a hash of everything that it depends on (sources, flags, compiler, processor), so a home folder
can be shared by different machines. Many workers of a node start at once: one compiles while the others wait for its
lock, and the finished file appears by a rename.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hydragnn_hpc.logs import log
from hydragnn_hpc.member.fused.plan import interface

SOURCE = Path(__file__).parent / "source"
COMPILERS = ("gcc", "clang", "cc")
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-funroll-loops",
    "-fPIC",
    "-shared",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
NATIVE = ("-march=native", "-mcpu=native")
"""The same option for x86 and for Arm and Power; the first that the compiler accepts is used."""
COMPILER_SECONDS = 300
"""Time limit of one run of a compiler."""


class CompilationError(Exception):
    """No kernels can be compiled or loaded here; the message says why."""


@functools.cache  # else each prediction would run a failing compiler again, and engines could alternate
def unavailable(dtype: np.typing.DTypeLike = np.float32) -> str:
    """Return why the kernels cannot be used here, ``""`` if they can. Compiles them at first use (seconds)."""
    try:
        library(np.dtype(dtype).name)
    except CompilationError as error:
        return str(error)
    return ""


@functools.cache
def library(dtype: str, cache: Path | None = None) -> ctypes.CDLL:
    """Load the kernels for ``float32`` or ``float64``, compiling them first where the cache has none.

    Raises
    ------
    CompilationError
        With the reason, in one line.
    """
    folder = cache or cache_folder()
    reasons = []
    for compiler in find_compilers():
        try:
            target = folder / f"fused-{dtype}-{_fingerprint(compiler, dtype)}.so"
            with _locked(target.with_suffix(".lock")):
                if not (_is_own(target) and _loads(target)):
                    compile_source(compiler, dtype, target)
                return _declared(ctypes.CDLL(str(target)), dtype)
        except (CompilationError, OSError) as error:
            reasons.append(str(error))
    raise CompilationError("; ".join(reasons))


def find_compilers() -> list[str]:
    """Return the paths of the C compilers on the PATH, the preferred one first.

    Raises
    ------
    CompilationError
        If there is none.
    """
    paths = [path for name in COMPILERS if (path := shutil.which(name))]
    if not paths:
        raise CompilationError(f"no C compiler ({', '.join(COMPILERS)}) on the PATH")
    return paths


def cache_folder() -> Path:
    """Return a folder that only this user can write to, in the home folder or among temporary files.

    Raises
    ------
    CompilationError
        If there is none.
    """
    with contextlib.suppress(OSError, RuntimeError):
        return _private(Path.home() / ".cache" / "hydragnn_hpc")
    try:
        return _private(Path(tempfile.gettempdir()) / f"hydragnn_hpc-{os.getuid()}")
    except OSError as error:
        raise CompilationError(f"no folder for compiled kernels: {error}") from error


def compile_source(compiler: str, dtype: str, target: Path) -> None:
    """Compile the kernels into ``target``, which appears whole or not at all.

    Raises
    ------
    CompilationError
        With the first line of the compiler's errors.
    """
    extra = ["-DFUSED_DOUBLE"] if dtype == "float64" else []
    complaint, started = "", time.monotonic()
    for native in (*((flag,) for flag in NATIVE), ()):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".part")
        os.close(handle)
        command = [compiler, *FLAGS, *native, *extra, "-o", name, str(SOURCE / "member.c"), "-lm"]
        try:
            done = _run(command)
            if done.returncode == 0:
                Path(name).chmod(0o600)  # the compiler may have applied the umask
                Path(name).replace(target)
                log(f"compiled the fused engine with {compiler} in {time.monotonic() - started:.1f} s: {target}")
                return
            complaint = complaint or next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        finally:
            Path(name).unlink(missing_ok=True)
    raise CompilationError(f"{compiler} cannot compile the kernels: {complaint}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a compiler; raise `CompilationError` if it cannot be started or does not end."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMPILER_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilationError(f"{command[0]} did not run: {error}") from error


def _declared(loaded: ctypes.CDLL, dtype: str) -> ctypes.CDLL:
    """Declare the functions' return types, and check the library's structures and enumerations against `plan`."""
    loaded.fused_interface.restype = ctypes.c_char_p
    expected, declared, value = interface(dtype), dict[str, int](), ctypes.c_int64()
    while name := loaded.fused_interface(ctypes.c_int64(len(declared)), ctypes.byref(value)):
        declared[name.decode()] = value.value
    for name in expected | declared:
        if expected.get(name) != declared.get(name):
            raise CompilationError(
                f"the kernels have {name} = {declared.get(name)}, but fused/plan.py has {expected.get(name)};"
                " correct one"
            )
    loaded.fused_memory.restype = loaded.varying_memory.restype = loaded.fused_lanes.restype = ctypes.c_int64
    for name in ("fused_step", "fused_predict", "varying_step", "varying_predict", "fused_adam"):
        getattr(loaded, name).restype = None
    return loaded


def _private(folder: Path) -> Path:
    """Make ``folder``, and return it resolved; its content is executed, so other users must not be able to change it.

    One that belongs to another user, that others can replace, or that this user cannot write to is an `OSError`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():  # a link too
        raise OSError(f"{folder} belongs to another user")
    folder = folder.resolve()
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise OSError(f"{folder} belongs to another user")
    if status.st_mode & 0o022:
        folder.chmod(0o700)
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise OSError(f"{folder} can be replaced by other users, who can write to {parent}; chmod o-w {parent}")
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _fingerprint(compiler: str, dtype: str) -> str:
    """Return a hash of everything that the compiled file depends on."""
    digest = hashlib.sha256()
    for path in sorted(path for path in SOURCE.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes() + b"\0")
    version = _run([compiler, "-dumpfullversion"]).stdout
    for word in (dtype, *FLAGS, *NATIVE, compiler, version, platform.machine(), _processor()):
        digest.update(word.encode() + b"\0")
    return digest.hexdigest()[:20]


def _processor() -> str:
    """Return the processor's model and features, on which the meaning of `NATIVE` depends."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        prefixes = ("model name", "flags", "Features", "CPU ", "cpu\t")  # of x86, of Arm, of Power
        return "\n".join(sorted({line for line in lines if line.startswith(prefixes)}))
    return platform.processor()


def _is_own(path: Path) -> bool:
    """Whether ``path`` is a plain file that only this user can have written: loading a library executes it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _loads(path: Path) -> bool:
    """Whether ``path`` is a library that can be loaded: a file in the cache may be damaged."""
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; where the file system has none, the rename alone keeps files whole."""
    # Following another user's link would truncate its target.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
