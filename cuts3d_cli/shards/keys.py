"""What a sample's key and its members' extensions may be, so that every WebDataset reader sees the same samples.

WebDataset takes a member's name up to the first dot of its base name as the key and the rest, in lower case, as the
extension; it skips folders and files named `__...__`. A key with a dot behind its folders would be torn apart in
silence.
"""

from __future__ import annotations

import re

MAX_MEMBER_BYTES = 2 << 30
"""Members above 2 GiB are neither written nor read: each is held in memory as a whole."""
_META = re.compile(r"__[^/]*__($|/)")
_EXTENSION = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_meta(name: str) -> bool:
    """Tell whether WebDataset's readers would skip a member (or key) of this name: `__x__` or anything in `__x__/`."""
    return _META.match(name) is not None


def is_utf8(name: str) -> bool:
    """Return whether a name can be written as UTF-8; one with bytes that Python has put aside as surrogates cannot."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and extension, as WebDataset does.

    Args:
        name: the name in the tar, `/` between folders.

    Returns:
        The key, with its folders, and the lower-cased extension, empty if the base name has no dot.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def key_problem(key: str) -> str | None:
    """Say why a key cannot be used.

    Args:
        key: a sample's key, with folders if any.

    Returns:
        The reason, to follow "key '...'", or None for a good key.
    """
    if not key or key.endswith("/"):
        return "is empty"
    if key.startswith("/"):
        return "is an absolute path"
    if ".." in key.split("/"):
        return "leads out of its folder"
    if "." in key.rpartition("/")[2]:
        return "has a dot, and WebDataset ends a key at its first dot"
    if not {"", "."}.isdisjoint(key.split("/")):
        return "has a folder without a name"
    if _CONTROL.search(key):
        return "has a control character"
    if is_meta(key):
        return "is skipped by WebDataset, as any name __...__ is"
    return None if is_utf8(key) else "is not valid UTF-8"


def extension_problem(extension: str) -> str | None:
    """Say why an extension cannot be written.

    Args:
        extension: what follows the key and its dot, `json` or `depth.png`.

    Returns:
        The reason, to follow "extension '...'", or None for a good extension.
    """
    if _EXTENSION.fullmatch(extension) is None:
        return "is not made of lower-case letters, digits, _ and - with single dots between"
    if extension.startswith("__") or extension.endswith("__"):
        return "is reserved by WebDataset, as any name __...__ is"
    return None
