"""CVAT: its XML 1.1 "for images", with brush masks, which have holes and parts.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. A task finds its photos by their names. The
run-length code of a mask covers its box, row by row, and begins with the background.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.exports.copies import copied
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundInstance, FoundPhoto

_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that are not in XML."""


def write_cvat(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write one XML, and the photos in `images`; photos without an instance are in it too.

    Args:
        photos: with their instances.
        out: where to.
        options: file, title, category, photos.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    label = escape(_plain(options.category))
    with out.open(options.file) as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <name>{escape(_plain(options.title))}</name>\n      <labels>\n        <label>\n"
            f"          <name>{label}</name>\n          <type>mask</type>\n          <attributes/>\n"
            "        </label>\n      </labels>\n    </task>\n  </meta>\n".encode()
        )
        for number, photo in enumerate(photos):
            copy = copied(photo, out, folder="images") if options.photos else photo.file
            name = quoteattr(_plain(copy))
            size = f'width="{photo.size[1]}" height="{photo.size[0]}"'
            masks = "".join(_mask(item, options.category) for item in photo.instances)
            file.write(f'  <image id="{number}" name={name} {size}>\n{masks}  </image>\n'.encode())
        file.write(b"</annotations>\n")
    return {}


def _mask(item: FoundInstance, category: str) -> str:
    """Return an instance as a line."""
    mask = decode_rle(item.mask)
    ys, xs = np.nonzero(mask)
    left, top = int(xs.min()), int(ys.min())
    cut = mask[top : int(ys.max()) + 1, left : int(xs.max()) + 1]
    runs = ", ".join(map(str, _runs(cut.ravel())))
    return (
        f'    <mask label={quoteattr(_plain(category))} source="auto" occluded="0" rle="{runs}" left="{left}"'
        f' top="{top}" width="{cut.shape[1]}" height="{cut.shape[0]}" z_order="0">\n    </mask>\n'
    )


def _runs(flat: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs, those of the background first, 0 if there is none."""
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths: list[int] = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def _plain(text: str) -> str:
    return _UNFIT.sub("_", text)
