"""Paths of photos as other programs write them, brought to the one form in which they are compared."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlparse

_LOCAL_FILES = "/local-files/?d="
"""Stands before the path of a photo that Label Studio serves from a disk."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def plain_path(text: str) -> str:
    r"""Return a path in the form in which paths are compared.

    Windows' `\` becomes `/`, `./` and doubled slashes go, and accented letters are single characters (NFC), whichever
    way the file system or the annotation tool wrote them.

    Args:
        text: a path, absolute or not.

    Returns:
        The path; "" for "".
    """
    composed = unicodedata.normalize("NFC", text.replace("\\", "/"))
    return posixpath.normpath(composed) if composed else ""


def file_of(image: Mapping[str, Any]) -> str:
    """Return the file of an image of a COCO JSON.

    Args:
        image: an entry of `images`.

    Returns:
        Its `file_name` as a plain path, of an address the path in it; where it has none, as in LVIS, the last two parts
        of its `coco_url`; "" if it has neither.
    """
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str) and name:
        *_, name = name.split(_LOCAL_FILES)
        return plain_path(_path_of(name) if _ADDRESS.match(name) else name)
    return "/".join(_path_of(url).split("/")[-2:]) if isinstance(url, str) else ""


def base_name(path: str) -> str:
    """Return the last part of a plain path."""
    return posixpath.basename(path)


def _path_of(address: str) -> str:
    try:
        return unquote(urlparse(address).path).lstrip("/")
    except ValueError:  # a bracket that opens no address
        return ""
