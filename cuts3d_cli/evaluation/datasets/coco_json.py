"""What the readers of COCO JSONs share: the lists, the name of an image's file, and checks of JSON values."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlparse

from cuts3d_cli.errors import Cuts3dError


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
        content = json.loads(path.read_bytes())
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is not valid JSON ({problem}): {remedy}") from problem
    lists = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    if not all(isinstance(item, list) for item in lists):
        raise error(f"{path} is not a COCO JSON, which has the lists 'images' and 'annotations': {remedy}")
    return dict(content)


def file_of(image: Mapping[str, Any]) -> str:
    """Return the file of an image: its `file_name`; in LVIS, which has none, the last two parts of its `coco_url`.

    Returns:
        The name, with folders if any; "" if there is none.
    """
    name, url = image.get("file_name"), image.get("coco_url")
    if name is None and isinstance(url, str):
        try:
            return "/".join(urlparse(url).path.split("/")[-2:])
        except ValueError:  # a bracket that opens no address
            return ""
    return name if isinstance(name, str) else ""


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a JSON value is a finite number."""
    # A whole number beyond the range of floats has no use here either.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: Any) -> TypeGuard[int]:
    """Tell whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
