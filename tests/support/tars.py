"""Tars as other programs write them, with whatever names."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cuts3d_cli.shards.manifest import digest_file, load_manifest, save_manifest
from cuts3d_cli.shards.names import manifest_path

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


def agree(tar: Path) -> None:
    """Make the manifest of a tar speak of its bytes as they are, so that the reader has to find the damage."""
    digest = digest_file(tar)
    manifest = load_manifest(manifest_path(tar))
    save_manifest(manifest_path(tar), replace(manifest, sha256=digest.sha256, size=digest.size))


def swap(tar: Path, other: Path, *, with_manifest: bool) -> None:
    """Put the sidecar of another shard in the place of a sidecar, padded to its size."""
    size = max(path.stat().st_size for path in (tar, other))
    for path in (tar, other):
        os.truncate(path, size)
        agree(path)
    shutil.copy2(other, tar)
    if with_manifest:
        shutil.copy2(manifest_path(other), manifest_path(tar))
