"""The manifest beside each tar: how it was made, from what, and what failed and why."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.errors import ShardError
from cuts3d_cli.files import atomic_write_json
from cuts3d_cli.json_reading import Fields, JsonError, is_anything, is_number, is_text, is_whole, read_json
from cuts3d_cli.shards.names import command_for

FORMAT_VERSION = 1
"""Version of the on-disk format. A manifest of another version is refused."""
DERIVED = "derived"
"""Name in `Manifest.info`: settings, as in "confidence.tau_knn", whose values in `config` are those of the inputs."""
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
    "numba": "numba",
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

    def identity(self, tar: Path) -> InputDigest:
        """Return what identifies the tar that was written."""
        return InputDigest(file=tar.name, size=self.size, mtime_ns=self.mtime_ns, sha256=self.sha256)

    def own_config(self) -> dict[str, Any]:
        """Return the configuration without the values that are those of the inputs, and follow them."""
        names = self.info.get(DERIVED)
        derived = set(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else set()
        return {
            section: {name: value for name, value in values.items() if f"{section}.{name}" not in derived}
            if isinstance(values, dict)
            else values
            for section, values in self.config.items()
        }


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
    atomic_write_json(path, {name: values[name] for name in _ORDER})


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
        value = read_json(path)
    except FileNotFoundError as error:
        raise ShardError(f"{path} does not exist: its tar is not finished, run the stage again") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from error
    except JsonError as error:
        raise DamagedManifestError(f"{path} {error}: move it away and run the stage again") from error
    return _from_json(value, path)


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


class DamagedManifestError(ShardError):
    """A manifest that is as good as none, unlike one of another format version."""


_ORDER = (
    "format_version",
    "stage",
    "config",
    "config_hash",
    "inputs",
    "counts",
    "failed",
    "dropped",
    "info",
    "versions",
    "seconds",
    "sha256",
    "size",
    "mtime_ns",
)
"""The fields of the file, one after the other."""
_COUNTS = ("samples_in", "samples_out", "failed")
"""Counts that every manifest has."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _from_json(value: Any, path: Path) -> Manifest:
    if not isinstance(value, dict) or "format_version" not in value:
        raise DamagedManifestError(f"{path} is not a manifest of cuts3d: move it away and run the stage again")
    fields = Fields(value)
    try:
        version = fields.whole("format_version")
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{path} has format version {version}, this cuts3d reads {FORMAT_VERSION}: use the cuts3d that wrote"
                " it, or run ",
                command_for(path, again=True),
            )
        return _from_fields(fields)
    except ValueError as error:
        message = f"{path} is damaged ({error}): move it away and run the stage again"
        raise DamagedManifestError(message) from error


def _from_fields(fields: Fields) -> Manifest:
    """Check every field. Raises ValueError."""
    counts = Fields(fields.table_of("counts", is_whole), where="counts: ")
    for name in _COUNTS:
        counts.whole(name, least=0)
    for item in fields.objects("failed", each="failed sample "):
        for name in {"key", "reason"}.union(item.values):
            item.text(name)
    for item in fields.objects("dropped", each="dropped mask "):
        for name in ("key", "reason"):
            item.text(name)
    config = fields.table_of("config", is_anything)
    if fields.text("config_hash") != config_hash(config):
        fields.refuse("its configuration was edited by hand")
    return Manifest(
        stage=fields.text("stage"),
        config=config,
        config_hash=fields.text("config_hash"),
        inputs={role: _input_digest(fields.object("inputs").object(role)) for role in fields.object("inputs").values},
        counts=fields.table_of("counts", is_whole),
        failed=[dict(item.values) for item in fields.objects("failed", each="failed sample ")],
        dropped=[dict(item.values) for item in fields.objects("dropped", each="dropped mask ")],
        info=fields.table_of("info", is_anything),
        versions=fields.table_of("versions", is_text),
        seconds=fields.table_of("seconds", is_number),
        sha256=_sha256(fields),
        size=fields.whole("size", least=0),
        mtime_ns=fields.whole("mtime_ns"),
    )


def _input_digest(fields: Fields) -> InputDigest:
    file = fields.text("file")
    if not Path(file).name:
        fields.fail("file")
    return InputDigest(
        file=file, size=fields.whole("size", least=0), mtime_ns=fields.whole("mtime_ns"), sha256=_sha256(fields)
    )


def _sha256(fields: Fields) -> str:
    digest = fields.text("sha256")
    return digest if _SHA256.fullmatch(digest) else fields.fail("sha256")
