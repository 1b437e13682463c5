"""Label Studio: tasks with predictions of brush masks, to be imported and corrected.

https://labelstud.io. A brush mask is a bitmap of RGBA in Label Studio's own run-length code: 32 bits for the number of
bytes, 5 for the bits of a value less one, four times 4 for the bits of a run's length less one; then run by run 1 bit
(the value repeats), 2 bits for the kind of length, the length less one, and the value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.exports.json_lists import JsonList
from cuts3d_cli.exports.options import Options
from cuts3d_cli.exports.output import Output
from cuts3d_cli.exports.photos import FoundInstance, FoundPhoto

LOCAL_FILES = "/data/local-files/?d="
"""What stands before the path of a photo below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
_LENGTHS = (3, 4, 8, 16)
"""Bits of the four kinds of lengths."""
_CHANNELS = 4


def write_tasks(photos: Iterable[FoundPhoto], out: Output, options: Options) -> Mapping[str, int]:
    """Write `tasks.json`, and `labels.xml`, the labelling configuration that it goes with.

    Args:
        photos: with their instances.
        out: where to.
        options: file, title, category, photo_prefix.

    Returns:
        Nothing is lost, so nothing is counted.
    """
    prefix = LOCAL_FILES if options.photo_prefix is None else options.photo_prefix
    with out.open(options.file) as file:
        tasks = JsonList(file)
        for photo in photos:
            results = [_result(item, photo, number, options) for number, item in enumerate(photo.instances)]
            scores = [item.score for item in photo.instances]
            prediction = {
                "model_version": options.title,
                "score": sum(scores) / len(scores) if scores else 0.0,
                "result": results,
            }
            tasks.add({"data": {"image": prefix + photo.file}, "predictions": [prediction]})
        tasks.close()
    config = (
        f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="tag" toName="image">\n'
        f"    <Label value={quoteattr(options.category)}/>\n  </BrushLabels>\n</View>\n"
    )
    out.write("labels.xml", config.encode())
    return {}


def _result(item: FoundInstance, photo: FoundPhoto, number: int, options: Options) -> dict[str, Any]:
    """Return an instance as a region."""
    height, width = photo.size
    return {
        "id": hashlib.sha256(f"{photo.id} {number}".encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": item.score,
        "value": {"format": "rle", "rle": brush_code(decode_rle(item.mask)), "brushlabels": [options.category]},
    }


def brush_code(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask in Label Studio's run-length code.

    Args:
        mask: (h, w) bool.

    Returns:
        The bytes, 0 to 255: an RGBA bitmap, 255 in the mask and 0 elsewhere in all four channels.
    """
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}", f"{7:05b}", *(f"{length - 1:04b}" for length in _LENGTHS)]
    for length, value in zip(lengths.tolist(), flat[starts].tolist(), strict=True):
        while length:
            run = min(length, 1 << _LENGTHS[-1])
            kind = next(number for number, size in enumerate(_LENGTHS) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{_LENGTHS[kind]}b}{255 * value:08b}")
            length -= run
    digits = np.frombuffer("".join(bits).encode("ascii"), dtype=np.uint8) - ord("0")
    code: list[int] = np.packbits(digits).tolist()
    return code
