"""Segmentations as COCO annotations."""

from __future__ import annotations

from typing import Any

from cuts3d_cli.exports.coco import annotation
from cuts3d_cli.exports.photos import instances_of
from cuts3d_cli.segmentation import Segmentation


def to_coco(
    segmentation: Segmentation, *, image_id: int, category_id: int = 1, first_id: int = 1
) -> list[dict[str, Any]]:
    """Return the instances of an image as COCO annotations, plain JSON values.

    Args:
        segmentation: of the image.
        image_id: of the image in the COCO file.
        category_id: of all its instances.
        first_id: annotation id of the first instance; the others count on from there. COCO's evaluation takes 0 for "no
            match".

    Returns:
        One a mask: `id`, `image_id`, `category_id`, `segmentation` (run-length code), `bbox` [x, y, width, height],
        `area` (pixels), `iscrowd` 0, `score`; `class_id` where a detector of several classes found it.
    """
    return [
        annotation(item, id=int(first_id) + place, image_id=int(image_id), category_id=int(category_id))
        for place, item in enumerate(instances_of(segmentation))
    ]
