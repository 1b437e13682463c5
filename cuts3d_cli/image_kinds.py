"""What kind of file something is, by its first bytes: names lie, and often say nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEAD_BYTES = 64
"""Bytes from the start of a file that tell its kind."""
EXTENSION_OF: Mapping[str, str] = {"JPEG": "jpg", "PNG": "png", "WebP": "webp"}
"""Kind of a photo that is read -> the ending that it is stored with."""
_OTHERS: Mapping[str, str] = {
    "HTML page": "this is an HTML page, as a failed download leaves it: fetch the photo again",
    "Git LFS pointer": "this is a Git LFS pointer and not the photo: run `git lfs pull`",
    "AppleDouble file": "this is an AppleDouble file, which macOS writes beside the photo: delete it",
}
"""Kind that is no image -> what to tell of a file that is named like one."""
_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE if kind == "HTML page" else re.DOTALL), kind)
    for pattern, kind in (
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"RIFF....WEBP", "WebP"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{4}\0{4}", "BMP"),
        (rb"....ftyp(avif|avis)", "AVIF"),
        (rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", "HEIC"),
        (rb"....ftypcrx |FUJIFILMCCD-RAW|II(RO|RS|U\0)|II\*\0.{4}CR", "camera's raw"),
        (rb"II[*+]\0|MM\0[*+]", "TIFF"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"8BPS", "Photoshop"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
        (rb"%PDF", "PDF"),
        (rb"P[1-6]\s", "PNM"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"\s*<(!doctype html|html|head)", "HTML page"),
        (rb"version https://git-lfs", "Git LFS pointer"),
        (rb"\0\x05\x16\x07", "AppleDouble file"),
    )
)


def file_kind(head: bytes) -> str | None:
    """Return what kind of file begins like this, for messages: "JPEG", "HEIC", "HTML page", ...

    Args:
        head: the first `HEAD_BYTES` of a file, or more.

    Returns:
        The kind; None where the bytes are of none that is known here.
    """
    start = head[:HEAD_BYTES]
    return next((kind for signature, kind in _SIGNATURES if signature.match(start)), None)


def is_image(kind: str | None) -> bool:
    """Return whether a kind is one of images, be they read or not."""
    return kind is not None and kind not in _OTHERS


def kind_problem(kind: str | None) -> str | None:
    """Return why a file of a kind is not read as a photo; None where the kind is unknown or one that is read."""
    if kind is None or kind in EXTENSION_OF:
        return None
    return _OTHERS.get(kind, f"{kind} files are not read: convert it to JPEG, PNG or WebP")
