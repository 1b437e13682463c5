"""Where the commands print: results on stdout, all else on stderr."""

from __future__ import annotations

from rich.console import Console

from cuts3d_cli.cli.spelling import spelled
from cuts3d_cli.errors import Message

stdout = Console()
stderr = Console(stderr=True)


def say(line: str | Message) -> None:
    """Print a line on stderr as it is, its settings and commands in the words of the command line."""
    print_line(spelled(line), console=stderr)


def print_line(line: str, *, console: Console = stdout) -> None:
    """Print a line as it is, without colours and line breaks of our own."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
