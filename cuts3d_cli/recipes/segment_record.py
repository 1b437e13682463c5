"""What lies in the folder of `cuts3d segment`: `segment.json` says of which photos and settings the results are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.config import IfExists
from cuts3d_cli.engine.replacing import UNSET, Differences, listed_differences
from cuts3d_cli.errors import FileError, Parts, Setting, UsageError
from cuts3d_cli.files import atomic_write_json, explained, is_temporary, one_writer
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.recipes.segment_written import Journal
from cuts3d_cli.shards.freshness import changed_values
from cuts3d_cli.stages.listing import Listing, files_in
from cuts3d_cli.stages.own_results import KEPT_SHARDS, RECORD, RECORD_FORMAT, is_record

KEPT, WORKING = KEPT_SHARDS, ".shards"
"""Folders of the shards: those that were asked for, and those that are removed at the end."""
_LOCK = ".segment.lock"
FILE = "file "
"""Begins the names of those settings that are files: weights, and a detector with its configuration."""
_INPUTS = ("photos", "depth maps", "cameras")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run was asked for.

    Attributes:
        inputs: digests of the photos, their depth maps and their cameras, by these names.
        settings: plain JSON values: all that shapes the results, but for which formats there are.
    """

    inputs: Mapping[str, str]
    settings: Mapping[str, Any]


class Folder:
    """The folder of a run, which holds the results of one set of photos and settings.

    Attributes:
        path: of the folder.
        shards: where the shards lie while it works, and afterwards if they are kept.
    """

    def __init__(self, path: Path, *, keep_shards: bool, known: Collection[str]) -> None:
        """Look into the folder; write nothing.

        Args:
            path: of the folder.
            keep_shards: leave the shards in `shards`; those that an earlier run has left there stay.
            known: names of all files and folders that any run may write: a record that names others is a stranger's.

        Raises:
            FileError: the record is damaged, or not ours.
        """
        self.path = path
        self._known = frozenset(known)
        record = self._read()
        self._had_kept = record is not None and record.get("keeps_shards") is True
        self._keep = keep_shards or self._had_kept
        self.shards = path / (KEPT if self._keep else WORKING)
        self._journal = Journal(path)

    def note(self, path: Path) -> None:
        """Note a file of the results that is about to be written.

        Raises:
            FileError: it cannot be noted.
        """
        self._journal.note(path)

    def finished(self, asked: Asked, outputs: Sequence[str], *, if_exists: IfExists) -> dict[str, Any] | None:
        """Look at the results that are there; write nothing.

        Args:
            asked: what the run is asked for.
            outputs: names of the files and folders that it will write. Others of the same photos and settings stay.
            if_exists: what to do about results that are there: "resume" goes on with those of the same photos and
                settings and refuses others, "replace" and "overwrite" remove others, "fail" refuses all.

        Returns:
            The result of a run that asked for the same and is finished; None where there is work to do.

        Raises:
            UsageError: there are results of other photos or settings, or any, as `if_exists` says.
            FileError: something else is in the place of the results.
        """
        record = self._read()
        if self._keep and not self._had_kept:
            self._check_free([KEPT])
        if record is None:
            self._check_free(outputs)
            return None
        _, same = _compare(record, asked)
        if if_exists == "fail" or (if_exists == "resume" and not same):
            raise UsageError(*self._refusal(record, asked))
        result = record.get("result")
        done = same and if_exists != "overwrite" and record.get("finished") is True
        done = done and self._are_complete(record, outputs) and (self.shards.exists() or not self._keep)
        if done and isinstance(result, dict):
            return result
        # What is written or removed now must be of an earlier run.
        names = self._names(record)
        self._check_free([name for name in outputs if name not in names])
        self._check_own(record)
        return None

    def begin(self, asked: Asked, outputs: Sequence[str], *, if_exists: IfExists) -> None:
        """Make the folder ready for a run, after `finished`: remove what is to be replaced, note what is begun.

        Raises:
            FileError: the folder cannot be written to.
        """
        record = self._read()
        kept: Mapping[str, Any] = {}
        if record is not None:
            same_photos, same = _compare(record, asked)
            if same and if_exists != "overwrite":
                kept = record
            else:
                self._remove(record, with_shards=not same_photos or if_exists == "overwrite")
        self._settle_shards()
        # What is there of the same photos and settings stays, whether it is asked for again or not.
        self._journal.begin(self._own_files(kept) if kept else ())
        whole = [name for name in self._names(kept, "complete") if self._are_complete(kept, [name])]
        outputs = list(dict.fromkeys([*self._names(kept), *outputs]))
        self._write(asked, outputs=outputs, complete=whole, written=_written(kept), result=None)

    def close(self, asked: Asked, outputs: Sequence[str], result: Mapping[str, Any]) -> None:
        """Record the result with the files that belong to it, and remove the shards unless they are kept.

        Args:
            asked: as in `begin`.
            outputs: as in `begin`.
            result: as plain JSON values; its `written` gets what earlier runs have written of the same.
        """
        record = self._read() or {}
        before = self._names(record, "complete")
        written = {what: name for what, name in _written(record).items() if name in before} | result["written"]
        self._write(
            asked,
            outputs=self._names(record),
            complete=list(dict.fromkeys([*before, *outputs])),
            written=written,
            result={**result, "written": written},
            files=self._sizes(self._journal.files()),
        )
        self._journal.end()
        if not self._keep:
            self._rmtree(self.shards)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs out of the folder within the block, as `one_writer`."""
        return one_writer(self.path, lock=_LOCK)

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
        if not is_record(record):
            raise _stranger(path)
        if record["format"] != RECORD_FORMAT:
            raise FileError(f"{path} is not of this version of cuts3d: choose another ", Setting("out"))
        return record

    def _write(
        self,
        asked: Asked,
        *,
        outputs: Sequence[str],
        complete: Sequence[str],
        written: Mapping[str, str],
        result: Mapping[str, Any] | None,
        files: Mapping[str, int] | None = None,
    ) -> None:
        record = {
            "format": RECORD_FORMAT,
            "version": __version__,
            "finished": result is not None,
            "inputs": dict(asked.inputs),
            "settings": dict(asked.settings),
            "keeps_shards": self._keep,
            "outputs": list(outputs),
            "complete": list(complete),
            "written": dict(written),
            "files": files,
            "result": result,
        }
        atomic_write_json(self.path / RECORD, record)

    def _refusal(self, record: Mapping[str, Any], asked: Asked) -> Parts:
        """Return why the results of a record stay as they are: what differs, and the ways out."""
        same_photos, same = _compare(record, asked)
        begin = f"{self.path} holds results"
        what: Parts = ()
        if not same_photos:
            before = _inputs(record)
            others = [name for name in _INPUTS if before.get(name) != asked.inputs[name]]
            what = (f" of other {' and '.join(others)}",)
        elif not same:
            differences = _differences(record.get("settings"), asked.settings)
            what = (" of other settings", *((" (", *listed_differences([differences]), ")") if differences else ()))
        replace = Setting("run.if_exists", "replace")
        return (begin, *what, ": choose another ", Setting("out"), ", or set ", replace, " to remove them")

    def _are_complete(self, record: Mapping[str, Any], outputs: Sequence[str]) -> bool:
        """Tell whether outputs are there, with all files as they were recorded; a user may keep others beside them."""
        files = _recorded_sizes(record)
        if files is None or not set(outputs) <= set(self._names(record, "complete")):
            return False
        wanted = {file: size for file, size in files.items() if file.split("/")[0] in outputs}
        return wanted == self._sizes(wanted)

    def _sizes(self, files: Iterable[str]) -> dict[str, int]:
        """Return those of some files that are there, with their sizes; paths from the folder, sorted."""
        found = {}
        for file in sorted(files):
            with suppress(FileNotFoundError, NotADirectoryError):
                found[file] = (self.path / file).stat().st_size
        return found

    def _own_files(self, record: Mapping[str, Any]) -> set[str]:
        """Return what a run wrote, as paths from the folder: of one that was interrupted, what it noted before."""
        files = _recorded_sizes(record) if record.get("finished") is True else None
        return self._journal.files() if files is None else set(files)

    def _check_own(self, record: Mapping[str, Any]) -> None:
        """Make sure that the outputs of a run hold nothing but what it wrote.

        Raises:
            FileError: they do.
        """
        own = self._own_files(record)
        for name in self._names(record):
            path = self.path / name
            for item in [path, *path.rglob("*")] if path.is_dir() else [path]:
                file = item.relative_to(self.path).as_posix()
                if file in own or is_temporary(item.name) or not item.is_file():
                    continue
                problem = f"{item} was not written by `cuts3d segment`: move it away, or choose another "
                raise FileError(problem, Setting("out"))

    def _names(self, record: Mapping[str, Any], which: str = "outputs") -> list[str]:
        """Return the files and folders that a record names; none that lead elsewhere."""
        names = record.get(which)
        return [name for name in names if name in self._known] if isinstance(names, list) else []

    def _check_free(self, outputs: Sequence[str]) -> None:
        for name in outputs:
            if (self.path / name).exists():
                raise _stranger(self.path / name)

    def _remove(self, record: Mapping[str, Any], *, with_shards: bool) -> None:
        """Remove the results of a run, and its shards; those that a user keeps are the stages' to judge."""
        for name in self._names(record):
            self._rmtree(self.path / name)
        if with_shards and (self.path / WORKING).exists():
            self._rmtree(self.path / WORKING)

    def _rmtree(self, path: Path) -> None:
        with explained(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _stranger(path: Path) -> FileError:
    return FileError(f"{path} is there, and was not written by `cuts3d segment`: choose another ", Setting("out"))


def _compare(record: Mapping[str, Any], asked: Asked) -> tuple[bool, bool]:
    """Return whether a record is of the same photos, and whether it is of the same photos and settings."""
    same_photos = _inputs(record) == dict(asked.inputs)
    return same_photos, same_photos and record.get("settings") == dict(asked.settings)


def _inputs(record: Mapping[str, Any]) -> dict[str, Any]:
    inputs = record.get("inputs")
    return dict(inputs) if isinstance(inputs, Mapping) else {}


def _written(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what a record says is written: what -> file or folder, below the folder of the results."""
    written = record.get("written")
    return {str(what): str(name) for what, name in written.items()} if isinstance(written, Mapping) else {}


def _differences(before: Any, now: Mapping[str, Any]) -> Differences:
    """Return the settings that differ, each with both values; none where the earlier ones are damaged."""
    if not isinstance(before, Mapping):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for name, (old, new) in changed_values(before, now).items():
        if not name.startswith(FILE):
            found[name] = (old, new)
            continue
        # Of the files of weights, the record has sizes and times, which say nothing to people.
        states = ("(not given)" if old == UNSET else "given", "(not given)" if new == UNSET else "given")
        found[name.removeprefix(FILE)] = ("as it was", "changed since") if states[0] == states[1] else states
    return found


def _recorded_sizes(record: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the files that a record lists, with their sizes; None where it lists none."""
    files = record.get("files")
    if not isinstance(files, dict) or not all(isinstance(size, int) for size in files.values()):
        return None
    return files


def digests_of(listing: Listing, depth_dir: Path | None, *, intrinsics: Path | None = None) -> dict[str, str]:
    """Identify photos, depth maps and cameras by names, ids, sizes and times of change, so that none need be read.

    Args:
        listing: the photos.
        depth_dir: the folder of the maps.
        intrinsics: the file of the cameras.

    Returns:
        For each of `_INPUTS`, 64 hexadecimal digits.

    Raises:
        UsageError: the folder of the maps cannot be listed.
    """
    photos = [([item.file, item.key, item.id], listing.root / item.file) for item in listing.photos]
    maps = [] if depth_dir is None else [([file], depth_dir / file) for file in files_in(depth_dir).files]
    cameras: list[tuple[list[object], Path]] = [] if intrinsics is None else [([], intrinsics)]
    return dict(zip(_INPUTS, (_digest(photos), _digest(maps), _digest(cameras)), strict=True))


def _digest(items: Iterable[tuple[Sequence[object], Path]]) -> str:
    """Return a digest of files, each with what it goes by."""
    hasher = hashlib.sha256()
    for names, path in items:
        facts = [*names]
        with suppress(OSError, ValueError):  # a photo that a COCO JSON names and that is not there
            state = path.stat()
            facts += [state.st_size, state.st_mtime_ns]
        hasher.update(json.dumps(facts).encode("ascii") + b"\n")
    return hasher.hexdigest()
