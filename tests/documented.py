"""Checks of commands in documents that no test runs: their programs, options, arguments and files are right."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from functools import cache
from importlib import import_module
from pathlib import Path
from unittest import mock

from typer.main import get_command

from hydragnn_hpc.cli.main import app

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
parse_args = ArgumentParser.parse_args


def check(command: str) -> None:
    """Fail with an `AssertionError` if a command is not one that would run; with "..." or brackets, a part of one."""
    words = [w for w in shlex.split(re.sub(r"[\[\]]", "", command)) if not re.fullmatch(r"[A-Z_]+=\S*", w)]
    match words:
        case ["rm", "-rf", _]:
            pass
        case ["bash", script, *rest]:
            _script(script, rest)
        case ["pytest", *rest]:
            _tests(rest)
        case ["ruff", subcommand, *rest]:
            _tool(("ruff", subcommand), rest)
        case ["mypy", *rest]:
            _tool(("mypy",), rest)
        case ["python", "-m", module, *rest]:
            _module(module, rest)
        case ["hydragnn-hpc", *rest]:
            _own(rest)
        case _:
            raise AssertionError(f"no check of such a command: {command}")


def _divided(words: list[str], known: dict[str, bool]) -> tuple[dict[str, str], list[str]]:
    """Divide words into options with their values and the rest; ``known`` is which options take a value."""
    given, rest, remaining = {}, [], iter(words)
    for word in remaining:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            assert name in known, f"no option {name}"
            given[name] = value or (next(remaining) if known[name] else "")
        else:
            rest.append(word)
    return given, rest


@cache
def _options(*program: str) -> dict[str, bool]:
    """Return the options in a program's help, and whether they take a value."""
    done = subprocess.run([BIN / program[0], *program[1:], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = [re.split(" {2,}", line)[0] for line in re.findall(r"^ +(-.*)$", done.stdout, re.M)]
    found = re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)([ =][\[<{]?[A-Za-z])?", "\n".join(shown))
    return {name: bool(value) for name, value in found}


def _tool(program: tuple[str, ...], words: list[str]) -> None:
    _, paths = _divided(words, _options(*program))
    assert all((ROOT / path).exists() for path in paths), paths


def _script(script: str, words: list[str]) -> None:
    """A script states its arguments in a comment: ``#   envs/pack.sh FOLDER ARCHIVE.tar``."""
    if re.search("[A-Z]{4}", script):  # one of several
        assert list(ROOT.glob(re.sub("[A-Z]{4,}", "*", script))), script
        return
    source = (ROOT / script).read_text("utf-8")
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("#"))
    usage = [re.split(" {2,}", line)[0] for line in re.findall(rf"^# {{3}}(?:bash )?{script}\b *(.*)$", source, re.M)]
    known = {name: bool(value) for name, value in re.findall(r"(--[a-z-]+)( [A-Z])?", " ".join(usage))}
    assert all(re.search(rf"(?<![\w-]){name}(?![\w-])", code) for name in known), f"{script} has other options"
    if "[pytest arguments]" in usage:
        _tests([word for word in words if word not in known])
        return
    _, rest = _divided(words, known)
    assert len(rest) == len(re.findall(r"[A-Z][\w.]+", re.sub(r"\[.*?\]", "", " ".join(usage)))), rest


def _tests(words: list[str]) -> None:
    given, paths = _divided(words, _options("pytest"))
    named = {}
    for path in paths or ["tests"]:
        path, _, function = path.partition("::")
        assert (ROOT / path).exists(), path
        files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py")
        texts = {str(file.relative_to(ROOT)): file.read_text("utf-8") for file in files}
        found = {file: re.findall(r"^def (test_\w+)", text, re.M) for file, text in texts.items()}
        assert not function or any(function.split("[")[0] in names for names in found.values()), function
        named.update(found)
    registered = (ROOT / "pyproject.toml").read_text("utf-8")
    for marker in _operands(given.get("-m", "")):
        assert f'"{marker}: ' in registered, f"no marker {marker}"
    for word in _operands(given.get("-k", "")):
        assert any(word in name for file, names in named.items() for name in (file, *names)), f"no test {word}"


def _operands(expression: str) -> list[str]:
    return [word for word in re.findall(r"\w+", expression) if word not in ("and", "or", "not")]


def _module(name: str, words: list[str]) -> None:
    """A module's own parser parses the words; then the module is left."""
    source = ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text("utf-8")
    assert 'if __name__ == "__main__"' in source, f"{name} is not a program"
    if "ArgumentParser" not in source:
        assert set(words) <= set(re.findall(r'"(--[a-z-]+)" in sys\.argv', source)), words
        return
    with mock.patch.object(sys, "argv", [name, *words]), mock.patch.object(ArgumentParser, "parse_args", _parse):
        try:
            import_module(name).main()
        except SystemExit as end:
            assert end.code == 0, f"{name} does not take {words}"


def _parse(parser: ArgumentParser) -> None:
    parser.allow_abbrev = False
    parse_args(parser)
    raise SystemExit(0)


def _own(words: list[str]) -> None:
    """Options and subcommands; arguments are checked where a command is run."""
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    assert not getattr(command, "commands", {}) or not words or words[0] == "...", f"no command {words[0]}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    wrong = {word for word in words if word.startswith("--")} - known
    assert not wrong, f"no option {wrong}"
