"""What lies under the name of a file in its place: a pointer, a web page, a compressed copy. Its first bytes tell."""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES = 512
"""Bytes from the start of a file that are enough."""


class Lookalike(NamedTuple):
    """Something in place of a file.

    Attributes:
        what: it is, to follow "it is".
        way_out: what to do.
    """

    what: str
    way_out: str


_PAGE = Lookalike("a web page (HTML)", "download the file itself")
_UNPACK = "unpack it"
_TEXTS = {
    b"version https://git-lfs": Lookalike("a Git LFS pointer in place of the file", "run `git lfs pull`"),
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"<?xml": Lookalike("a message of a server in XML", "download it again"),
}
"""How texts begin, in lower case."""
_BYTES = {
    b"\x1f\x8b": Lookalike("compressed with gzip", _UNPACK),
    b"BZh": Lookalike("compressed with bzip2", _UNPACK),
    b"\xfd7zXZ": Lookalike("compressed with xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": Lookalike("compressed with zstd", _UNPACK),
    b"PK\x03\x04": Lookalike("a zip archive", _UNPACK),
}


def lookalike(head: bytes) -> Lookalike | None:
    """Return what a file is that is none of ours by how it begins; None where nothing tells.

    Args:
        head: its first `HEAD_BYTES`, or more.
    """
    if not head:
        return Lookalike("empty (0 bytes)", "fetch or write it again")
    text = head[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = [item for start, item in _TEXTS.items() if text.startswith(start)]
    found += [item for start, item in _BYTES.items() if head.startswith(start)]
    return found[0] if found else None
