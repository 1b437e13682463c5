"""A user's own ground truth: a COCO or LVIS JSON with boxes or masks, of any categories, all of which become one."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cuts3d_cli.cut.masks import Rle, rle_area, rle_box
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.coco_json import file_of, load_lists
from cuts3d_cli.evaluation.datasets.segmentation import to_rle
from cuts3d_cli.evaluation.metrics import Box, Instance
from cuts3d_cli.json_reading import is_number, is_whole
from cuts3d_cli.wording import listed

_PSEUDO = re.compile(r"pseudo[-_ ]?(mask|label)", re.IGNORECASE)
"""In the description of files of pseudo-masks."""
_WIDE = 0.9
"""Share of its image that the box of a crowd region covers, from which on there is a warning."""


@dataclass(frozen=True, kw_only=True)
class TrueImage:
    """An image of a ground truth.

    Attributes:
        file: its file name, with folders if any, normalised.
        width: of the image, pixels.
        height: of the image, pixels.
    """

    file: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A ground truth of one class.

    Attributes:
        images: image id -> image.
        instances: image id -> instances in the order of the file, crowd regions among them; of every image.
        warnings: one line each: what is odd about the file.
    """

    images: Mapping[int, TrueImage]
    instances: Mapping[int, Sequence[Instance]]
    warnings: Sequence[str]


@dataclass
class _Oddities:
    """Ids of annotations that are worth a warning."""

    without_mask: list[int] = field(default_factory=list)
    over_the_edge: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    wide_crowds: list[int] = field(default_factory=list)


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a COCO JSON with a ground truth.

    A box that is missing is computed from the mask, an area that is missing from the mask, else from the box. Where
    some annotations have a mask and others have none, the masks are left out with a warning, since an evaluation by
    masks would miss instances.

    A file of pseudo-masks is recognised by its `info.description`, which says "pseudo-masks" in the files of `cuts3d`,
    of MaskCut and of its successors. A single category `fg`, or a width and height in each annotation, is no sign:
    proper ground truths have these too.

    Args:
        path: of the JSON.

    Returns:
        The ground truth.

    Raises:
        UsageError: the file is missing, is not a COCO JSON, or holds pseudo-masks; an id is missing, duplicate or under
            1 (COCO's evaluation takes annotation id 0 for "no match"; image ids may be 0); a category id is 0; the
            image of an annotation is not in the file; a box is malformed, negative, or outside its image; a
            segmentation is malformed or of another size than its image. The line names the file and the id.
    """
    # Load the file, and check its images and categories.
    content = _load(path)
    images = _images(content, path)
    categories = content.get("categories")
    for category in categories if isinstance(categories, list) else []:
        if isinstance(category, dict) and _is_zero(category.get("id")):
            raise UsageError(f"{path}: a category has the id 0: COCO's ids start at 1, renumber them")
    # Check the annotations one by one, and collect them by image.
    instances: dict[int, list[Instance]] = {image: [] for image in images}
    oddities = _Oddities()
    seen: set[int] = set()
    for place, annotation in enumerate(content["annotations"]):
        number = annotation.get("id") if isinstance(annotation, dict) else None
        if not is_whole(number):
            raise UsageError(f"{path}: entry {place} of 'annotations' needs a whole number 'id'")
        where = f"{path}: annotation {number}"
        if number < 1:
            raise UsageError(f"{where}: COCO's evaluation takes an id of 0 for 'no match': number them from 1")
        if number in seen:
            raise UsageError(f"{where}: two annotations have this id: make the ids unique")
        seen.add(number)
        image = annotation.get("image_id")
        if not is_whole(image) or image not in images:
            raise UsageError(f"{where}: its image_id {image!r} is not the id of an image of the file")
        if _is_zero(annotation.get("category_id")):
            raise UsageError(f"{where}: its category_id is 0: COCO's ids start at 1, renumber them")
        instances[image].append(_instance(annotation, images[image], where=where, oddities=oddities))
    # Compare boxes alone where not every instance has a mask.
    if oddities.without_mask and len(oddities.without_mask) < len(seen):
        instances = {image: [replace(item, mask=None) for item in items] for image, items in instances.items()}
    return GroundTruth(images=images, instances=instances, warnings=_warnings(path, oddities, total=len(seen)))


def _load(path: Path) -> dict[str, Any]:
    """Load the JSON, unless it holds pseudo-masks."""
    content = load_lists(path, error=UsageError, remedy="pass a COCO JSON with the ground truth")
    info = content.get("info")
    description = str(info.get("description", "")) if isinstance(info, dict) else ""
    if _PSEUDO.search(description):
        raise UsageError(
            f"{path} holds pseudo-masks, not a ground truth ('{description}'): pass annotations made by people"
        )
    return content


def _images(content: Mapping[str, Any], path: Path) -> dict[int, TrueImage]:
    images: dict[int, TrueImage] = {}
    for place, image in enumerate(content["images"]):
        number = image.get("id") if isinstance(image, dict) else None
        if not is_whole(number):
            raise UsageError(f"{path}: entry {place} of 'images' needs a whole number 'id'")
        if number in images:
            raise UsageError(f"{path}: image {number}: two images have this id: make the ids unique")
        file, width, height = file_of(image), image.get("width"), image.get("height")
        if not file:
            raise UsageError(f"{path}: image {number} needs a 'file_name'")
        if not (is_whole(width) and is_whole(height) and width > 0 and height > 0):
            raise UsageError(f"{path}: image {number} needs a 'width' and a 'height', in whole pixels")
        images[number] = TrueImage(file=posixpath.normpath(file), width=width, height=height)
    return images


def _instance(annotation: Mapping[str, Any], image: TrueImage, *, where: str, oddities: _Oddities) -> Instance:
    """Check an annotation, and note what is odd about it."""
    number = annotation["id"]
    # Check the crowd flag, the mask and the box, which may come from the mask.
    crowd = annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise UsageError(f"{where}: its iscrowd is {crowd!r}: it must be 0 or 1")
    mask: Rle | None = None
    if annotation.get("segmentation"):
        try:
            mask = to_rle(annotation["segmentation"], width=image.width, height=image.height)
        except ValueError as error:
            raise UsageError(f"{where}: its segmentation {error}") from error
    else:
        oddities.without_mask.append(number)
    box = _box(annotation, image, mask, where=where)
    # Note what a proper ground truth rarely has.
    x, y, width, height = box
    if x < -1 or y < -1 or x + width > image.width + 1 or y + height > image.height + 1:
        oddities.over_the_edge.append(number)
    if crowd and width * height >= _WIDE * image.width * image.height:
        oddities.wide_crowds.append(number)
    if "score" in annotation:
        oddities.scored.append(number)
    # Check the area, or compute it.
    area = annotation.get("area")
    if area is None:
        area = rle_area(mask) if mask is not None else width * height
    if not is_number(area) or area < 0:
        raise UsageError(f"{where}: its area is {area!r}: it must be a number of pixels")
    return Instance(box=box, area=float(area), crowd=bool(crowd), mask=mask)


def _box(annotation: Mapping[str, Any], image: TrueImage, mask: Rle | None, *, where: str) -> Box:
    """Check the box of an annotation, or return that of its mask."""
    given = annotation.get("bbox")
    if given is None and mask is not None:
        given = rle_box(mask)
    if not isinstance(given, list) or len(given) != 4 or not all(is_number(value) for value in given):
        raise UsageError(f"{where}: its bbox is {given!r}: it must be [x, y, width, height]")
    x, y, width, height = map(float, given)
    if width < 0 or height < 0:
        raise UsageError(f"{where}: its bbox {given} has a negative size: it must be [x, y, width, height]")
    if x > image.width or y > image.height or x + width < 0 or y + height < 0:
        raise UsageError(
            f"{where}: its bbox {given} lies outside {image.file}, which is {image.width}x{image.height}: it must be"
            " [x, y, width, height], in pixels"
        )
    return x, y, width, height


def _warnings(path: Path, oddities: _Oddities, *, total: int) -> list[str]:
    warnings = []
    if 0 < len(oddities.without_mask) < total:
        warnings.append(
            f"{path}: {len(oddities.without_mask)} of {total} annotations have no segmentation, so boxes alone are"
            f" compared: annotations {listed(oddities.without_mask)}"
        )
    if oddities.over_the_edge:
        warnings.append(
            f"{path}: {len(oddities.over_the_edge)} boxes reach over the edge of their image (are they all"
            f" [x, y, width, height]?): annotations {listed(oddities.over_the_edge)}"
        )
    if oddities.wide_crowds:
        warnings.append(
            f"{path}: the boxes of {len(oddities.wide_crowds)} crowd regions cover their image, so by boxes nothing"
            f" there is a false positive (prefer masks): annotations {listed(oddities.wide_crowds)}"
        )
    if oddities.scored:
        warnings.append(
            f"{path}: {len(oddities.scored)} annotations have a score, as predictions do (is it a ground truth?):"
            f" annotations {listed(oddities.scored)}"
        )
    return warnings


def _is_zero(value: Any) -> bool:
    return is_whole(value) and value == 0
