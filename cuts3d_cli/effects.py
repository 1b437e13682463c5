"""Which settings have an effect beside the others: a method, a depth network or a step that is off reads only some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cuts3d_cli.config import Section, output_dict
from cuts3d_cli.cut.methods import unread as unread_by_method
from cuts3d_cli.depth.catalogue import unread as unread_by_depth

_OF_OTHER_ROOMS: Mapping[str, Callable[[Any], Mapping[str, str]]] = {
    "pseudo": unread_by_method,
    "depth": unread_by_depth,
}
"""Section -> what says which of its fields have no effect, where a table of another room decides."""


def unread(section: str, values: Section) -> Mapping[str, str]:
    """Return the fields of a section that have no effect, each with the field that makes it so.

    Args:
        section: its name.
        values: the section itself.

    Raises:
        UsageError: it names a method or a depth source that does not exist.
    """
    return _OF_OTHER_ROOMS[section](values) if section in _OF_OTHER_ROOMS else values.unread()


def recorded(section: str, values: Section) -> dict[str, Any]:
    """Return what manifests record of a section: the fields that shape results, those without effect at their defaults.

    Args:
        section: its name.
        values: the section itself.
    """
    return output_dict(values, unread=unread(section, values))
