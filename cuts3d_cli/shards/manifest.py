"""The manifest beside each tar: how it was made, from what, what failed and why, and whether it is still current."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.errors import Command, Setting, ShardError
from cuts3d_cli.files import atomic_write_json
from cuts3d_cli.shards.names import base_of, command_for, manifest_path

FORMAT_VERSION = 1
"""Version of the on-disk format. A manifest of another version is refused."""
_CHUNK = 1 << 20
_PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "onnx": "onnx",
    "maxflow": "PyMaxflow",
    "pydensecrf": "pydensecrf2",
    "pycocotools": "pycocotools",
}


@dataclass(frozen=True, kw_only=True)
class InputDigest:
    """What identifies an input file.

    Attributes:
        file: its name, without folders, so that a data set may be moved.
        size: bytes.
        mtime_ns: time of its last change, nanoseconds since 1970. With the size it saves hashing the file again.
        sha256: hex digest of its content; this alone decides.
    """

    file: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How one tar was made.

    Attributes:
        stage: `pack` for a base shard, else the stage of the sidecar.
        config: every setting that shapes the result, JSON values only.
        inputs: digests of what was read, by role (`base`, `depth`, `weights`).
        counts: numbers of samples and masks by name, such as `samples_in`, `samples_out`, `failed`.
        failed: samples left out, each with `key` and `reason`.
        dropped: masks left out, each with `key`, `iteration` and `reason`.
        info: numbers that only this stage has.
        versions: versions of the packages that were in use.
        seconds: wall-clock seconds by step.
        sha256: hex digest of the tar.
        size: bytes of the tar.
        mtime_ns: time of the tar's last change, set by `save_manifest`; saves hashing the tar again.
        config_hash: sha256 of the canonical JSON of `config`; made from it if left empty.
        format_version: version of the on-disk format.
    """

    stage: str
    config: dict[str, Any]
    inputs: dict[str, InputDigest]
    counts: dict[str, int]
    sha256: str
    size: int
    failed: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: package_versions())
    seconds: dict[str, float] = field(default_factory=dict)
    mtime_ns: int = 0
    config_hash: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not self.config_hash:
            object.__setattr__(self, "config_hash", config_hash(self.config))


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """Whether a finished tar is what a stage would write now.

    Attributes:
        is_current: True if nothing need be done.
        reason: one line that says why not, or `up to date`.
    """

    is_current: bool
    reason: str


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash a configuration, whatever the order of its keys.

    Args:
        config: JSON values only.

    Returns:
        Hex sha256 of the JSON with sorted keys, no spaces, ASCII only.

    Raises:
        TypeError, ValueError: a value is not JSON (NaN and infinities are not).
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def digest_file(path: Path, *, known: InputDigest | None = None) -> InputDigest:
    """Identify a file by its content.

    Args:
        path: any file.
        known: an earlier digest of it. If size and time of change still agree, its hash is taken over unread.

    Returns:
        The digest.

    Raises:
        ShardError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            before = path.stat()
            if known is not None and (known.size, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
                sha256 = known.sha256
            else:
                hasher = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    hasher.update(chunk)
                sha256 = hasher.hexdigest()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}") from error
    return InputDigest(file=path.name, size=before.st_size, mtime_ns=before.st_mtime_ns, sha256=sha256)


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
            raise ShardError(
                f"{path} has changed since it was written, its SHA-256 is not that of its manifest: run ",
                Command("verify", shards=base_of(path), settings=(Setting("fix", True),)),
                f", or delete {manifest_path(path).name} if you changed it on purpose",
            )
    return digest


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest beside its tar, which must be in place. Done last, it marks the tar as finished.

    Args:
        path: `manifest_path` of the tar. The tar's time of change is put into the file.
        manifest: what to write.

    Raises:
        ShardError: the tar is missing or has another size than was written, or the disk is full.
    """
    tar = path.with_suffix(".tar")
    try:
        state = tar.stat()
    except OSError as error:
        raise ShardError(f"{tar} cannot be read: {error.strerror}") from error
    if state.st_size != manifest.size:
        raise ShardError(f"{tar} has {state.st_size} bytes, not the {manifest.size} written: does another run use it?")
    values = asdict(manifest) | {"mtime_ns": state.st_mtime_ns}
    atomic_write_json(path, {name: values[name] for name in _TYPES})


def load_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Args:
        path: the manifest's own path.

    Returns:
        The manifest. Fields that this version does not know are passed over.

    Raises:
        ShardError: it is missing, damaged, or of another format version.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ShardError(f"{path} does not exist: its tar is not finished, run the stage again") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _DamagedManifestError(f"{path} is not JSON ({error}): move it away and run the stage again") from error
    return _from_json(values, path)


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


def package_versions() -> dict[str, str]:
    """List the versions of cuts3d, Python and those packages that shape results and have been imported."""
    versions = {"cuts3d": __version__, "python": platform.python_version()}
    for module, package in _PACKAGES.items():
        if module in sys.modules:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:  # installed under another name, as opencv often is
                versions[package] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return versions


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
    except _DamagedManifestError as error:
        return f"its manifest is unreadable: {error}"
    if manifest.stage != stage:
        return f"written by stage {manifest.stage}, not {stage}"
    if manifest.config_hash != config_hash(config):
        return f"config changed: {_differences(manifest.config, config)}"
    if set(manifest.inputs) != set(inputs):
        return f"inputs changed: {_names(manifest.inputs)} -> {_names(inputs)}"
    for role, given in inputs.items():
        known = manifest.inputs[role]
        now = given if isinstance(given, InputDigest) else digest_file(given, known=known)
        if now.sha256 != known.sha256:
            return f"input changed: {role} ({now.file})"
    own = InputDigest(file=tar.name, size=manifest.size, mtime_ns=manifest.mtime_ns, sha256=manifest.sha256)
    if tar.stat().st_size != own.size:
        return f"damaged: {tar.stat().st_size} bytes, {own.size} were written"
    if digest_file(tar, known=own).sha256 != own.sha256:
        return "changed since it was written"
    return None


def _names(roles: Mapping[str, Any]) -> str:
    return "+".join(sorted(roles)) or "none"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *, shown: int = 3) -> str:
    before, after = _flat(old), _flat(new)
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    texts = [f"{name} {before.get(name, '(unset)')} -> {after.get(name, '(unset)')}" for name in changed[:shown]]
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


class _DamagedManifestError(ShardError):
    """A manifest that is as good as none, unlike one of another format version."""


_TYPES: dict[str, type] = {
    "format_version": int,
    "stage": str,
    "config": dict,
    "config_hash": str,
    "inputs": dict,
    "counts": dict,
    "failed": list,
    "dropped": list,
    "info": dict,
    "versions": dict,
    "seconds": dict,
    "sha256": str,
    "size": int,
    "mtime_ns": int,
}


def _from_json(values: Any, path: Path) -> Manifest:
    if not isinstance(values, dict) or "format_version" not in values:
        raise _DamagedManifestError(f"{path} is not a manifest of cuts3d: move it away and run the stage again")
    version = values["format_version"]
    if version != FORMAT_VERSION:
        raise ShardError(
            f"{path} has format version {version}, this cuts3d reads {FORMAT_VERSION}: use the cuts3d that wrote it, or"
            " run ",
            command_for(path, again=True),
        )
    try:
        kept = {name: values[name] for name in _TYPES}
        for name, value in kept.items():
            if not isinstance(value, _TYPES[name]):
                raise TypeError(f"{name} is not of type {_TYPES[name].__name__}")
        kept["inputs"] = {role: _input_digest(value) for role, value in kept["inputs"].items()}
        manifest = Manifest(**kept)
        if manifest.config_hash != config_hash(manifest.config):
            raise ValueError("its configuration was edited by hand")
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        message = f"{path} is damaged ({what}): move it away and run the stage again"
        raise _DamagedManifestError(message) from error
    return manifest


def _input_digest(value: Any) -> InputDigest:
    if not isinstance(value, dict):
        raise TypeError("an input is not an object")
    digest = InputDigest(**{f.name: value[f.name] for f in fields(InputDigest)})
    if not (isinstance(digest.sha256, str) and isinstance(digest.file, str) and isinstance(digest.size, int)):
        raise TypeError("an input has a field of the wrong type")
    return digest
