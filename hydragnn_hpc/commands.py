"""Running programs that may be missing, hang, crash, or print anything: a scheduler's commands, mpirun, probes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class SilentError(Exception):
    """A command gave no answer: it is not on this host, cannot be started, or takes too long."""


@dataclass(frozen=True)
class Answer:
    """The output of a command, and its exit code."""

    code: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The end of its error output, or of its output, as one line."""
        return " ".join((self.errors.strip() or self.output.strip()).splitlines()[-2:])


def run(words: Sequence[str], seconds: float, text: str = "", environment: Mapping[str, str] | None = None) -> Answer:
    """Run a command with ``text`` as its input, in this process's environment or another.

    After ``seconds`` it is killed, with its child processes.

    Raises
    ------
    SilentError
        If it gives no answer.
    """
    if shutil.which(words[0]) is None:
        raise SilentError(f"'{words[0]}' is not on this host")
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace", start_new_session=True,
            env=environment,
        )  # fmt: skip
    except OSError as error:
        raise SilentError(f"'{words[0]}' cannot be started: {error.strerror or error}") from error
    with process:
        try:
            output, errors = process.communicate(text, timeout=seconds)
        except BaseException as error:  # its children hold the pipes open as well
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise SilentError(f"'{words[0]}' gave no answer for {seconds:g} s") from error
            raise
    return Answer(process.returncode, output, errors)
