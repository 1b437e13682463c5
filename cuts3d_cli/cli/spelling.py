"""Messages in the words of the command line: a setting becomes its option, a command one that can be typed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

from cuts3d_cli.cli.flags import flag_of
from cuts3d_cli.errors import Command, Part, Setting, one_line, parts_of

COMMANDS: dict[str, Callable[..., None]] = {}
"""The commands by name, as in "depth" and "weights pull"; `app` fills it."""
_running: list[str] = []


def set_running(command: str | None) -> None:
    """Note which command has been typed: messages name its options.

    Args:
        command: its name; None for none.
    """
    _running[:] = [command] if command else []


def running() -> str | None:
    """Return the command that has been typed."""
    return _running[0] if _running else None


def spelled(message: object) -> str:
    """Return an error, a `Message` or a text as a line in the words of the command that has been typed."""
    return one_line("".join(_part(part) for part in parts_of(message)))


def command_line(command: Command) -> str:
    """Return a command as it can be typed."""
    words = ["cuts3d", *command.name.split(), *command.arguments]
    words += ["--shards", str(command.shards)] if command.shards is not None else []
    options = [_option(setting, command.name) for setting in command.settings]
    return " ".join([shlex.join(words), *options])


def _part(part: Part) -> str:
    if isinstance(part, Command):
        return f"`{command_line(part)}`"
    if isinstance(part, Setting):
        if _is_taken(part):
            return _option(replace(part, elsewhere=""), running())
        return part.elsewhere + _option(replace(part, elsewhere=""), part.command or running())
    return part


def _is_taken(setting: Setting) -> bool:
    """Return whether the command that has been typed takes a setting, so that no other one has to be named."""
    command = COMMANDS.get(running() or "")
    return command is not None and flag_of(setting.name, command) is not None


def _assigning_flag(setting: str, command: Callable[..., None]) -> str | None:
    """Return "--set SECTION.FIELD" for a command that takes the sections of a file; None for all others."""
    return f"--set {setting}" if flag_of("assignments", command) else None


def _option(setting: Setting, name: str | None) -> str:
    """Return a setting as an option of a command, with its value if it has one; by its own name if there is none."""
    command = COMMANDS.get(name) if name is not None else None
    flag = flag_of(setting.name, command) if command is not None else None
    if flag is None and setting.value is not None and command is not None and "." in setting.name:
        flag = _assigning_flag(setting.name, command)
    if flag is None:
        return str(setting)
    if setting.value is None:
        return flag
    if isinstance(setting.value, bool):
        return flag if setting.value else flag.replace("--", "--no-", 1)
    between = "=" if flag.startswith("--set ") else " "
    return f"{flag}{between}{shlex.quote(str(setting.value))}"
