"""Detections that outlive a run: an evaluation that was stopped goes on with the photos that are left."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.sidecars.detections import Detections

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = 12
"""Of a digest, in a file's name."""


@dataclass(frozen=True, kw_only=True)
class PhotoState:
    """Which photo it was: if one of these has changed, it is looked at anew.

    Attributes:
        file: its path in the annotations.
        size: of the file, bytes.
        mtime_ns: when the file was last written.
        width: that its annotations have, pixels.
        height: the same.
        masks: whether masks are kept.
    """

    file: str
    size: int
    mtime_ns: int
    width: int
    height: int
    masks: bool


class Journal:
    """A file of detections, a line a photo, which only ever grows; a line that was cut off is passed over.

    Used as a context manager. Numbers are those of float32, so that what is read is what was written.
    """

    def __init__(self, path: Path) -> None:
        """Prepare a journal; nothing is read before the `with` block.

        Args:
            path: of the file; neither it nor its folder need exist.
        """
        self.path = path
        self._places: dict[tuple[Any, ...], int] = {}
        self._stack = ExitStack()
        self._lines: BinaryIO | None = None
        self._end: BinaryIO | None = None

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._end = self._stack.enter_context(open(self.path, "ab"))
            self._lines = self._stack.enter_context(open(self.path, "rb"))
            place, line = 0, b"\n"
            for line in self._lines:
                if (photo := _photo_of(line)) is not None:
                    self._places[photo] = place
                place += len(line)
            if not line.endswith(b"\n"):
                self._end.write(b"\n")
        except OSError as error:
            self._stack.close()
            raise self._unusable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def get(self, state: PhotoState) -> Detections | None:
        """What was found in a photo by an earlier run; None if it was not looked at, or has changed since."""
        assert self._lines is not None, "a journal is used in a with statement"
        place = self._places.get(astuple(state))
        if place is None:
            return None
        self._lines.seek(place)
        record = json.loads(self._lines.readline())
        return Detections(
            boxes=np.array(record["boxes"], dtype=np.float32).reshape(-1, 4),
            scores=np.array(record["scores"], dtype=np.float32),
            masks=[{"size": [state.height, state.width], "counts": counts} for counts in record["masks"]],
        )

    def has(self, state: PhotoState) -> bool:
        """Whether `get` has detections."""
        return astuple(state) in self._places

    def add(self, state: PhotoState, found: Detections) -> None:
        """Append what was found in a photo, for later runs.

        Raises:
            DatasetError: the file cannot be written.
        """
        assert self._end is not None, "a journal is used in a with statement"
        record = {
            "photo": astuple(state),
            "scores": _shortest(found.scores),
            "boxes": [_shortest(box) for box in np.asarray(found.boxes)],
            "masks": [mask["counts"] for mask in found.masks] if state.masks else [],
        }
        try:
            # A line at once: of two runs that share the file neither breaks the other's lines.
            self._end.write(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")
            self._end.flush()
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DatasetError:
        why = error.strerror or error
        return DatasetError(f"{self.path} cannot be written: {why}: pass another folder with --detections")


def journal_path(folder: Path, *, dataset: str, detector: str) -> Path:
    """The journal of a detector's detections in a dataset.

    Args:
        folder: of all journals.
        dataset: its name.
        detector: a digest of all that shapes its detections.
    """
    return folder / f"{_UNFIT.sub('_', dataset)}-{detector[:_DIGITS]}.jsonl"


def _photo_of(line: bytes) -> tuple[Any, ...] | None:
    """The photo of a line; None if the line is not whole."""
    try:
        record = json.loads(line)
        photo = record["photo"]
        whole = len(record["scores"]) == len(record["boxes"]) and isinstance(record["masks"], list)
        return tuple(photo) if whole else None
    except (ValueError, TypeError, KeyError):
        return None


def _shortest(values: NDArray[np.float32]) -> list[float]:
    """The numbers of fewest digits that become these float32 again."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]
