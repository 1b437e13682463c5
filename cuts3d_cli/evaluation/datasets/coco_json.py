"""What the readers of COCO JSONs share: the lists, and ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cuts3d_cli.errors import Cuts3dError
from cuts3d_cli.json_reading import JsonError, is_whole, read_json

_NUMBER = re.compile("0|-?[1-9][0-9]{0,99}")
"""A text that is a whole number as Python writes it; a longer one is a name."""


def load_lists(path: Path, *, error: type[Cuts3dError], remedy: str) -> dict[str, Any]:
    """Load a JSON with the lists 'images' and 'annotations'.

    Args:
        path: of the JSON.
        error: the type of what is raised, which decides the exit code.
        remedy: what to do about a file that is not such a JSON, for the message.

    Raises:
        Cuts3dError: of the type `error`: the file cannot be read, or is not such a JSON.
    """
    try:
        content = read_json(path, max_bytes=None, lenient=True)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from problem
    except JsonError as problem:
        raise error(f"{path} {problem}: {remedy}") from problem
    lists = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    if not all(isinstance(item, list) for item in lists):
        raise error(f"{path} is not a COCO JSON, which has the lists 'images' and 'annotations': {remedy}")
    return dict(content)


def id_of(value: Any) -> int | str | None:
    """Return an id in the form in which ids are compared: 7 for 7, 7.0 and "7".

    Returns:
        A whole number, else a text; None for what is no id.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _NUMBER.fullmatch(text) else text or None
    return value if is_whole(value) else None
