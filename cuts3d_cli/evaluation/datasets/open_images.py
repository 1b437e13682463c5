"""Annotations in the CSV of Open Images."""

from __future__ import annotations

import csv
from pathlib import Path

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.parsed import Parsed, ParsedImage, box_instance
from cuts3d_cli.evaluation.metrics import Instance

_EDGES = ("XMin", "YMin", "XMax", "YMax")


def read_open_images(path: Path) -> Parsed:
    """Read the boxes of Open Images: a row a box, its edges fractions of the image's width and height.

    Boxes around a group of objects (IsGroupOf) become crowd regions. Images without a box are no part of the set: their
    objects were not looked for.

    Args:
        path: of validation-annotations-bbox.csv.

    Raises:
        DatasetError: the file cannot be read, or is damaged.
    """
    found: dict[str, list[Instance]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = {"ImageID", "IsGroupOf", *_EDGES} - set(rows.fieldnames or ())
            if missing:
                raise DatasetError(f"{path} is no CSV of boxes: it has no column {', '.join(sorted(missing))}")
            for row in rows:
                left, top, right, bottom = (float(row[edge]) for edge in _EDGES)
                item = box_instance(left, top, right, bottom, crowd=row["IsGroupOf"] == "1")
                found.setdefault(row["ImageID"], []).append(item)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        line = sum(map(len, found.values())) + 2
        raise DatasetError(f"{path}, line {line} is damaged or cut off ({error}): fetch the file again") from error
    return Parsed(
        images={
            number: ParsedImage(file=f"{name}.jpg", size=None, instances=found[name], relative=True)
            for number, name in enumerate(sorted(found), start=1)
        }
    )
