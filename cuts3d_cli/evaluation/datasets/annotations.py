"""One annotation of a COCO JSON: the instance that is made of what is valid in it, and what is wrong with the rest.

One bad annotation must not refuse a file of thousands. What each lacks is computed from what it has; what cannot be
read is replaced, or the annotation is left out; and every kind of fault is counted and named once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from cuts3d_cli.cut.masks import Rle, rle_area, rle_box
from cuts3d_cli.evaluation.datasets.segmentation import read_mask
from cuts3d_cli.evaluation.metrics import Box, Instance
from cuts3d_cli.json_reading import is_number
from cuts3d_cli.wording import SHOWN_NAMES, listed

_CROWD: Mapping[Any, bool] = {0: False, 1: True, "": False, "0": False, "1": True, "false": False, "true": True}
"""What `iscrowd` may be, in lower-case letters: true, 1 and 1.0 are the same to Python."""

_SHOWN = 60
"""Characters of a value that a message quotes."""


class Remark(Enum):
    """What may be wrong or odd about an annotation; the value follows "3 of 80 annotations"."""

    UNUSABLE = "are unusable and left out"
    OF_NO_IMAGE = "belong to no image of the file and are left out"
    REPEATED = "stand in the file twice, id and all, and count once"
    SAME_ID = "have the id of another one; each counts"
    PART = "have a segmentation of which a part is damaged and left out"
    MASK = "have a damaged segmentation, and their box takes its place"
    BOX = "have a damaged bbox, and that of their segmentation takes its place"
    ANOTHER_BOX = "have a bbox that is not [x, y, width, height] of their segmentation, whose own takes its place"
    AREA = "have an area that is no positive number, and it is computed"
    CROWD = "have an iscrowd that is neither 0 nor 1, and count as single objects"
    WITHOUT_MASK = "have no segmentation, so boxes alone are compared"
    OVER_THE_EDGE = "have a bbox that reaches over the edge of its image (are they all [x, y, width, height]?)"
    WIDE_CROWD = "are crowd regions whose bbox covers its image, so by boxes nothing there is a false positive"
    SCORED = "have a score, as predictions do (is it a ground truth?)"


class Remarks:
    """What is remarkable about the annotations of a file."""

    def __init__(self) -> None:
        """Begin with none."""
        self._found: dict[Remark, list[str]] = {}

    def add(self, remark: Remark, name: object, reason: str = "") -> None:
        """Note an annotation.

        Args:
            remark: what is remarkable about it.
            name: what messages call it.
            reason: more about it, for the line.
        """
        found = self._found.setdefault(remark, [])
        found.append(f"{name} ({reason})" if reason and len(found) < SHOWN_NAMES else str(name))

    def count(self, remark: Remark) -> int:
        """Return how many annotations a remark is about."""
        return len(self._found.get(remark, ()))

    def lines(self, path: Path, *, total: int, without: Collection[Remark] = ()) -> list[str]:
        """Return a line for each remark, with the count and the first three of its annotations.

        Args:
            path: of the JSON.
            total: number of annotations that were read.
            without: remarks that need no line.
        """
        return [
            f"{path}: {len(found)} of {total} annotations {remark.value}: annotations {listed(found)}"
            for remark in Remark
            if (found := self._found.get(remark, [])) and remark not in without
        ]


@dataclass(frozen=True, kw_only=True)
class ReadAnnotation:
    """What was read of an annotation.

    Attributes:
        instance: without a mask where the segmentation is missing or damaged.
        remarks: what is remarkable about it -> the reason.
    """

    instance: Instance
    remarks: Mapping[Remark, str] = field(default_factory=dict)


def read_annotation(annotation: Any, *, size: tuple[int, int], masks: bool = True) -> ReadAnnotation:
    """Read an annotation; its ids play no part.

    A box that is missing or damaged is computed from the mask, an area from the mask, else from the box.

    Args:
        annotation: an entry of the JSON.
        size: (width, height) of the image, pixels.
        masks: whether to read its mask.

    Returns:
        The instance, and what is wrong with the annotation.

    Raises:
        ValueError: neither its box nor its mask can be read, or it is no object at all; the text says why.
    """
    if not isinstance(annotation, dict):
        raise ValueError("it is not a JSON object")
    remarks: dict[Remark, str] = {}
    # Read the mask, and the box, which may come from it.
    mask = None
    if masks and annotation.get("segmentation"):
        found = read_mask(annotation["segmentation"], width=size[0], height=size[1])
        mask = found.code
        if found.flaw:
            remarks[Remark.MASK if mask is None else Remark.PART] = f"it {found.flaw}"
    box, flaw = _box(annotation.get("bbox"))
    if box is None:
        if mask is None or not rle_area(mask):
            more = f", its segmentation {remarks[Remark.MASK].removeprefix('it ')}" if Remark.MASK in remarks else ""
            raise ValueError(f"{flaw}{more}")
        box = box_of(mask)
        if annotation.get("bbox"):
            remarks[Remark.BOX] = flaw
    # Read the crowd flag and the area, or compute it.
    crowd = is_crowd(annotation)
    if crowd is None:
        remarks[Remark.CROWD] = f"it is {shown(annotation['iscrowd'])}"
    area, own = annotation.get("area"), float(rle_area(mask)) if mask is not None else box[2] * box[3]
    if area is not None and not (is_number(area) and (area > 0 or own == 0 == area)):
        remarks[Remark.AREA] = f"it is {shown(area)}"
        area = None
    instance = Instance(box=box, area=own if area is None else float(area), crowd=bool(crowd), mask=mask)
    return ReadAnnotation(instance=instance, remarks=remarks)


def box_of(code: Rle) -> Box:
    """Return the bounding box of a run-length code."""
    x, y, width, height = rle_box(code)
    return x, y, width, height


def mask_of_box(box: Box, *, size: tuple[int, int]) -> Rle:
    """Return a box as the mask of an image of (width, height).

    Raises:
        ValueError: it lies outside the image.
    """
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    found = read_mask([corners], width=size[0], height=size[1])
    if found.code is None:
        raise ValueError(f"its bbox {list(box)} has no mask: as an outline, it {found.flaw}")
    return found.code


def is_crowd(annotation: Mapping[str, Any]) -> bool | None:
    """Tell whether an annotation is a crowd region; None if its `iscrowd` is neither 0 nor 1 in any spelling."""
    value = annotation.get("iscrowd")
    if value is None:
        return False
    plain = value.strip().lower() if isinstance(value, str) else value
    return _CROWD.get(plain) if isinstance(plain, str | int | float) else None


def name_of(annotation: Any, place: int) -> object:
    """Return what a message calls an annotation: its id, else its place in the file."""
    number = annotation.get("id") if isinstance(annotation, dict) else None
    return f"entry {place}" if number is None or isinstance(number, list | dict) else number


def shown(value: Any) -> str:
    """Return a value of the JSON for a message, its end cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _box(given: Any) -> tuple[Box | None, str]:
    """Return a box; or None, and what is wrong with it."""
    if not given:
        return None, "it has no bbox"
    if isinstance(given, dict):  # as imglab writes it
        given = [given.get(name) for name in ("x", "y", "width", "height")]
    if not isinstance(given, list) or len(given) != 4 or not all(is_number(value) for value in given):
        return None, f"its bbox is {shown(given)}"
    x, y, width, height = map(float, given)
    if width < 0 or height < 0:
        return None, f"its bbox {given} has a negative size"
    return (x, y, width, height), ""
