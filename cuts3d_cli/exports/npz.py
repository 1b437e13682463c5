"""NumPy: one compressed `.npz` a photo."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

import numpy as np

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundPhoto


def write_arrays(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write `PHOTO.npz`: `masks` (N, h, w) bool, `boxes` (N, 4) float32 x0, y0, x1, y1, `scores` (N,) float32.

    It also holds `classes` (N,) int64, the detector's number of each class, -1 where there is one class; `photo`, the
    path of the file; and `id`, its number.

    Args:
        photos: with their instances.
        out: where to.
        options: none is heeded.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    for photo in photos:
        boxes = np.array([item.box for item in photo.instances], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            masks=np.array([decode_rle(item.mask) for item in photo.instances], dtype=bool).reshape(-1, *photo.size),
            boxes=boxes,
            scores=np.array([item.score for item in photo.instances], dtype=np.float32),
            classes=np.array(
                [-1 if item.class_id is None else item.class_id for item in photo.instances], dtype=np.int64
            ),
            photo=np.array(photo.file.encode("utf-8", "surrogateescape").decode("utf-8", "replace")),
            id=np.array(photo.id),
        )
        out.write(f"{out.stem_of(photo.file)}.npz", buffer.getvalue())
    return {}
