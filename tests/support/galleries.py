"""Reports of shards that are known, and what their pages hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import encode_rle, rle_area, rle_box
from cuts3d_cli.reports.gallery import Reported, Request, report
from tests.support.found import HEIGHT, WIDTH
from tests.support.photos import settings

HOSTILE = ("x</script><script>window.hacked=1</script>.jpg", "'\"><img src=x onerror=window.hacked=1>.jpg")
"""Names of photos that are markup."""


def reported(shards: Sequence[Path], out: Path, *, workers: int = 0, say: Any = None, **more: Any) -> Reported:
    """A report, in this process unless workers are asked for."""
    run = settings({"run": {"workers": workers}}).run
    return report(shards, Request(out=out, **more), run=run, say=say or (lambda line: None))


def data_in(folder: Path) -> dict[str, Any]:
    """The data of a page, as its browser has them."""
    text = (folder / "photos.js").read_text("ascii")
    head, _, rest = text.partition("window.report = ")
    assert head.startswith("// ")
    data: dict[str, Any] = json.loads(rest.rstrip().removesuffix(";"))
    return data


def photos_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> what the page knows of a photo."""
    empty = {"masks": [], "thumbnail": False, "steps": False}
    return {photo["name"]: empty | photo for photo in data_in(folder)["photos"]}


def write_truth(path: Path, truth: Mapping[str, Sequence[NDArray[np.bool_]]], *, crowd: Sequence[str] = ()) -> Path:
    """A COCO JSON with the masks of photos; those of the files in `crowd` are crowd regions."""
    annotations = []
    for number, (file, items) in enumerate(truth.items()):
        for mask in items:
            code = encode_rle(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": code,
                    "bbox": list(rle_box(code)),
                    "area": rle_area(code),
                    "iscrowd": int(file in crowd),
                }
            )
    images = [{"id": n, "file_name": file, "width": WIDTH, "height": HEIGHT} for n, file in enumerate(truth)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    path.write_text(json.dumps(content))
    return path
