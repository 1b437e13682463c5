"""Annotations in COCO's JSON: COCO itself, LVIS, Objects365 and UVO, which each bend it a little.

Unlike `datasets.coco`, which reads users' own files and refuses what is odd, this takes published files as they are:
ids of annotations and categories play no part, and a box may reach over the edge of its image.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.coco import file_of, load_lists
from cuts3d_cli.evaluation.datasets.parsed import Parsed, ParsedImage
from cuts3d_cli.evaluation.datasets.segmentation import is_number, is_whole, to_rle
from cuts3d_cli.evaluation.metrics import Box, Instance
from cuts3d_cli.wording import listed


def read_coco_style(path: Path, *, masks: bool, chosen: Collection[str] | None = None) -> Parsed:
    """Read a published JSON, and make its categories one.

    Args:
        path: of the JSON.
        masks: whether the instances have masks; where one is missing or damaged, its box takes its place, and a warning
            says so.
        chosen: base names of the images to read; None for all.

    Raises:
        DatasetError: the file cannot be read, is cut off, or is no such JSON; or an entry in it is damaged.
    """
    content = load_lists(
        path, error=DatasetError, not_json="no whole JSON ({}): fetch it again", no_lists="no JSON of annotations"
    )
    images: dict[int, ParsedImage] = {}
    others: set[int] = set()
    instances: dict[int, list[Instance]] = {}
    for place, image in enumerate(content["images"]):
        where = f"{path}: entry {place} of 'images'"
        try:
            number, file, size = image["id"], file_of(image), (image["width"], image["height"])
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{where} is damaged ({error!r}): fetch the file again") from error
        good = file and is_whole(number) and number not in images and all(is_whole(side) and side > 0 for side in size)
        if not good or size[0] * size[1] > MAX_IMAGE_PIXELS:
            raise DatasetError(f"{where} is damaged: fetch the file again")
        if chosen is not None and posixpath.basename(file) not in chosen:
            others.add(number)
            continue
        instances[number] = []
        images[number] = ParsedImage(file=file, size=size, instances=instances[number])
    without_mask: list[object] = []
    for place, annotation in enumerate(content["annotations"]):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if is_whole(image_id) and image_id in others:
            continue
        if not is_whole(image_id) or image_id not in images:
            raise DatasetError(f"{path}: entry {place} of 'annotations' is of no image of the file: fetch it again")
        size = images[image_id].size or (0, 0)
        item = _instance(annotation, size, masks=masks)
        if item is None:
            raise DatasetError(f"{path}: entry {place} of 'annotations' is damaged: fetch the file again")
        if masks and item.mask is None:
            without_mask.append(annotation.get("id", place))
            try:
                item = Instance(box=item.box, area=item.area, crowd=item.crowd, mask=_box_mask(item.box, size))
            except ValueError as error:
                where = f"{path}: entry {place} of 'annotations'"
                raise DatasetError(f"{where} is damaged (its box {error}): fetch the file again") from error
        instances[image_id].append(item)
    warnings = []
    if without_mask:
        warnings.append(
            f"{path}: {len(without_mask)} of {sum(map(len, instances.values()))} annotations have no mask or a damaged"
            f" one, and their boxes take its place: annotations {listed(without_mask)}"
        )
    return Parsed(images=images, warnings=warnings)


def _instance(annotation: Mapping[str, Any], size: tuple[int, int], *, masks: bool) -> Instance | None:
    """None where the annotation is damaged; without a mask where that is."""
    box, crowd = annotation.get("bbox"), annotation.get("iscrowd", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box) or crowd not in (0, 1):
        return None
    x, y, width, height = map(float, box)
    area = annotation.get("area")
    mask = None
    if masks and annotation.get("segmentation"):
        try:
            mask = to_rle(annotation["segmentation"], width=size[0], height=size[1])
        except ValueError:  # counted by the caller
            mask = None
    return Instance(
        box=(x, y, width, height),
        area=float(area) if is_number(area) else width * height,
        crowd=bool(crowd),
        mask=mask,
    )


def _box_mask(box: Box, size: tuple[int, int]) -> Any:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return to_rle([corners], width=size[0], height=size[1])
