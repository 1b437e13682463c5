"""The fields of JSON members, each checked when it is read.

A damaged run-length code would have pycocotools write past its memory; a damaged number would come out as a wrong mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeGuard

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import Rle, check_rle

_SHOWN = 40
"""Characters of a value that a reason quotes."""


def parse_object(data: bytes) -> Fields:
    """Parse a JSON object.

    Args:
        data: a JSON member.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return Fields(value)


class Fields:
    """The fields of a JSON object.

    Every method that reads a field raises ValueError where it is missing or impossible, with a reason such as "its
    height is -3".

    Attributes:
        values: the object as it was parsed.
    """

    def __init__(self, values: dict[str, Any], *, where: str = "") -> None:
        """Take an object; `where` begins every reason, as in "instance 2: "."""
        self.values: Mapping[str, Any] = values
        self._where = where

    def has(self, name: str) -> bool:
        """Return whether a field is there and not null."""
        return self.values.get(name) is not None

    def fail(self, name: str) -> NoReturn:
        """Refuse the value of a field."""
        text = json.dumps(self.values.get(name, "(missing)"))
        self.refuse(f"its {name} is {text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'}")

    def refuse(self, reason: str) -> NoReturn:
        """Refuse the object for a reason of its own."""
        raise ValueError(f"{self._where}{reason}")

    def text(self, name: str, *, missing: str | None = None) -> str:
        """Return a text, or `missing` where the field is not there."""
        value = self.values.get(name, missing)
        return value if isinstance(value, str) else self.fail(name)

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

    def shares(self, name: str) -> tuple[float, ...]:
        """Return a list of numbers in [0, 1]."""
        value = self.values.get(name)
        if not isinstance(value, list) or not all(map(is_share, value)):
            self.fail(name)
        return tuple(map(float, value))

    def size(self) -> tuple[int, int]:
        """Return (height, width) of an image, pixels."""
        height, width = (self.whole(name, least=1, most=MAX_IMAGE_PIXELS) for name in ("height", "width"))
        return (height, width) if height * width <= MAX_IMAGE_PIXELS else self.fail("height")

    def pair(self, name: str) -> tuple[int, int]:
        """Return two whole numbers, 0 or more."""
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != 2 or not all(is_whole(item) and item >= 0 for item in value):
            self.fail(name)
        return value[0], value[1]

    def box(self, name: str) -> tuple[float, float, float, float]:
        """Return a box [x, y, width, height]."""
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
            self.fail(name)
        x, y, width, height = map(float, value)
        return x, y, width, height

    def mask(self, name: str, size: tuple[int, int]) -> Rle:
        """Return a whole run-length code of a mask of the size (height, width)."""
        try:
            code = check_rle(self.values.get(name))
        except ValueError as error:
            self.refuse(f"its {name} {error}")
        if tuple(code["size"]) != size:
            self.refuse(f"its {name} has the size (height, width) {code['size']}, not {list(size)}")
        return code

    def objects(self, name: str, *, each: str, missing: Sequence[Any] | None = None) -> list[Fields]:
        """Return a list of objects.

        Args:
            name: of the field.
            each: what one of them is, for reasons, such as "instance".
            missing: the value where the field is not there.
        """
        value = self.values.get(name, missing)
        if not isinstance(value, list | tuple) or not all(isinstance(item, dict) for item in value):
            self.fail(name)
        return [Fields(item, where=f"{self._where}{each} {place}: ") for place, item in enumerate(value)]


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def is_share(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value is a number in [0, 1]."""
    return is_number(value) and 0 <= value <= 1
