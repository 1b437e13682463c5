"""Segmentations as COCO annotations."""

from __future__ import annotations

from typing import Any

from cuts3d_cli.cut.masks import encode_rle, rle_area, rle_box
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
    codes = [encode_rle(mask) for mask in segmentation.masks]
    return [
        {
            "id": int(first_id) + place,
            "image_id": int(image_id),
            "category_id": int(category_id),
            "segmentation": code,
            "bbox": rle_box(code),
            "area": rle_area(code),
            "iscrowd": 0,
            "score": float(score),
            **({} if segmentation.classes is None else {"class_id": int(segmentation.classes[place])}),
        }
        for place, (code, score) in enumerate(zip(codes, segmentation.scores, strict=True))
    ]
