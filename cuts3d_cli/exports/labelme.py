"""labelme: one JSON a photo, to lie beside it.

https://github.com/wkentaro/labelme. An instance without holes is a polygon, or several of one `group_id`, which can be
edited. An instance with holes is a shape of type `mask`, a PNG of its box, since labelme's polygons have none.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.exports.copies import copied
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.outlines import outline
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundInstance, FoundPhoto

_VERSION = "5.5.0"
"""Written down for people: labelme itself heeds it no longer."""


def write_labelme(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write `PHOTO.json`.

    Args:
        photos: with their instances.
        out: where to; without the photos, the folder that they are in.
        options: category, tolerance, photos.

    Returns:
        How many instances are masks, and how many are several polygons.
    """
    forms: Counter[str] = Counter()
    for photo in photos:
        stem = out.stem_of(photo.file)
        name = copied(photo, out, stem=stem) if options.photos else photo.file
        shapes: list[dict[str, Any]] = []
        for number, item in enumerate(photo.instances, start=1):
            found = _shapes(item, options)
            several = len(found) > 1
            forms["instances with holes, written as masks"] += int(found[0]["shape_type"] == "mask")
            forms["instances of several parts, written as polygons of one group"] += several
            shapes += [shape | {"group_id": number if several else None} for shape in found]
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(name).name,
            "imageData": None,
            "imageHeight": photo.size[0],
            "imageWidth": photo.size[1],
        }
        out.write(f"{stem}.json", json.dumps(content, indent=1).encode("ascii") + b"\n")
    return forms


def _shapes(item: FoundInstance, options: Options) -> list[dict[str, Any]]:
    """Return an instance as shapes: a mask, or polygons."""
    mask = decode_rle(item.mask)
    parts = outline(mask, tolerance=options.tolerance)
    common = {"label": options.category, "description": f"score {item.score:.4f}", "flags": {}}
    if any(part.holes for part in parts):
        return [common | _mask(mask)]
    return [common | {"shape_type": "polygon", "points": part.outer.tolist(), "mask": None} for part in parts]


def _mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask as a shape: a PNG of its box, whose last pixels are part of it."""
    ys, xs = np.nonzero(mask)
    left, top, right, bottom = int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())
    buffer = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1].astype(np.uint8) * np.uint8(255)).save(buffer, "PNG")
    return {
        "shape_type": "mask",
        "points": [[left, top], [right, bottom]],
        "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }
