"""What kind of image a file is, by its first bytes: names lie, and often say nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cuts3d_cli.lookalikes import lookalike

EXTENSION_OF: Mapping[str, str] = {"JPEG": "jpg", "PNG": "png", "WebP": "webp"}
"""Kind of a photo that is read -> the ending that it is stored with."""
_APPLE_DOUBLE = b"\0\x05\x16\x07"
_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL), kind)
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
        (rb"P[1-6]\s+[#0-9]", "PNM"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
    )
)


def image_kind(head: bytes) -> str | None:
    """Return what kind of image begins like this, for messages: "JPEG", "HEIC", ...

    Args:
        head: the first bytes of a file, `lookalikes.HEAD_BYTES` or more.

    Returns:
        The kind, be it read or not; None where the bytes are of none that is known here.
    """
    return next((kind for signature, kind in _SIGNATURES if signature.match(head)), None)


def no_photo(head: bytes) -> str | None:
    """Return why a file that begins like this is not read as a photo; None where nothing tells.

    Args:
        head: as for `image_kind`.
    """
    if head.startswith(_APPLE_DOUBLE):
        return "it is an AppleDouble file, which macOS writes beside the photo: delete it"
    kind = image_kind(head)
    if kind is not None:
        return None if kind in EXTENSION_OF else f"{kind} files are not read: convert it to JPEG, PNG or WebP"
    other = lookalike(head)
    return other and f"it is {other.what}: {other.way_out}"
