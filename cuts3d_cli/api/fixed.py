"""Objects that keep the settings that they were made with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cuts3d_cli.errors import SettingError

_LONGEST = 60
"""Letters of a value that is shown."""


class Fixed:
    """An object whose public attributes cannot be set: that would change nothing of what it does."""

    if not TYPE_CHECKING:  # else type checkers would let any attribute be set

        def __setattr__(self, name: str, value: object) -> None:
            """Set a private attribute.

            Raises:
                SettingError: it is a public one.
            """
            if not name.startswith("_"):
                made = f"cannot be changed once a {type(self).__name__} is made"
                raise SettingError(name, f"{made}: {self._way_out(name, as_keyword(name, value))}")
            super().__setattr__(name, value)

    def _way_out(self, name: str, given: str) -> str:
        """Return what to do in place of setting an attribute, to end an error.

        Args:
            name: of the attribute.
            given: it and its value, as in a call.
        """
        return f"make a new one, {type(self).__name__}(..., {given})"


def as_keyword(name: str, value: object) -> str:
    """Return a setting as it is written in a call; `...` for a value that is long."""
    text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return f"{name}={text if len(text) <= _LONGEST and text.isprintable() else '...'}"


def as_keywords(settings: Mapping[str, Any]) -> str:
    """Return settings as they are written in a call."""
    return ", ".join(as_keyword(name, value) for name, value in settings.items())
