"""What all commands have in common: an option given twice, or a value given empty, is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from hydragnn_hpc.errors import UserError

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command that refuses an option given twice, of which the parser would use the last, and an empty value.

    An empty value comes from an unset shell variable: as a path it would be the current folder, and as a time limit
    none. Either is a `UserError`.
    """

    def make_parser(self, ctx: Any) -> Any:
        """Return the parser; it collects all values of an option, and checks them before it returns the last."""
        parser: Any = type(super().make_parser(ctx))(ctx)
        parameters: list[Any] = self.get_params(ctx)
        single: set[str] = set()

        def add_option(**words: Any) -> None:
            if words.get("action", "store") == "store":
                single.add(words["dest"])
                words["action"] = "append"
            parser.add_option(**words)

        collector: Any = SimpleNamespace(add_option=add_option, add_argument=parser.add_argument)
        for parameter in parameters:
            parameter.add_to_parser(collector, ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> tuple[dict[str, Any], list[str], list[Any]]:
            values, rest, order = parse(args)
            _check(parameters, single, values)
            return {name: value[-1] if name in single else value for name, value in values.items()}, rest, order

        parser.parse_args = parse_args
        return parser


def _check(parameters: list[Any], single: set[str], values: Mapping[str, Any]) -> None:
    """Refuse an empty value, and several values of a parameter in ``single``."""
    for parameter in parameters:
        given = values.get(parameter.name, ())
        given = given if isinstance(given, list | tuple) else [given]
        if "" in given:
            name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name
            raise UserError(f"{name} is empty; give a value (is a shell variable unset?)")
        if parameter.name in single and len(given) > 1:
            raise UserError(f"{parameter.opts[0]} is given twice, as {' and as '.join(given)}; leave one out")


class App(typer.Typer):
    """Commands, each a `Command`."""

    def command(self, *words: Any, **settings: Any) -> Callable[[_Function], _Function]:
        """Return a decorator that adds a command, as :meth:`typer.Typer.command` does."""
        return super().command(*words, **{"cls": Command, **settings})
