"""What the readers of COCO JSONs share: the lists, and the name of an image's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from cuts3d_cli.errors import Cuts3dError
from cuts3d_cli.json_reading import JsonError, read_json


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
