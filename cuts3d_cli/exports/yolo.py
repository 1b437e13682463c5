"""YOLO: a text file a photo with a polygon an instance, as Ultralytics' segmentation models are trained on.

https://docs.ultralytics.com/datasets/segment/. An instance is one polygon there: parts and holes of an instance become
one path, which runs to each of them and back the same way, as in Ultralytics' own converters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.exports.copies import copied
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.outlines import joined, outline
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundPhoto


def write_yolo(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write `labels/PHOTO.txt`, empty where nothing was found, `images/PHOTO.jpg` and `data.yaml`.

    A line is the number of the category and the corners, as fractions of width and height.

    Args:
        photos: with their instances.
        out: where to.
        options: category, tolerance, photos.

    Returns:
        How many instances have parts or holes that were joined to one path.
    """
    forms: Counter[str] = Counter()
    for photo in photos:
        stem = out.stem_of(photo.file)
        lines = []
        for item in photo.instances:
            parts = outline(decode_rle(item.mask), tolerance=options.tolerance)
            forms["instances of several parts or with holes, joined to one polygon"] += len(parts) > 1 or bool(
                parts[0].holes
            )
            corners = joined(parts) / (photo.size[1], photo.size[0])
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in corners.ravel())]))
        out.write(f"labels/{stem}.txt", "".join(f"{line}\n" for line in lines).encode("ascii"))
        if options.photos:
            copied(photo, out, folder="images", stem=stem)
    # JSON strings are YAML strings.
    data = f"train: images\nval: images\nnames:\n  0: {json.dumps(options.category)}\n"
    out.write("data.yaml", data.encode("ascii"))
    return forms
