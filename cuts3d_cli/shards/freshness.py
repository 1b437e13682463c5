"""Whether a tar is still what its manifest says, and what a stage would write now."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli.errors import Command, Setting, ShardError
from cuts3d_cli.shards.manifest import (
    DamagedManifestError,
    InputDigest,
    Manifest,
    config_hash,
    digest_file,
    load_manifest,
)
from cuts3d_cli.shards.names import base_of, manifest_path, stage_of


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Whether a finished tar is what a stage would write now.

    Attributes:
        is_current: True if nothing need be done.
        reason: one line that says why not, or `up to date`.
    """

    is_current: bool
    reason: str


def digest_input(path: Path) -> InputDigest:
    """Identify an input by its content, and make sure that a shard is still what its manifest says.

    Args:
        path: a base shard, a sidecar, or any other file.

    Returns:
        The digest.

    Raises:
        ShardError: the file cannot be read, or it is a tar whose content has changed since it was written.
    """
    digest = digest_file(path)
    if path.suffix == ".tar" and manifest_path(path).exists():
        try:
            manifest = load_manifest(manifest_path(path))
        except ShardError:  # a JSON of another program, or what whoever reads it tells
            return digest
        if manifest.sha256 != digest.sha256:
            raise _changed(path)
    return digest


def has_content(path: Path, known: InputDigest) -> bool:
    """Return whether a file is the one that was identified: by its size and time of change, else by its content.

    Each state of a file is hashed once in a process, however many readers ask.

    Args:
        path: any file.
        known: what identifies it.

    Raises:
        ShardError: it cannot be read.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}") from error
    if state.st_size != known.size:
        return False
    return state.st_mtime_ns == known.mtime_ns or _sha256(path, state.st_ino, state.st_mtime_ns) == known.sha256


def check_content(tar: Path, manifest: Manifest) -> None:
    """Make sure that a tar is the one that a manifest speaks of, as `has_content`.

    Raises:
        ShardError: it is not, or cannot be read.
    """
    if not has_content(tar, manifest.identity(tar)):
        raise _changed(tar)


def check_unchanged(path: Path) -> None:
    """Make sure that a tar is still what its manifest says, as `has_content`.

    A tar without a manifest of ours, such as a base shard of another program, is taken as it is.

    Raises:
        ShardError: it has changed, or cannot be read.
    """
    try:
        manifest = load_manifest(manifest_path(path))
    except ShardError:  # there is none, or whoever reads it tells
        return
    check_content(path, manifest)


@functools.lru_cache(maxsize=1 << 16)
def _sha256(path: Path, inode: int, mtime_ns: int) -> str:
    return digest_file(path).sha256


def _changed(tar: Path) -> ShardError:
    on_purpose = f", or delete {manifest_path(tar).name} if you changed it on purpose" if stage_of(tar) is None else ""
    return ShardError(
        f"{tar} has changed since it was written, or belongs to another shard (its SHA-256 is not that of its"
        " manifest): run ",
        Command("verify", shards=base_of(tar), settings=(Setting("fix", True),)),
        on_purpose,
    )


def check_freshness(
    tar: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path | InputDigest]
) -> Freshness:
    """Check whether a tar is finished and was made from these inputs with this configuration.

    A tar without a manifest is unfinished: the run ended between the two. Files are hashed only where their size or
    time of change differs from what the manifest says.

    Args:
        tar: the base shard or sidecar that would be written.
        stage: the stage that would write it.
        config: its configuration.
        inputs: what it would read, by role: files, or digests of what is no single file.

    Returns:
        The verdict and its reason.

    Raises:
        ShardError: the manifest is of another format version, or an input cannot be read.
    """
    reason = _staleness(tar, stage, config, inputs)
    return Freshness(is_current=reason is None, reason=reason or "up to date")


def _staleness(
    tar: Path, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path | InputDigest]
) -> str | None:
    if not tar.is_file():
        return "not there yet"
    path = manifest_path(tar)
    if not path.exists():
        return "unfinished: it has no manifest"
    try:
        manifest = load_manifest(path)
    except DamagedManifestError as error:
        return f"its manifest is unreadable: {error}"
    if manifest.stage != stage:
        return f"written by stage {manifest.stage}, not {stage}"
    if manifest.config_hash != config_hash(config):
        return f"config changed: {differences(manifest.config, config)}"
    if set(manifest.inputs) != set(inputs):
        return f"inputs changed: {_names(manifest.inputs)} -> {_names(inputs)}"
    for role, given in inputs.items():
        known = manifest.inputs[role]
        now = given if isinstance(given, InputDigest) else digest_file(given, known=known)
        if now.sha256 != known.sha256:
            return f"input changed: {role} ({now.file})"
    own = manifest.identity(tar)
    if tar.stat().st_size != own.size:
        return f"damaged: {tar.stat().st_size} bytes, {own.size} were written"
    if digest_file(tar, known=own).sha256 != own.sha256:
        return "changed since it was written"
    return None


def _names(roles: Mapping[str, Any]) -> str:
    return "+".join(sorted(roles)) or "none"


def changed_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what differs between two configurations: "section.field" -> the old and the new value, as JSON."""
    before, after = _flat(old), _flat(new)
    return {
        name: (before.get(name, "(unset)"), after.get(name, "(unset)"))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, shown: int = 3) -> str:
    """Return the first settings that two configurations differ in, with both values, for a message."""
    changed = changed_values(old, new)
    texts = [f"{name} {before} -> {after}" for name, (before, after) in list(changed.items())[:shown]]
    more = f", and {len(changed) - shown} more" if len(changed) > shown else ""
    return ", ".join(texts) + more


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, sort_keys=True)
    return flat
