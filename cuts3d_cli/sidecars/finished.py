"""Whether a sidecar of a base shard is finished and belongs to it."""

from __future__ import annotations

from pathlib import Path

from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.manifest import Manifest, digest_file, load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar


def finished_sidecar(base: Path, stage: str) -> tuple[Path, Manifest] | None:
    """The sidecar of a shard with its manifest, if it was finished.

    Returns:
        Both, or None if there is no sidecar, no manifest, or one that belongs to another tar.

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
        raise ShardError(
            f"{tar} was made from another {base.name}: run `cuts3d {maker_of(stage)} --shards {base}` again"
        )
    return tar, manifest


def require_sidecar(base: Path, stage: str, *, further: str = "") -> tuple[Path, Manifest]:
    """The finished sidecar of a shard with its manifest.

    Args:
        base: a base shard.
        stage: of the sidecar.
        further: ends the error's line; what else can be done.

    Raises:
        ShardError: there is none, and the line says how to make it; or as `finished_sidecar`.
    """
    found = finished_sidecar(base, stage)
    if found is None:
        raise ShardError(
            f"{sidecar(base, stage)} is missing or unfinished: run `cuts3d {maker_of(stage)} --shards {base}`"
            f" first{further}"
        )
    return found


def maker_of(stage: str) -> str:
    """The command that writes a stage's sidecars: what has a generation comes from self-training."""
    return "selftrain" if "." in stage else stage
