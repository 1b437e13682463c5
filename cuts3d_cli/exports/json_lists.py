"""JSON lists that are written item by item, so that they may be longer than the memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO


class JsonList:
    """Writes a list of objects, one a line, in ASCII."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin the list.

        Args:
            file: to write to.
        """
        self._file = file
        self._first = True

    def add(self, item: Mapping[str, Any]) -> None:
        """Write an object. Raises ValueError if it holds NaN or an infinity, which are not in JSON."""
        text = json.dumps(item, allow_nan=False)
        self._file.write((("[\n" if self._first else ",\n") + text).encode("ascii"))
        self._first = False

    def close(self) -> None:
        """End the list; the file stays open."""
        self._file.write(b"[]\n" if self._first else b"\n]\n")
