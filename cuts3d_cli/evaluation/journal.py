"""Detections that outlive a run: an interrupted evaluation resumes with the photos that are left."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import check_rle
from cuts3d_cli.errors import DatasetError
from cuts3d_cli.json_reading import parse_json
from cuts3d_cli.sidecars.detections import Detections

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = 12
"""Digits of a digest in the name of a file."""


@dataclass(frozen=True, kw_only=True)
class PhotoState:
    """The state of a photo: once any of it has changed, kept detections are stale.

    Attributes:
        file: its path in the annotations.
        size: of the file, bytes.
        mtime_ns: time of the last change of the file, nanoseconds.
        width: of the image in the annotations, pixels.
        height: of the image in the annotations, pixels.
        masks: whether masks are kept.
    """

    file: str
    size: int
    mtime_ns: int
    width: int
    height: int
    masks: bool


_STATE = tuple(item.name for item in fields(PhotoState))


class DetectionJournal:
    """A file of detections, a line a photo, which only ever grows; a line that was cut off is ignored.

    Used as a context manager. Numbers are written so that they read back as the same float32.
    """

    def __init__(self, path: Path) -> None:
        """Prepare a journal; the file is opened by the `with` statement.

        Args:
            path: of the file; neither it nor its folder need exist.
        """
        self.path = path
        self._places: dict[tuple[Any, ...], int] = {}
        self._stack = ExitStack()
        self._lines: BinaryIO | None = None
        self._end: BinaryIO | None = None

    def __enter__(self) -> DetectionJournal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._end = self._stack.enter_context(open(self.path, "ab"))
            self._lines = self._stack.enter_context(open(self.path, "rb"))
            # Note where the line of each photo is; of several for one photo, the last counts.
            place, line = 0, b"\n"
            for line in self._lines:
                if (photo := _photo_of(line)) is not None:
                    self._places[photo] = place
                place += len(line)
            # End a line that was cut off, so that it does not spoil the next one.
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
        """Read an earlier run's detections in a photo; None if there are none, or the photo has changed since."""
        assert self._lines is not None, "a journal is used in a with statement"
        place = self._places.get(astuple(state))
        if place is None:
            return None
        self._lines.seek(place)
        return _detections_of(parse_json(self._lines.readline()), size=(state.height, state.width))

    def has(self, state: PhotoState) -> bool:
        """Tell whether `get` has detections of a photo."""
        return astuple(state) in self._places

    def add(self, state: PhotoState, found: Detections) -> None:
        """Append the detections in a photo, for later runs.

        Args:
            state: of the photo.
            found: the detections in it.

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
        if found.classes is not None:
            record["classes"] = found.classes.tolist()
        try:
            # One write a line, so that two runs that share the file do not break each other's lines.
            self._end.write(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")
            self._end.flush()
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DatasetError:
        why = error.strerror or error
        return DatasetError(f"{self.path} cannot be written: {why}: choose another folder for it (detections)")


def journal_path(folder: Path, *, dataset: str, detector: str) -> Path:
    """Return the file for a detector's detections in a dataset.

    Args:
        folder: of all journals.
        dataset: name of the dataset.
        detector: hex digest of all that can change the detections.
    """
    return folder / f"{_UNFIT.sub('_', dataset)}-{detector[:_DIGITS]}.jsonl"


def _photo_of(line: bytes) -> tuple[Any, ...] | None:
    """Return the photo of a line; None if the line was cut off, or is damaged."""
    try:
        record = parse_json(line)
        photo = tuple(record["photo"])
        state = PhotoState(**dict(zip(_STATE, photo, strict=True)))
        _detections_of(record, size=(state.height, state.width))
        hash(photo)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return photo


def _detections_of(record: Any, *, size: tuple[int, int]) -> Detections:
    """Return the detections of a line.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it is damaged.
    """
    boxes = np.array(record["boxes"], dtype=np.float32).reshape(-1, 4)
    scores = np.array(record["scores"], dtype=np.float32)
    masks = [check_rle({"size": list(size), "counts": counts}) for counts in record["masks"]]
    classes = np.array(record["classes"], dtype=np.int64) if "classes" in record else None
    numbers: list[NDArray[Any]] = [scores, *([] if classes is None else [classes])]
    if any(item.shape != (len(boxes),) for item in numbers) or len(masks) not in (0, len(boxes)):
        raise ValueError("its lists are of different lengths")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a number is not finite")
    return Detections(boxes=boxes, scores=scores, masks=masks, classes=classes)


def _shortest(values: NDArray[np.float32]) -> list[float]:
    """Return the numbers of fewest digits that read back as these float32."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]
