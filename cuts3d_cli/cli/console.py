"""Where the commands print: results on stdout, all else on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

from rich.console import Console

from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.errors import Message


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that prints names as they are: brackets and colons in them are no markup and no emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)


stdout = plain_console()
stderr = plain_console(stderr=True)


def say(line: str | Message) -> None:
    """Print a line on stderr as it is, its settings and commands in the words of the command line."""
    print_line(spelled(line), console=stderr)


def print_line(line: str, *, console: Console = stdout) -> None:
    """Print a line as it is, without colours and line breaks of our own."""
    console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def silence() -> None:
    """Print nothing from now on, but for the traceback of an error that nobody expects."""
    before = sys.stderr

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace, file=before)

    sys.excepthook = show
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
