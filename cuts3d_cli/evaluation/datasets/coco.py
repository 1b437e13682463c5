"""Published annotations in COCO's JSON: COCO itself, LVIS, Objects365 and UVO, each with its own deviations.

Unlike `ground_truth`, which reads users' own files and refuses what is odd, this reader takes published files as they
are: ids of annotations and categories play no part, and a box may reach over the edge of its image.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import Rle
from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.coco_json import file_of, load_lists
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, ParsedImage
from cuts3d_cli.evaluation.datasets.segmentation import to_rle
from cuts3d_cli.evaluation.metrics import Box, Instance
from cuts3d_cli.json_reading import is_number, is_whole
from cuts3d_cli.wording import listed


def read_coco(path: Path, *, masks: bool, chosen: Collection[str] | None = None) -> ParsedDataset:
    """Read a published JSON; all its categories become one.

    Args:
        path: of the JSON.
        masks: whether the instances have masks; a mask that is missing or damaged is replaced by its box, and a warning
            says so.
        chosen: base names of the images to read; None for all.

    Returns:
        The annotations, under the ids of the file.

    Raises:
        DatasetError: the file cannot be read, is cut off, or is not a COCO JSON; or an entry in it is damaged.
    """
    content = load_lists(path, error=DatasetError, remedy="fetch it again")
    sizes, files, left_out = _images(content["images"], path=path, chosen=chosen)
    instances: dict[int, list[Instance]] = {number: [] for number in sizes}
    without_mask: list[object] = []
    for place, annotation in enumerate(content["annotations"]):
        where = f"{path}: entry {place} of 'annotations'"
        # Find its image, unless that was not chosen.
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if is_whole(image) and image in left_out:
            continue
        if not is_whole(image) or image not in sizes:
            raise DatasetError(f"{where} has no image in the file: fetch it again")
        # Read the instance, and replace a mask that is missing or damaged.
        item = _instance(annotation, sizes[image], masks=masks)
        if item is None:
            raise DatasetError(f"{where} is damaged: fetch the file again")
        if masks and item.mask is None:
            without_mask.append(annotation.get("id", place))
            try:
                mask = _box_mask(item.box, sizes[image])
            except ValueError as error:
                raise DatasetError(f"{where} is damaged (its box {error}): fetch the file again") from error
            item = Instance(box=item.box, area=item.area, crowd=item.crowd, mask=mask)
        instances[image].append(item)
    warnings = []
    if without_mask:
        warnings.append(
            f"{path}: the masks of {len(without_mask)} of {sum(map(len, instances.values()))} annotations are missing"
            f" or damaged, and their boxes take their place: annotations {listed(without_mask)}"
        )
    images = {
        number: ParsedImage(file=files[number], size=size, instances=instances[number])
        for number, size in sizes.items()
    }
    return ParsedDataset(images=images, warnings=warnings)


def _images(
    entries: Sequence[Any], *, path: Path, chosen: Collection[str] | None
) -> tuple[dict[int, tuple[int, int]], dict[int, str], set[int]]:
    """Return (width, height) and file of each chosen image by id, and the ids of the others."""
    sizes: dict[int, tuple[int, int]] = {}
    files: dict[int, str] = {}
    left_out: set[int] = set()
    for place, image in enumerate(entries):
        where = f"{path}: entry {place} of 'images'"
        try:
            number, file, (width, height) = image["id"], file_of(image), (image["width"], image["height"])
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{where} is damaged ({error!r}): fetch the file again") from error
        good = file and is_whole(number) and number not in sizes
        good = good and all(is_whole(side) and side > 0 for side in (width, height))
        if not good or width * height > MAX_IMAGE_PIXELS:
            raise DatasetError(f"{where} is damaged: fetch the file again")
        if chosen is None or posixpath.basename(file) in chosen:
            sizes[number], files[number] = (width, height), file
        else:
            left_out.add(number)
    return sizes, files, left_out


def _instance(annotation: Mapping[str, Any], size: tuple[int, int], *, masks: bool) -> Instance | None:
    """Return the instance, without a mask where that is missing or damaged; None where the annotation is damaged."""
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


def _box_mask(box: Box, size: tuple[int, int]) -> Rle:
    """Return a box as the mask of an image of (width, height)."""
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return to_rle([corners], width=size[0], height=size[1])
