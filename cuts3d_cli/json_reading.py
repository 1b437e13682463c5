"""The one reader of JSON: manifests, members of tars, annotation files and cards, none of which is trusted.

    fields = Fields(as_object(parse_json(data)))   # bytes
    fields = Fields(as_object(read_json(path)))    # a file; OSError is left to the caller
    height = fields.whole("height", least=1)
    names = fields.list_of("names", is_text)

Every JsonError is a ValueError whose text follows the name of what was read: f"{path} {error}", f"it {error}". What a
`Fields` refuses is a whole reason: "its height is -3".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeGuard, TypeVar

from cuts3d_cli.lookalikes import lookalike

MAX_BYTES = 256 << 20
"""A longer text is refused, unless the caller sets a limit of its own: parsed, it takes about ten times the memory."""
MAX_DEPTH = 100
"""Objects and lists in one another. What is parsed is also written, compared and hashed, level by level."""
_SHOWN = 40
"""Characters of a value that a reason quotes."""

T = TypeVar("T")
AnyFields = TypeVar("AnyFields", bound="Fields")


class JsonError(ValueError):
    """A text is not JSON, or exceeds a limit. Its message follows the name of what was read."""


def parse_json(
    data: bytes,
    *,
    max_bytes: int | None = MAX_BYTES,
    lenient: bool = False,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Parse JSON in UTF-8, or in UTF-16 or UTF-32; a byte order mark may stand before it.

    Args:
        data: the text.
        max_bytes: a longer text is refused; None for a file that the user has named.
        lenient: of a file that other tools write: take text that is no UTF-8 for Latin-1, and let NaN and Infinity
            pass as floats, which `is_number` refuses where a number is needed.
        object_hook: as of `json.loads`; what it returns takes the place of each object.

    Returns:
        dict, list, str, int, float, bool or None, nested `MAX_DEPTH` times at most. Floats are finite unless `lenient`.

    Raises:
        JsonError: it is not JSON, NaN and Infinity included, or exceeds a limit.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise _too_long(max_bytes)
    try:
        text = _decoded(data, lenient=lenient)
        value = json.loads(text, object_hook=object_hook, parse_constant=None if lenient else _refuse_constant)
    except JsonError:
        raise
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise JsonError(f"is {_what_else(error, data)}") from error
    _check(value, finite=not lenient)
    return value


def read_json(
    path: Path,
    *,
    max_bytes: int | None = MAX_BYTES,
    lenient: bool = False,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Parse a file, as `parse_json`. A longer file than `max_bytes` is not read.

    Raises:
        JsonError: it is not JSON, or exceeds a limit.
        OSError: it cannot be read; every caller has its own way out of a missing file.
    """
    with open(path, "rb") as file:
        if max_bytes is not None and os.fstat(file.fileno()).st_size > max_bytes:
            raise _too_long(max_bytes)
        data = file.read()
    return parse_json(data, max_bytes=max_bytes, lenient=lenient, object_hook=object_hook)


def as_object(value: Any) -> dict[str, Any]:
    """Return a parsed value that is an object.

    Raises:
        JsonError: it is something else.
    """
    if not isinstance(value, dict):
        raise JsonError("is not a JSON object")
    return value


class Fields:
    """The fields of a JSON object.

    Every method that reads a field raises ValueError where it is missing or impossible, with a reason such as "its
    height is -3".

    Attributes:
        values: the object as it was parsed.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str = "") -> None:
        """Take an object; `where` begins every reason, as in "instance 2: "."""
        self.values: Mapping[str, Any] = values
        self._where = where

    def has(self, name: str) -> bool:
        """Return whether a field is there and not null."""
        return self.values.get(name) is not None

    def fail(self, name: str) -> NoReturn:
        """Refuse the value of a field."""
        if name not in self.values:
            self.refuse(f"it has no {name}")
        text = json.dumps(self.values[name])
        self.refuse(f"its {name} is {text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}")

    def refuse(self, reason: str) -> NoReturn:
        """Refuse the object for a reason of its own."""
        raise ValueError(f"{self._where}{reason}")

    def text(self, name: str, *, missing: str | None = None) -> str:
        """Return a text, or `missing` where the field is not there."""
        value = self.values.get(name, missing)
        return value if is_text(value) else self.fail(name)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return a text that is one of the choices."""
        value = self.text(name)
        return value if value in choices else self.fail(name)

    def whole(self, name: str, *, least: int | None = None, most: int | None = None) -> int:
        """Return a whole number between two others, both included."""
        value = self.values.get(name)
        if not is_whole(value) or (least is not None and value < least) or (most is not None and value > most):
            self.fail(name)
        return value

    def number(self, name: str) -> float:
        """Return a finite number."""
        value = self.values.get(name)
        return float(value) if is_number(value) else self.fail(name)

    def share(self, name: str) -> float:
        """Return a number in [0, 1]."""
        value = self.values.get(name)
        return float(value) if is_share(value) else self.fail(name)

    def list_of(self, name: str, check: Callable[[Any], TypeGuard[T]], *, count: int | None = None) -> list[T]:
        """Return a list whose items all pass a check, such as `is_whole`; of `count` items, if that is given."""
        value = self.values.get(name)
        if not isinstance(value, list) or not all(map(check, value)) or count not in (None, len(value)):
            self.fail(name)
        return value

    def table_of(self, name: str, check: Callable[[Any], TypeGuard[T]]) -> dict[str, T]:
        """Return an object whose values all pass a check, such as `is_text`."""
        value = self.values.get(name)
        if not isinstance(value, dict) or not all(map(check, value.values())):
            self.fail(name)
        return value

    def object(self: AnyFields, name: str) -> AnyFields:
        """Return the fields of an object in this one."""
        value = self.values.get(name)
        return type(self)(value, where=f"{self._where}{name}: ") if isinstance(value, dict) else self.fail(name)

    def objects(self: AnyFields, name: str, *, each: str, missing: Sequence[Any] | None = None) -> list[AnyFields]:
        """Return a list of objects.

        Args:
            name: of the field.
            each: what one of them is, for reasons, such as "instance".
            missing: the value where the field is not there.
        """
        value = self.values.get(name, missing)
        if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
            self.fail(name)
        return [type(self)(item, where=f"{self._where}{each} {place}: ") for place, item in enumerate(value)]


def is_anything(value: Any) -> TypeGuard[Any]:
    """Return True: of a list or table whose items are of any kind."""
    return True


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a JSON value is a text. It may hold half a surrogate pair, as names of files that are no UTF-8."""
    return isinstance(value, str)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def is_share(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a number in [0, 1]."""
    return is_number(value) and 0 <= value <= 1


def _decoded(data: bytes, *, lenient: bool) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if lenient and encoding == "utf-8":
            return data.decode("latin-1")
        raise


def _check(value: Any, *, finite: bool) -> None:
    """Refuse what is nested too deep, and numbers that are infinite for a float: level by level, not by recursion."""
    level, depth = [[value]], 0
    while level:
        deeper = []
        for items in level:
            if finite and (math.inf in items or -math.inf in items):
                raise JsonError("has a number that is too large")
            for item in items:
                if isinstance(item, dict):
                    deeper.append(list(item.values()))
                elif isinstance(item, list):
                    deeper.append(item)
        level, depth = deeper, depth + 1
        if depth > MAX_DEPTH + 1:
            raise _too_deep()


def _too_long(max_bytes: int) -> JsonError:
    return JsonError(f"has more than {max_bytes} bytes")


def _too_deep() -> JsonError:
    return JsonError(f"is nested deeper than {MAX_DEPTH} levels")


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"is not JSON ({name} is not a number there)")


def _what_else(error: ValueError, data: bytes) -> str:
    """Return what a text is that is not JSON, to follow "it is"."""
    if other := lookalike(data):
        return f"{other.what}: {other.way_out}"
    if isinstance(error, UnicodeDecodeError):
        return f"not JSON (byte {error.start} is not {error.encoding.upper()})"
    # Python's word on a number of thousands of digits is advice to programmers.
    return f"not JSON ({error if isinstance(error, json.JSONDecodeError) else 'a number has too many digits'})"
