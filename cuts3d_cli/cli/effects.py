"""Settings that are given on the command line and have no effect there: they are refused, or warned of.

What would shape a result, and is never read by the command as it was typed, is refused: the user believes in another
result. What only says how the work is done, or is switched off by the value of another setting, is warned of. What
comes from a preset, a file or a variable is for many commands, and passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cuts3d_cli.cli.console import say
from cuts3d_cli.cli.spelling import running
from cuts3d_cli.config import PAPER, PRESETS, Config, section_fields, section_types
from cuts3d_cli.effects import unread
from cuts3d_cli.errors import Command, Message, Parts, Setting, SettingError

Reads = Mapping[str, Collection[str]]
"""Section -> those of its fields that a command reads."""
Idle = Callable[[Mapping[str, Any], Config], Mapping[str, Parts]]
"""Takes a command's own arguments and the configuration, and returns the sections ("pseudo") and the fields
("pack.depth_scale") that have no effect beside these, each with the reason, as in ("with ", Setting("checkpoint"))."""


def check_effects(
    given: Sequence[tuple[str, str]],
    *,
    config: Config,
    reads: Reads,
    idle: Mapping[str, Parts],
    preset: str | None = None,
) -> None:
    """Refuse settings that were given and have no effect, or warn of them.

    Args:
        given: section and field of what stands on the command line.
        config: in force.
        reads: what the command reads.
        idle: what has no effect beside the command's own arguments.
        preset: that stands on the command line.

    Raises:
        SettingError: the command does not read a setting that shapes results.
    """
    for section, field in given:
        name = f"{section}.{field}"
        if because := _never_read(section, field, reads=reads, idle=idle):
            if section not in reads or _shapes_output(section, field):
                raise SettingError(name, "has no effect ", *because, ": leave it out")
        else:
            because = _switched_off(section, field, config=config)
        if because:
            say(Message("warning: ", Setting(name), " has no effect ", *because))
    if preset is not None and preset != "paper" and not _changes(preset, reads=reads, idle=idle):
        say(Message(f"warning: preset '{preset}' changes nothing that ", Command(running() or ""), " reads"))


def _never_read(section: str, field: str, *, reads: Reads, idle: Mapping[str, Parts]) -> Parts:
    """Return why the command as it was typed does not read a setting; nothing where it does."""
    if field not in reads.get(section, ()):
        return ("on ", Command(running() or ""))
    return idle.get(section) or idle.get(f"{section}.{field}") or ()


def _switched_off(section: str, field: str, *, config: Config) -> Parts:
    """Return the setting whose value leaves another one without effect, in words; nothing where there is none."""
    values = getattr(config, section)
    decisive = unread(section, values).get(field)
    if decisive is None:
        return ()
    return ("with ", Setting(f"{section}.{decisive}", _value(getattr(values, decisive))))


def _value(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _shapes_output(section: str, field: str) -> bool:
    return any(
        item.name == field and item.metadata["shapes_output"] for item, _ in section_fields(section_types()[section])
    )


def _changes(preset: str, *, reads: Reads, idle: Mapping[str, Parts]) -> bool:
    """Return whether a preset sets anything that the command reads to another value than the paper's."""
    return any(
        getattr(getattr(PRESETS[preset], section), field) != getattr(getattr(PAPER, section), field)
        for section, names in reads.items()
        if section not in idle
        for field in names
    )
