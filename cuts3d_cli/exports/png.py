"""Images: a PNG a mask; or one PNG a photo, in which the value of a pixel says which instance it belongs to."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.errors import FileError
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundPhoto
from cuts3d_cli.figures.palette import instance_colours
from cuts3d_cli.wording import counted

_COLUMNS = ("photo", "file", "instance", "score", "x", "y", "width", "height", "area", "class_id")
_MOST = 65_535
"""Instances that 16 bits can tell apart."""


def write_masks(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write `PHOTO-001.png`, `PHOTO-002.png`, ...: 8 bits, 255 in the mask and 0 elsewhere; and a table of them.

    Args:
        photos: with their instances.
        out: where to.
        options: file, for the table.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    with _table(out, options.file) as row:
        for photo in photos:
            stem = out.stem_of(photo.file)
            for number, item in enumerate(photo.instances, start=1):
                name = f"{stem}-{number:03d}.png"
                out.write(name, _encoded(decode_rle(item.mask).astype(np.uint8) * np.uint8(255)))
                row([photo.file, name, number, item.score, *item.box, item.area, item.class_id])
    return {}


def write_label_maps(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write `PHOTO.png`: 16 bits, 0 for the background, k for the k-th instance; `PHOTO.colours.png`; and a table.

    Where instances overlap, the one of the highest score is seen; of equal ones the first.

    Args:
        photos: with their instances.
        out: where to.
        options: file, for the table.

    Returns:
        How many instances are hidden by others, in part and as a whole.
    """
    hidden: Counter[str] = Counter()
    with _table(out, options.file) as row:
        for photo in photos:
            if len(photo.instances) > _MOST:
                raise FileError(
                    f"{photo.file} has {counted(len(photo.instances), 'instance')}, and a label map at most {_MOST}"
                )
            stem = out.stem_of(photo.file)
            labels = np.zeros(photo.size, dtype=np.uint16)
            # The last one drawn is the one that is seen.
            order = sorted(enumerate(photo.instances, start=1), key=lambda pair: (pair[1].score, -pair[0]))
            for number, item in order:
                labels[decode_rle(item.mask)] = number
            seen = np.bincount(labels.ravel(), minlength=len(photo.instances) + 1)
            for number, item in enumerate(photo.instances, start=1):
                hidden["instances that others hide in part"] += int(0 < seen[number] < item.area)
                hidden["instances that others hide as a whole"] += int(seen[number] == 0)
                row([photo.file, f"{stem}.png", number, item.score, *item.box, item.area, item.class_id])
            out.write(f"{stem}.png", _encoded(labels))
            colours = np.array([(0, 0, 0), *instance_colours(len(photo.instances))], dtype=np.uint8)
            out.write(f"{stem}.colours.png", _encoded(colours[labels]))
    return hidden


@contextmanager
def _table(out: Output, name: str) -> Iterator[Callable[[Sequence[object]], object]]:
    """Write a table of all instances as CSV, row by row."""
    with out.open(name) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(_COLUMNS)
        yield rows.writerow
        text.detach()


def _encoded(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
