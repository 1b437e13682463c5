"""Help pages that show brackets as they are."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from typer.core import TyperCommand


class PlainCommand(TyperCommand):
    """A command whose help texts hold no markup: `[recipe]` is the section of a file, not a style."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.help, self.epilog = _plain(self.help), _plain(self.epilog)
        for parameter in self.params:
            if isinstance(text := getattr(parameter, "help", None), str):
                parameter.help = _plain(text)  # type: ignore[attr-defined]


def _plain(text: str | None) -> str | None:
    return None if text is None else escape(text)
