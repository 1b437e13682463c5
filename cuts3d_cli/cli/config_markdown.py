"""`cuts3d config show --markdown`: all fields as the tables of docs/settings.md."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from cuts3d_cli.cli.options import CHOICES
from cuts3d_cli.config import Config, as_dict, section_fields, words_of

_HEAD = "| field | value | allowed | option | meaning |\n| --- | --- | --- | --- | --- |"


def as_markdown(config: Config) -> str:
    """Return all fields with their values, one table a section.

    A section that derives from another one, as `selftrain` from `train`, shows only what it adds or has otherwise.
    """
    sections = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    return "\n".join(line for name, section in sections.items() for line in _section(name, section, sections))


def _section(name: str, section: Any, sections: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one section: heading, description, table."""
    parent = next((other for other, values in sections.items() if type(values) in type(section).__mro__[1:]), None)
    inherited = as_dict(sections[parent]) if parent else {}
    values = as_dict(section)
    yield f"### `{name}`\n"
    yield (inspect.getdoc(type(section)) or "").split("\n")[0] + "\n"
    if parent:
        yield f"It has all fields of `{parent}`; these are its own or have another value:\n"
    yield _HEAD
    for item, declared in section_fields(type(section)):
        if item.name not in inherited or inherited[item.name] != values[item.name]:
            choices = CHOICES.get((name, item.name))
            kind = Literal[tuple(choices)] if choices else declared
            cells = (
                f"`{item.name}`",
                _value(values[item.name]),
                _allowed(kind, item.metadata["limits"]),
                "`--set`" if item.metadata["advanced"] else _option(item),
                item.metadata["help"],
            )
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _option(item: dataclasses.Field[Any]) -> str:
    name = (item.metadata["word"] or item.name).replace("_", "-")
    return ", ".join(f"`{flag}`" for flag in (f"--{name}", *item.metadata["flags"]))


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`" if value else "none"
    return f"`{value}`"


def _allowed(kind: Any, limits: tuple[float, float] | None) -> str:
    """Return which values a field of this type takes."""
    words = "".join(f"`{word}`, " for word in words_of(kind))
    if get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        kind = next((part for part in parts if get_origin(part) is not Literal), parts[0])
    if limits is not None:
        low, high = (f"{limit:g}" if isinstance(limit, float) else f"{limit:,}" for limit in limits)
        return f"{words}{'list of ' if get_origin(kind) is tuple else ''}{low} to {high}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return "list of text"
    return "on, off" if kind is bool else "a path" if kind is not str else "text"
