"""Tells what cuts3d wrote for people from photos and depth maps: results of `segment` and `report`, pictures of `viz`.

Their masks, thumbnails and pictures are images too, and people keep them beside the photos that they were made of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuts3d_cli.json_reading import JsonError, read_json

RECORD, RECORD_FORMAT = "segment.json", 2
"""The file in which `cuts3d segment` records what it wrote, and the form of that record."""
KEPT_SHARDS = "shards"
"""The folder of shards that a user wants to keep, beside that file."""
REPORT_DATA, REPORT_MARK = "photos.js", b"// The data of a report of cuts3d.\n"
"""The file that makes a folder one of `cuts3d report`, and how it begins."""
REPORT_PICTURES = ("thumbnails", "truth", "steps")
"""The folders of pictures beside that file."""
PICTURE_ENDING = ".cuts3d.png"
"""Ends the name of a picture of `cuts3d viz`."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results in a folder.

    Attributes:
        folder: that holds them.
        command: that wrote them.
        names: of the files and folders in it that are results; all others are the user's.
        written: the files below it that the command wrote, as paths from it; None where no record says so.
        strangers: images in those folders that it has not written, likewise; they are left out with them.
    """

    folder: Path
    command: str
    names: frozenset[str]
    written: frozenset[str] | None = None
    strangers: tuple[str, ...] = ()


def results_in(folder: Path, names: Collection[str]) -> list[Results]:
    """Look whether a folder holds results, by what is in their records: a name alone says nothing.

    Args:
        folder: to look into.
        names: of its files and folders.

    Returns:
        The results, of at most one of each command.
    """
    found = []
    if RECORD in names and (folder / RECORD).is_file() and (record := _record(folder / RECORD)) is not None:
        found.append(Results(folder=folder, command="segment", names=_names(record), written=_written(record)))
    if REPORT_DATA in names and is_report(folder):
        found.append(Results(folder=folder, command="report", names=frozenset({REPORT_DATA, *REPORT_PICTURES})))
    return found


def pictures_among(files: Iterable[Path]) -> list[Results]:
    """Find pictures of `cuts3d viz` among files, by their names: a result a folder, sorted."""
    names: dict[Path, set[str]] = {}
    for file in files:
        if file.name.endswith(PICTURE_ENDING):
            names.setdefault(file.parent, set()).add(file.name)
    return [Results(folder=folder, command="viz", names=frozenset(names[folder])) for folder in sorted(names)]


def is_record(value: Any) -> bool:
    """Tell whether a parsed JSON is a record of `cuts3d segment`, of any version."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("format"), int)
        and isinstance(value.get("finished"), bool)
        and isinstance(value.get("inputs", value.get("photos")), dict | str)
        and isinstance(value.get("settings"), dict)
        and isinstance(value.get("outputs"), list)
    )


def is_report(folder: Path) -> bool:
    """Tell whether a folder is one of `cuts3d report`."""
    try:
        if not (folder / REPORT_DATA).is_file():  # a pipe would wait for its writer
            return False
        with open(folder / REPORT_DATA, "rb") as file:
            return file.read(len(REPORT_MARK)) == REPORT_MARK
    except OSError:  # no file, or none that can be read: nothing of ours
        return False


def _record(path: Path) -> dict[str, Any] | None:
    """Return a record of `segment`; None where it is no such record."""
    try:
        record = read_json(path)
    except (OSError, JsonError):  # a file of that name which is nothing of ours
        return None
    return record if is_record(record) else None


def _names(record: dict[str, Any]) -> frozenset[str]:
    """Return the names of the files and folders that a record names, itself among them."""
    kept = {KEPT_SHARDS} if record.get("keeps_shards") is True else set()
    return frozenset({RECORD, *kept, *(name for name in record["outputs"] if isinstance(name, str))})


def _written(record: dict[str, Any]) -> frozenset[str] | None:
    """Return the files that a record names; None where it is of a run that has not ended, or of an older version."""
    files = record.get("files")
    return frozenset(files) if record["finished"] and isinstance(files, dict) else None
