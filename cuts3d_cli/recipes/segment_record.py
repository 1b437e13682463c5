"""What lies in the folder of `cuts3d segment`: `segment.json` says of which photos and settings the results are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.config import IfExists
from cuts3d_cli.errors import FileError, Setting, UsageError
from cuts3d_cli.files import atomic_write_json, explained, make_folder
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.stages.listing import Listing, files_in

RECORD = "segment.json"
KEPT, WORKING = "shards", ".shards"
"""Folders of the shards: those that were asked for, and those that are removed at the end."""
_LOCK = ".segment.lock"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run was asked for.

    Attributes:
        photos: digest of the photos and their maps.
        settings: plain JSON values: all that shapes the results.
    """

    photos: str
    settings: Mapping[str, Any]


class Folder:
    """The folder of a run, which holds the results of one set of photos and settings.

    Attributes:
        path: of the folder.
        shards: where the shards lie while it works, and afterwards if they are kept.
    """

    def __init__(self, path: Path, *, keep_shards: bool) -> None:
        """Look into the folder; write nothing."""
        self.path = path
        kept, working = path / KEPT, path / WORKING
        self.shards = kept if keep_shards or kept.exists() else working
        self._keep = keep_shards or kept.exists()

    def finished(self, asked: Asked, outputs: Sequence[str], *, if_exists: IfExists) -> dict[str, Any] | None:
        """Look at the results that are there; write nothing.

        Args:
            asked: what the run is asked for.
            outputs: names of the files and folders that it will write.
            if_exists: what to do about results that are there: "resume" goes on with those of the same photos and
                settings and refuses others, "replace" and "overwrite" remove others, "fail" refuses all.

        Returns:
            The result of a run that asked for the same and is finished; None where there is work to do.

        Raises:
            UsageError: there are results of other photos or settings, or any, as `if_exists` says.
            FileError: something else is in the place of the results.
        """
        record = self._read()
        if record is None:
            self._check_free(outputs)
            return None
        same_photos = record.get("photos") == asked.photos
        same = same_photos and record.get("settings") == dict(asked.settings)
        if if_exists == "fail" or (if_exists == "resume" and not same):
            raise UsageError(*self._refusal(of_other=not same, same_photos=same_photos))
        result = record.get("result")
        done = same and if_exists != "overwrite" and record.get("finished") is True and self._is_complete(record)
        return result if done and isinstance(result, dict) else None

    def begin(self, asked: Asked, outputs: Sequence[str], *, if_exists: IfExists) -> None:
        """Make the folder ready for a run, after `finished`: remove what is to be replaced, note what is begun.

        Raises:
            FileError: the folder cannot be written to.
        """
        record = self._read()
        if record is not None:
            same_photos = record.get("photos") == asked.photos
            same = same_photos and record.get("settings") == dict(asked.settings)
            if not same or if_exists == "overwrite":
                self._remove(record, with_shards=not same_photos or if_exists == "overwrite")
        self._settle_shards()
        self._write(asked, outputs, finished=False, result=None)

    def close(self, asked: Asked, outputs: Sequence[str], result: Mapping[str, Any]) -> None:
        """Record the result, and remove the shards unless they are kept."""
        self._write(asked, outputs, finished=True, result=result)
        if not self._keep:
            self._rmtree(self.shards)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder within the block.

        Raises:
            FileError: another run is in it.
        """
        from filelock import FileLock, Timeout

        make_folder(self.path)
        path = self.path / _LOCK
        lock = FileLock(path)
        try:
            with explained(self.path):
                lock.acquire(timeout=0)
        except Timeout as error:
            problem = f"{self.path} is being written by another run: wait for it, or choose another "
            raise FileError(problem, Setting("out")) from error
        try:
            yield
        finally:
            with suppress(OSError):  # gone, or not ours to remove: the lock itself ends with the process
                path.unlink()
            lock.release()

    def _settle_shards(self) -> None:
        """Take over the shards of an interrupted run that were not to be kept, if they are now."""
        working = self.path / WORKING
        if self._keep and working.exists() and not self.shards.exists():
            with explained(self.shards):
                working.rename(self.shards)

    def _read(self) -> dict[str, Any] | None:
        path = self.path / RECORD
        try:
            record = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, JsonError) as error:
            raise FileError(f"{path} cannot be read ({error}): choose another ", Setting("out")) from error
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise FileError(f"{path} is not of this version of cuts3d: choose another ", Setting("out"))
        return record

    def _write(self, asked: Asked, outputs: Sequence[str], *, finished: bool, result: Mapping[str, Any] | None) -> None:
        record = {
            "format": _FORMAT,
            "version": __version__,
            "finished": finished,
            "photos": asked.photos,
            "settings": dict(asked.settings),
            "outputs": list(outputs),
            "result": result,
        }
        atomic_write_json(self.path / RECORD, record)

    def _refusal(self, *, of_other: bool, same_photos: bool) -> tuple[Any, ...]:
        what = "other settings" if same_photos else "other photos or depth maps"
        begin = f"{self.path} holds results of {what}" if of_other else f"{self.path} holds results"
        replace = Setting("run.if_exists", "replace")
        return (f"{begin}: choose another ", Setting("out"), ", or set ", replace, " to remove them")

    def _is_complete(self, record: Mapping[str, Any]) -> bool:
        return all((self.path / name).exists() for name in _names(record))

    def _check_free(self, outputs: Sequence[str]) -> None:
        for name in outputs:
            if (self.path / name).exists():
                problem = f"{self.path / name} is there, and was not written by `cuts3d segment`: choose another "
                raise FileError(problem, Setting("out"))

    def _remove(self, record: Mapping[str, Any], *, with_shards: bool) -> None:
        """Remove the results of a run, and its shards; those that a user keeps are the stages' to judge."""
        for name in _names(record):
            self._rmtree(self.path / name)
        if with_shards and (self.path / WORKING).exists():
            self._rmtree(self.path / WORKING)

    def _rmtree(self, path: Path) -> None:
        with explained(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _names(record: Mapping[str, Any]) -> list[str]:
    """Return the files and folders that a record names; none that lead elsewhere."""
    names = record.get("outputs")
    return (
        [name for name in names if isinstance(name, str) and Path(name).name == name] if isinstance(names, list) else []
    )


def digest_of(listing: Listing, depth_dir: Path | None) -> str:
    """Identify photos and depth maps by their names, sizes and times of change, so that none need be read.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: the folder of the maps cannot be listed.
    """
    hasher = hashlib.sha256()
    maps = [] if depth_dir is None else [("map", depth_dir / file, file) for file in files_in(depth_dir)]
    for kind, path, name in [*[("photo", listing.root / item.file, item.file) for item in listing.photos], *maps]:
        try:
            state = path.stat()
            facts = [kind, name, state.st_size, state.st_mtime_ns]
        except (OSError, ValueError):  # a photo that a COCO JSON names and that is not there
            facts = [kind, name]
        hasher.update(json.dumps(facts).encode("ascii") + b"\n")
    return hasher.hexdigest()
