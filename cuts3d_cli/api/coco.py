"""Segmentations as COCO: the annotations of one image, and a whole data set of many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from cuts3d_cli._version import __version__
from cuts3d_cli.api.settings import check_count
from cuts3d_cli.errors import SampleError, SettingError
from cuts3d_cli.exports.coco import annotation, head_of, image
from cuts3d_cli.exports.exporting import TITLES
from cuts3d_cli.exports.photos import instances_of
from cuts3d_cli.segmentation import Segmentation

Name = str | os.PathLike[str]
"""The file of a photo, as COCO is to name it."""
Named = tuple[Name, Segmentation | SampleError]
"""The file of a photo, and its instances, or why it could not be used."""


def to_coco(
    segmentation: Segmentation, *, image_id: int, category_id: int = 1, first_id: int = 1
) -> list[dict[str, Any]]:
    """Return the instances of one image as COCO annotations, plain JSON values. For a whole file: `coco_dataset`.

    Args:
        segmentation: of the image.
        image_id: of the image in the COCO file.
        category_id: of all its instances.
        first_id: annotation id of the first instance; the others count on from there. Within a file no id may come
            twice, so that a further image begins behind the last id of the one before. COCO's evaluation takes 0 for
            "no match".

    Returns:
        One a mask: `id`, `image_id`, `category_id`, `segmentation` (run-length code), `bbox` [x, y, width, height],
        `area` (pixels), `iscrowd` 0, `score`; `class_id` where a detector of several classes found it.
    """
    return [
        annotation(item, id=int(first_id) + place, image_id=int(image_id), category_id=int(category_id))
        for place, item in enumerate(instances_of(segmentation))
    ]


def coco_dataset(
    results: Iterable[Named] | Mapping[str, Segmentation],
    *,
    image_ids: Iterable[int] | None = None,
    category: str = "object",
) -> dict[str, Any]:
    """Return the instances of many images as one COCO data set, which `json.dump` writes as a COCO file.

    Args:
        results: pairs of a photo's file and its `Segmentation`, as `zip(paths, cutter.batch(paths))` gives them, or a
            mapping. They are read one by one, and no mask is kept but as its run-length code. A `SampleError` in place
            of a segmentation, as of `batch(errors="return")`, leaves its photo out.
        image_ids: one a pair, as those of a ground truth; 1, 2, ... by default.
        category: name of the only category.

    Returns:
        `info`, `licenses`, `categories` (one, of id 1), `images` (`id`, `file_name`, `width`, `height`), those without
        an instance too, and `annotations` as of `to_coco`, whose ids are 1, 2, ...

    Raises:
        SettingError: a pair is none, or an id is no number of an image, is given twice, or missing.
    """
    ids = None if image_ids is None else iter(image_ids)
    images: dict[int, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    found = TITLES["detections"]
    for place, pair in enumerate(results.items() if isinstance(results, Mapping) else results):
        name, segmentation = _checked(pair, place=place)
        number = place + 1 if ids is None else next(ids, None)
        if number is None:
            raise SettingError("image_ids", f"ends before the photos do, after {place}: give one a photo")
        if isinstance(segmentation, SampleError):
            continue
        check_count("image_ids", number, least=0)
        if number in images:
            raise SettingError("image_ids", f"holds {number} twice")
        height, width = segmentation.image.shape[:2]
        images[number] = image(id=int(number), file=_file_name(name), size=(height, width))
        annotations += to_coco(segmentation, image_id=number, first_id=len(annotations) + 1)
        if segmentation.cuts is not None:
            found = TITLES["masks"]
    if ids is not None and next(ids, None) is not None:
        raise SettingError("image_ids", "goes on after the photos: give one a photo")
    head = head_of(f"{found} by cuts3d {__version__}", category=category)
    return {**head, "images": list(images.values()), "annotations": annotations}


def _checked(pair: Any, *, place: int) -> tuple[Name, Segmentation | SampleError]:
    """Return a pair of a file and what was found in it.

    Raises:
        SettingError: it is something else.
    """
    if isinstance(pair, tuple) and len(pair) == 2:
        name, found = pair
        if isinstance(name, str | os.PathLike) and isinstance(found, Segmentation | SampleError):
            return name, found
    problem = f"holds a {type(pair).__name__} at {place} that is no pair of a file and a Segmentation"
    raise SettingError("results", f"{problem}: give zip(paths, cutter.batch(paths))")


def _file_name(name: Name) -> str:
    """Return the file of a photo with `/` between its folders where it is a path."""
    return name if isinstance(name, str) else PurePath(name).as_posix()
