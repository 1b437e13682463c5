"""Tars as other programs write them, with whatever names."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

Member = str | tarfile.TarInfo | tuple[str, bytes]
"""The name of a member that holds b"1", a header alone, or a name and its content."""


def tar_of(path: Path, members: Sequence[Member], *, mode: str = "w", kind: int = tarfile.GNU_FORMAT) -> Path:
    """Write a tar, compressed where the mode says so."""
    with tarfile.open(path, mode, format=kind) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                name, data = (member, b"1") if isinstance(member, str) else member
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, *, to: str = "/etc/passwd") -> tarfile.TarInfo:
    """The header of a link, folder or device."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = to
    return info
