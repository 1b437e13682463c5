"""Published annotations in COCO's JSON: COCO itself, LVIS, Objects365 and UVO, each with its own deviations.

Unlike `ground_truth`, which reads users' own files and makes the best of each annotation, this reader refuses a file
with an annotation that cannot be read: it is not what was published. A box may reach over the edge of its image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.annotations import Remark, Remarks, mask_of_box, name_of, read_annotation
from cuts3d_cli.evaluation.datasets.coco_json import load_lists
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, ParsedImage
from cuts3d_cli.evaluation.metrics import Instance
from cuts3d_cli.json_reading import is_whole
from cuts3d_cli.paths import base_name, file_of

_REFUSED = {Remark.BOX, Remark.CROWD}
"""Faults that no published file has."""


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
    remarks, total = Remarks(), 0
    for place, annotation in enumerate(content["annotations"]):
        where = f"{path}: entry {place} of 'annotations'"
        # Find its image, unless that was not chosen.
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if is_whole(image) and image in left_out:
            continue
        if not is_whole(image) or image not in sizes:
            raise DatasetError(f"{where} has no image in the file: fetch it again")
        # Read the instance, and replace a mask that is missing or damaged.
        total += 1
        try:
            read = read_annotation(annotation, size=sizes[image], masks=masks)
            item, found = read.instance, dict(read.remarks)
            if masks and item.mask is None:
                found.setdefault(Remark.MASK, "it has none")
                item = replace(item, mask=mask_of_box(item.box, size=sizes[image]))
        except ValueError as error:
            raise DatasetError(f"{where} is damaged ({error}): fetch the file again") from error
        for remark, reason in found.items():
            if remark in _REFUSED:
                raise DatasetError(f"{where} is damaged ({reason}): fetch the file again")
            remarks.add(remark, name_of(annotation, place), reason)
        instances[image].append(item)
    images = {
        number: ParsedImage(file=files[number], size=size, instances=instances[number])
        for number, size in sizes.items()
    }
    return ParsedDataset(images=images, warnings=remarks.lines(path, total=total))


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
        if chosen is None or base_name(file) in chosen:
            sizes[number], files[number] = (width, height), file
        else:
            left_out.add(number)
    return sizes, files, left_out
