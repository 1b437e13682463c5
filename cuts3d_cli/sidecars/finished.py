"""Whether a sidecar of a base shard is finished, and belongs to the base shard as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cuts3d_cli.errors import Part, ShardError
from cuts3d_cli.shards.manifest import Manifest, digest_file, load_manifest
from cuts3d_cli.shards.names import command_for, manifest_path, sidecar


class FinishedSidecar(NamedTuple):
    """A sidecar that was finished.

    Attributes:
        tar: the sidecar.
        manifest: that was written with it.
    """

    tar: Path
    manifest: Manifest

    @property
    def failures(self) -> dict[str, str]:
        """Why samples of the base shard are not in the sidecar, by key."""
        return {item["key"]: item["reason"] for item in self.manifest.failed}


def finished(base: Path, stage: str) -> FinishedSidecar | None:
    """Find the sidecar of a shard, if it was finished.

    Args:
        base: a base shard.
        stage: of the sidecar.

    Returns:
        The sidecar, or None if there is no sidecar, no manifest, or one that belongs to another tar.

    Raises:
        ShardError: the manifest is damaged or of another version, or the base shard has changed since.
    """
    tar = sidecar(base, stage)
    if not tar.exists() or not manifest_path(tar).exists():
        return None
    manifest = load_manifest(manifest_path(tar))
    if tar.stat().st_size != manifest.size:
        return None
    source = manifest.inputs.get("base")
    if source is not None and digest_file(base, known=source).sha256 != source.sha256:
        raise ShardError(f"{tar} was made from another {base.name}: run ", command_for(tar), " again")
    return FinishedSidecar(tar, manifest)


def require(base: Path, stage: str, *, further: Sequence[Part] = ()) -> FinishedSidecar:
    """Find the sidecar of a shard, which must be finished.

    Args:
        base: a base shard.
        stage: of the sidecar.
        further: ends the error's line; what else can be done.

    Raises:
        ShardError: there is none, and the line says how to make it; or as `finished`.
    """
    found = finished(base, stage)
    if found is None:
        tar = sidecar(base, stage)
        raise ShardError(f"{tar} is missing or unfinished: run ", command_for(tar), " first", *further)
    return found
