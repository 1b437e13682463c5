"""Which option of a command takes a setting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import typer

from cuts3d_cli.config import section_fields, section_types


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a command takes of the configuration.

    Attributes:
        options: "section.field" -> parameter of the command.
        sections: whose fields `--set` reaches without their section.
        redirects: whether an option may fill a field of the same name in another section.
    """

    options: Mapping[str, str]
    sections: Sequence[str]
    redirects: bool


TAKEN = "cuts3d_taken"
"""Attribute of a command's function that holds what it takes."""


def flag_of(setting: str, command: Callable[..., None]) -> str | None:
    """Return the option by which a command takes a setting.

    Args:
        setting: section and field, as in "pseudo.tau_knn", or the name of an argument of the command.
        command: its function.

    Returns:
        As in "--tau-knn"; "--set run.graphs" for a field without an option of its own; None if the command does not
        take it.
    """
    flags = _flags_of(command)
    section, dot, key = setting.rpartition(".")
    if not dot:
        return flags.get(setting)
    taken: Taken | None = getattr(command, TAKEN, None)
    if taken is None:
        return None
    if name := taken.options.get(setting):
        return flags[name]
    if taken.redirects and (others := [name for place, name in taken.options.items() if place.endswith(f".{key}")]):
        return flags[others[0]]
    # Manifests record more than can be set, such as a detector's pixel_mean.
    if section not in section_types() or key not in {item.name for item, _ in section_fields(section_types()[section])}:
        return None
    return f"--set {setting}" if section in taken.sections or taken.redirects else None


@functools.cache
def _flags_of(command: Callable[..., None]) -> dict[str, str]:
    """Return parameter -> long option, as Typer makes them; arguments have none."""
    alone = typer.Typer()
    alone.command()(command)
    flags: dict[str, str] = {}
    for parameter in typer.main.get_command(alone).params:
        for flag in parameter.opts:
            if parameter.name and flag.startswith("--"):
                flags.setdefault(parameter.name, flag)
    return flags
