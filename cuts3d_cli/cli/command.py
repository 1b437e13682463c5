"""What all commands have in common towards typer: help pages without markup, and bad values told in our own words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from cuts3d_cli.errors import UsageError
from cuts3d_cli.wording import choose_one

_PROBLEMS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "int_parsing": lambda limits: "it must be a whole number",
    "int_from_float": lambda limits: "it must be a whole number",
    "float_parsing": lambda limits: "it must be a number",
    "bool_parsing": lambda limits: "it must be true or false",
    "greater_than_equal": lambda limits: f"it must be at least {limits['ge']:g}",
    "less_than_equal": lambda limits: f"it must be at most {limits['le']:g}",
}
"""Kind of a validator's error -> what is wrong with the value, given the limits."""


class PlainCommand(TyperCommand):
    """A command whose help texts hold no markup: `[recipe]` is the section of a file, not a style."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take what typer makes of a function."""
        super().__init__(*arguments, **named)
        self.help, self.epilog = _plain(self.help), _plain(self.epilog)
        for parameter in self.params:
            if isinstance(text := getattr(parameter, "help", None), str):
                parameter.help = _plain(text)  # type: ignore[attr-defined]

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Read the command line.

        Raises:
            UsageError: an option has an impossible value.
        """
        try:
            return super().make_context(*arguments, **named)
        except typer.BadParameter as error:
            if type(error) is not typer.BadParameter or error.param is None:  # a missing one has good words already
                raise
            name = next((flag for flag in error.param.opts if flag.startswith("--")), error.param.name)
            raise UsageError(f"{name} {_problem(error)}") from error


def _plain(text: str | None) -> str | None:
    return None if text is None else escape(text)


def _problem(error: typer.BadParameter) -> str:
    """Return what is wrong with a value, to follow the name of the option. Typer's validators speak of their own."""
    errors = getattr(error.__cause__, "errors", None)
    details: Mapping[str, Any] = errors()[0] if callable(errors) else {}
    kind, value = details.get("type", ""), details.get("input")
    if kind in _PROBLEMS:
        return f"is '{value}': {_PROBLEMS[kind](details.get('ctx', {}))}"
    quoted = re.findall(r"'([^']*)'", error.message)
    if "is not one of" in error.message and len(quoted) > 1:
        return f"is '{quoted[0]}': {choose_one(quoted[0], quoted[1:])}"
    return f"is impossible: {error.message.removeprefix('Value error, ')}"
