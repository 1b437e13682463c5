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
from cuts3d_cli.errors import FileError, OccupiedError, Parts, Setting
from cuts3d_cli.files import atomic_write_json, explained, one_writer
from cuts3d_cli.json_reading import JsonError, read_json
from cuts3d_cli.recipes.segment_written import Contents, WrittenFiles
from cuts3d_cli.shards.freshness import changed_values
from cuts3d_cli.stages.depth_pairs import Pairs
from cuts3d_cli.stages.listing import Listing
from cuts3d_cli.stages.own_results import KEPT_SHARDS, RECORD, RECORD_FORMAT, is_record
from cuts3d_cli.wording import enumerated

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


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a run has to do.

    Attributes:
        outputs: names of the files and folders that are to be made, of those that were asked for.
        written: what is there already of the same photos and settings -> its name.
        removed: outputs of other photos or settings that are not made again.
    """

    outputs: Sequence[str]
    written: Mapping[str, str]
    removed: Sequence[str] = ()


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
            FileError: the record is damaged.
            OccupiedError: it is not ours, or another version's.
        """
        self.path = path
        self._known = frozenset(known)
        record = self._read()
        self._had_kept = record is not None and record.get("keeps_shards") is True
        self._keep = keep_shards or self._had_kept
        self.shards = path / (KEPT if self._keep else WORKING)
        self._files = WrittenFiles(path)

    def note(self, path: Path, content: Path) -> None:
        """Note a file of the results that is about to take its name, as `WrittenFiles.note`.

        Raises:
            FileError: it cannot be noted.
            OccupiedError: the user's own file is there, or one of ours that the user has changed.
        """
        self._files.note(path, content)

    def finished(self, asked: Asked, outputs: Sequence[str], *, if_exists: IfExists) -> dict[str, Any] | None:
        """Look at the results that are there; write nothing.

        Args:
            asked: what the run is asked for.
            outputs: names of the files and folders that it will write. Others of the same photos and settings stay.
            if_exists: what to do about results that are there: "resume" goes on with those of the same photos and
                settings and refuses others, "replace" and "overwrite" remove others, "fail" refuses all. What the user
                has changed since is replaced by "overwrite" alone.

        Returns:
            The result of a run that asked for the same and is finished; None where there is work to do.

        Raises:
            OccupiedError: there are results of other photos or settings, or any, as `if_exists` says; something else
                is in their place; or they were changed.
        """
        record = self._read()
        if self._keep and not self._had_kept:
            self._check_free([KEPT])
        if record is None:
            self._check_free(outputs)
            return None
        same_photos, same = _compare(record, asked)
        if self._has_begun(record, same_photos=same_photos) and (
            if_exists == "fail" or (if_exists == "resume" and not same)
        ):
            raise OccupiedError(*self._refusal(record, asked))
        keeps = same and if_exists != "overwrite"
        result = record.get("result")
        done = keeps and record.get("finished") is True and set(outputs) <= self._whole(record)
        if done and isinstance(result, dict) and (self.shards.exists() or not self._keep):
            return result
        # What is written or removed now must be of an earlier run, and as that has left it.
        self._check_free([name for name in outputs if name not in self._names(record)])
        gone = self._to_go(record, outputs, same=same, if_exists=if_exists)
        self._files.check_unchanged(self._of(record, gone - set(outputs)), replaceable=False)
        if if_exists != "overwrite":
            self._files.check_unchanged(self._of(record, gone))
        return None

    def begin(self, asked: Asked, outputs: Sequence[str], *, if_exists: IfExists) -> Begun:
        """Make the folder ready for a run, after `finished`: remove what is to be replaced, note what is begun.

        Args:
            asked, outputs, if_exists: as `finished` takes them.

        Returns:
            What there is to do.

        Raises:
            FileError: the folder cannot be written to.
        """
        record: Mapping[str, Any] = self._read() or {}
        gone: set[str] = set()
        if record:
            same_photos, same = _compare(record, asked)
            if not same or if_exists == "overwrite":
                gone = self._to_go(record, outputs, same=same, if_exists=if_exists)
                self._files.remove(self._of(record, gone))
                if not same_photos or if_exists == "overwrite":
                    self._rmtree(self.path / WORKING)
        self._settle_shards()
        # What is there of the same photos and settings stays, whether it is asked for again or not.
        stays = [name for name in self._names(record) if name not in gone]
        self._files.begin(self._of(record, stays), replaces=if_exists == "overwrite")
        still = self._whole(record) - gone
        whole = [name for name in stays if name in still]
        written = {what: name for what, name in _written(record).items() if name in whole}
        begun = Begun(
            outputs=[name for name in outputs if name not in whole],
            written=written,
            removed=[name for name in self._names(record) if name in gone and name not in outputs],
        )
        names = list(dict.fromkeys([*stays, *outputs]))
        self._write(asked, outputs=names, complete=whole, written=written, result=None)
        return begun

    def close(self, asked: Asked, outputs: Sequence[str], result: Mapping[str, Any]) -> None:
        """Record the result with the files that belong to it, and remove the shards unless they are kept.

        Args:
            asked: as in `begin`.
            outputs: that were to be made, as `begin` returned them.
            result: as plain JSON values; its `written` has what earlier runs have written of the same.
        """
        record = self._read() or {}
        whole = list(dict.fromkeys([*self._names(record, "complete"), *outputs]))
        files, written = self._files.all(), result["written"]
        self._write(asked, outputs=self._names(record), complete=whole, written=written, result=result, files=files)
        self._files.forget()
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
            raise OccupiedError(f"{path} is not of this version of cuts3d: choose another ", Setting("out"))
        return record

    def _write(
        self,
        asked: Asked,
        *,
        outputs: Sequence[str],
        complete: Sequence[str],
        written: Mapping[str, str],
        result: Mapping[str, Any] | None,
        files: Mapping[str, str] | None = None,
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
            what = (f" of other {enumerated(others)}",)
        elif not same:
            differences = _differences(record.get("settings"), asked.settings)
            what = (" of other settings", *((" (", *listed_differences([differences]), ")") if differences else ()))
        replace = Setting("run.if_exists", "replace")
        return (begin, *what, ": choose another ", Setting("out"), ", or set ", replace, " to remove them")

    def _whole(self, record: Mapping[str, Any]) -> set[str]:
        """Return the outputs that were finished, and of which all files are there; the user may have changed them."""
        own = self._own_files(record)
        gone = {_output_of(file) for file in own.keys() - self._files.those_there(own)}
        return set(self._names(record, "complete")) - gone

    def _has_begun(self, record: Mapping[str, Any], *, same_photos: bool) -> bool:
        """Tell whether anything came of a run: one that ended at once leaves nothing to be kept.

        Of the same photos, base shards stay whatever the settings, and depth has settings of its own.
        """
        results = ("*.pseudo.tar", "*.predict.tar") if same_photos else ("*.tar",)
        work = [self.path / KEPT, self.path / WORKING]
        return (
            record.get("finished") is True
            or bool(self._files.those_there(self._own_files(record)))
            or any(next(folder.glob(pattern), None) is not None for folder in work for pattern in results)
        )

    def _own_files(self, record: Mapping[str, Any]) -> Contents:
        """Return what a run wrote below its outputs: of one that was interrupted, what it noted before."""
        files = record.get("files") if record.get("finished") is True else None
        own: Contents = self._files.interrupted() if record else {}
        if isinstance(files, dict):
            own = {file: [str(content)] for file, content in files.items()}
        names = self._names(record)
        return {file: own[file] for file in own if _output_of(file) in names and ".." not in file.split("/")}

    def _of(self, record: Mapping[str, Any], outputs: Collection[str]) -> Contents:
        """Return the files of some outputs."""
        own = self._own_files(record)
        return {file: own[file] for file in own if _output_of(file) in outputs}

    def _to_go(self, record: Mapping[str, Any], outputs: Sequence[str], *, same: bool, if_exists: IfExists) -> set[str]:
        """Return the outputs of a run whose files are removed, or may be written again."""
        names = self._names(record)
        if not same:
            return set(names)
        return set(outputs).intersection(names) - (set() if if_exists == "overwrite" else self._whole(record))

    def _names(self, record: Mapping[str, Any], which: str = "outputs") -> list[str]:
        """Return the files and folders that a record names; none that lead elsewhere."""
        names = record.get(which)
        return [name for name in names if name in self._known] if isinstance(names, list) else []

    def _check_free(self, outputs: Sequence[str]) -> None:
        for name in outputs:
            if (self.path / name).exists():
                raise _stranger(self.path / name)

    def _rmtree(self, path: Path) -> None:
        with explained(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _stranger(path: Path) -> OccupiedError:
    return OccupiedError(f"{path} is there, and was not written by `cuts3d segment`: choose another ", Setting("out"))


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


def _output_of(file: str) -> str:
    """Return the output that a file belongs to: itself, or the folder that it is in."""
    return file.split("/")[0]


def digests_of(listing: Listing, pairs: Pairs | None, *, intrinsics: Path | None = None) -> dict[str, str]:
    """Identify photos, depth maps and cameras by names, ids, sizes and times of change, so that none need be read.

    Args:
        listing: the photos.
        pairs: the depth maps.
        intrinsics: the file of the cameras.

    Returns:
        For each of `_INPUTS`, 64 hexadecimal digits.
    """
    photos = [([item.file, item.key, item.id], listing.root / item.file) for item in listing.photos]
    maps = [] if pairs is None else [([file], pairs.folder / file) for file in pairs.files]
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
