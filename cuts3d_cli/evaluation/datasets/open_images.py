"""Annotations in the CSV of Open Images."""

from __future__ import annotations

import csv
from pathlib import Path

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, ParsedImage, box_instance
from cuts3d_cli.evaluation.metrics import Instance

_EDGES = ("XMin", "YMin", "XMax", "YMax")


def read_open_images(path: Path) -> ParsedDataset:
    """Read the boxes of Open Images: a row a box, its edges fractions of the image's width and height.

    Boxes around a group of objects (IsGroupOf) become crowd regions. Images without a box are not part of the dataset,
    since nobody looked for their objects.

    Args:
        path: of validation-annotations-bbox.csv.

    Returns:
        The annotations; the images are numbered from 1 in the order of their names.

    Raises:
        DatasetError: the file cannot be read, or is damaged.
    """
    instances: dict[str, list[Instance]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # Check that the columns are there.
            rows = csv.DictReader(file)
            missing = {"ImageID", "IsGroupOf", *_EDGES} - set(rows.fieldnames or ())
            if missing:
                columns = ", ".join(sorted(missing))
                raise DatasetError(f"{path} is not a CSV of boxes: there is no column {columns}")
            # Collect the boxes by image.
            for row in rows:
                left, top, right, bottom = (float(row[edge]) for edge in _EDGES)
                item = box_instance(left, top, right, bottom, crowd=row["IsGroupOf"] == "1")
                instances.setdefault(row["ImageID"], []).append(item)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        line = sum(map(len, instances.values())) + 2
        raise DatasetError(f"{path}, line {line} is damaged or cut off ({error}): fetch the file again") from error
    return ParsedDataset(
        images={
            number: ParsedImage(file=f"{name}.jpg", size=None, instances=instances[name], relative=True)
            for number, name in enumerate(sorted(instances), start=1)
        }
    )
