"""COCO: one JSON with images, annotations and a category; and COCO's format of results, which is a list.

https://cocodataset.org/#format-data and #format-results. Masks are run-length codes, which have holes and parts.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from cuts3d_cli.cut.masks import Rle
from cuts3d_cli.exports.copies import copied
from cuts3d_cli.exports.json_lists import JsonList
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundInstance, FoundPhoto

CATEGORY_ID = 1
"""Of the only category: COCO's evaluation takes 0 for "no match"."""


def head_of(title: str, *, category: str) -> dict[str, Any]:
    """Return what a COCO file holds besides images and annotations, plain JSON values.

    Args:
        title: what it is, in a few words.
        category: name of the only category.
    """
    return {
        "info": {"description": title},
        "licenses": [],
        "categories": [{"id": CATEGORY_ID, "name": category, "supercategory": category}],
    }


def image(*, id: int, file: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return a photo as an image of COCO, plain JSON values.

    Args:
        id: of the image.
        file: its name, or its path from the folder of the photos.
        size: (height, width), pixels, upright.
    """
    return {"id": id, "file_name": file, "width": size[1], "height": size[0]}


def annotation(item: FoundInstance, *, id: int, image_id: int, category_id: int = CATEGORY_ID) -> dict[str, Any]:
    """Return an instance as an annotation, plain JSON values.

    Args:
        item: the instance.
        id: of the annotation, from 1.
        image_id: of its image.
        category_id: of its category.
    """
    return {
        "id": id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": item.mask,
        "bbox": list(item.box),
        "area": item.area,
        "iscrowd": 0,
        "score": item.score,
        **_of_class(item.class_id),
    }


def result(
    *, image_id: int | str, box: Iterable[float], score: float, mask: Rle | None, class_id: int | None = None
) -> dict[str, Any]:
    """Return an instance in COCO's format of results, plain JSON values.

    Args:
        image_id: of its image.
        box: x, y, width, height, pixels.
        score: of the instance.
        mask: at the photo's size; None where only boxes are known.
        class_id: the detector's number of its class; None where there is one class.
    """
    record = {"image_id": image_id, "category_id": CATEGORY_ID, "bbox": list(box), "score": score}
    return record | ({"segmentation": mask} if mask is not None else {}) | _of_class(class_id)


def _of_class(class_id: int | None) -> dict[str, int]:
    return {} if class_id is None else {"class_id": class_id}


def write_coco(
    photos: Iterable[FoundPhoto], out: Output, options: Options, *, folder: str = "images"
) -> Mapping[str, int]:
    """Write one JSON; images without an instance are in it too.

    Args:
        photos: with their instances.
        out: where to.
        options: file, title, category, photos.
        folder: for the photos, from which the file names start.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    # Annotations follow the images, and wait in a file of their own meanwhile.
    with out.open(options.file) as file, tempfile.TemporaryFile() as waiting:
        head = json.dumps(head_of(options.title, category=options.category))
        file.write(head.encode("ascii")[:-1] + b', "images": ')
        images, annotations = JsonList(file), JsonList(waiting)
        ids = itertools.count(1)
        for photo in photos:
            name = copied(photo, out, folder=folder) if options.photos else photo.file
            images.add(image(id=photo.id, file=name, size=photo.size))
            for item in photo.instances:
                annotations.add(annotation(item, id=next(ids), image_id=photo.id))
        images.close()
        annotations.close()
        file.write(b', "annotations": ')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file)
        file.write(b"}\n")
    return {}


def write_results(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write a list of results, to be compared with a ground truth by pycocotools' `loadRes`.

    Args:
        photos: with their instances; their ids must be those of the ground truth.
        out: where to.
        options: file.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    with out.open(options.file) as file:
        results = JsonList(file)
        for photo in photos:
            for item in photo.instances:
                results.add(
                    result(image_id=photo.id, box=item.box, score=item.score, mask=item.mask, class_id=item.class_id)
                )
        results.close()
    return {}
