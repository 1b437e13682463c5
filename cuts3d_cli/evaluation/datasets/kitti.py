"""Annotations in the text files of KITTI's object benchmark."""

from __future__ import annotations

from pathlib import Path

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.files import read_lines
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, ParsedImage, box_instance
from cuts3d_cli.evaluation.metrics import Instance

_FIELDS = 15


def read_kitti(labels: Path) -> ParsedDataset:
    """Read the label files of KITTI: a line an object, of 15 fields, with left, top, right and bottom as fields 5 to 8.

    All eight types of objects are instances. DontCare regions become crowd regions: KITTI's own evaluation ignores
    detections inside them, too.

    Args:
        labels: folder of 000000.txt, ...

    Returns:
        The annotations; the images are numbered from 1 in the order of their names.

    Raises:
        DatasetError: a file cannot be read, or is damaged.
    """
    images = {}
    for number, path in enumerate(sorted(labels.glob("*.txt")), start=1):
        instances = [
            _instance(line, where=f"{path}, line {place}")
            for place, line in enumerate(read_lines(path), start=1)
            if line.strip()
        ]
        images[number] = ParsedImage(file=f"{path.stem}.png", size=None, instances=instances)
    return ParsedDataset(images=images)


def _instance(line: str, *, where: str) -> Instance:
    fields = line.split()
    try:
        if len(fields) < _FIELDS:
            raise ValueError(f"it has {len(fields)} fields, not {_FIELDS}")
        left, top, right, bottom = map(float, fields[4:8])
        return box_instance(left, top, right, bottom, crowd=fields[0] == "DontCare")
    except ValueError as error:
        raise DatasetError(f"{where} is not a label of KITTI ({error}): fetch the labels again") from error
