"""What all commands have in common: an option that takes one value is given once, and nothing is given empty."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from hydragnn_hpc.errors import UserError

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command that refuses an option given twice, of which the parser would use the last, and an empty value.

    An empty value comes from a variable of the shell that is not set: as a path it would be the current folder, and as
    a time limit none.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line.

        Raises
        ------
        UserError
            If an option is given more than once, unless it is repeatable or takes no value; or a value is empty.
        """
        parser = type(self.make_parser(ctx))(ctx)
        single: set[str] = set()

        def add_option(**words: Any) -> None:
            if words.get("action", "store") == "store":
                single.add(words["dest"])
                words["action"] = "append"  # keep every value
            parser.add_option(**words)

        collector: Any = SimpleNamespace(add_option=add_option, add_argument=parser.add_argument)
        parameters: list[Any] = self.get_params(ctx)
        for parameter in parameters:
            parameter.add_to_parser(collector, ctx)
        values = parser.parse_args(list(args))[0]
        for parameter in parameters:
            given = values.get(parameter.name, ())
            given = given if isinstance(given, list | tuple) else [given]
            if "" in given:
                name = (
                    parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name
                )
                raise UserError(f"{name} is empty; give a value (is a variable of the shell not set?)")
            if parameter.name in single and len(given) > 1:
                raise UserError(f"{parameter.opts[0]} is given twice, as {' and as '.join(given)}; leave one out")
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """Commands, each a `Command`."""

    def command(self, *words: Any, **settings: Any) -> Callable[[_Function], _Function]:
        """Return a decorator that adds a command, as :meth:`typer.Typer.command` does."""
        return super().command(*words, **{"cls": Command, **settings})
