"""Every command refuses an option that takes one value and is given twice, and an empty value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hydragnn_hpc.cli.main import app
from tests.campaigns import called


def options(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command with each of its options that takes one value."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from options(command, *words, name)
        for option in command.params:
            single = option.param_type_name == "option" and not option.is_flag and not option.multiple
            if single:
                yield (*words, name, option.opts[0])


SINGLE = list(options(get_command(app)))


def test_options_of_every_command_are_found() -> None:
    assert {("submit", "--walltime"), ("data", "prepare", "--cap"), ("site", "detect", "--out")} < set(SINGLE)


@pytest.mark.parametrize("words", SINGLE, ids=" ".join)
def test_an_option_that_is_given_twice_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    *command, option = words
    done = called(tmp_path, *command, option, "1", f"{option}=2")
    expected = f"hydragnn-hpc: error: {option} is given twice, as 1 and as 2; leave one out\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.parametrize("words", [*SINGLE, ("submit", "--set"), ("data", "prepare", "--target")], ids=" ".join)
def test_an_empty_value_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    *command, option = words
    for given in ((f"{option}=",), (option, "")):
        done = called(tmp_path, *command, *given)
        expected = f"hydragnn-hpc: error: {option} is empty; give a value (is a shell variable unset?)\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.parametrize("words", [("run", "c.yaml", ""), ("status", ""), ("archive", "out", ""), ("compare", "a", "")])
def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = called(tmp_path, *words)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert "is empty; give a value (is a shell variable unset?)" in done.stderr


def test_a_repeatable_option_and_a_flag_may_be_repeated(tmp_path: Path) -> None:
    done = called(tmp_path, "submit", "c.yaml", "out", "--site", "no", "--set", "a=1", "--set", "b=2", *["--json"] * 2)
    assert done.returncode == 2 and "twice" not in done.stderr
