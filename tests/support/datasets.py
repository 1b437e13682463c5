"""Small datasets, written in the formats of the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, Benchmark
from cuts3d_cli.evaluation.datasets.loading import Dataset, open_benchmark

WIDTH, HEIGHT = 64, 48
CROWD = {"size": [HEIGHT, WIDTH], "counts": [0, 5, WIDTH * HEIGHT - 5]}
"""The first five pixels of the first column, as run lengths in a list."""


def photo(path: Path, *, width: int = WIDTH, height: int = HEIGHT, orientation: int | None = None) -> Path:
    """A photo of noise; its EXIF says how it is to be turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3)).astype(np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def opened(name: str, root: Path, *, images: int, partial: bool = False) -> Dataset:
    return open_benchmark(sized(name, images), root, partial=partial)


def sized(name: str, images: int) -> Benchmark:
    """A benchmark that is smaller than the real one."""
    from dataclasses import replace

    return replace(BENCHMARKS[name], images=images)


def polygon(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def coco(root: Path, *, photos: Sequence[int] = (139, 285)) -> Path:
    """COCO val2017: an instance of two polygons, a crowd, and an image without either."""
    for number in photos:
        photo(root / f"val2017/{number:012}.jpg")
    write(root / "annotations/instances_val2017.json", coco_content("{:012}.jpg", (139, 285)))
    return root


def coco_content(name: str, numbers: Sequence[int]) -> dict[str, Any]:
    first = numbers[0]
    images = [
        {
            "license": 3,
            "file_name": name.format(number),
            "coco_url": f"http://images.cocodataset.org/val2017/{number:012}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": "http://farm4.staticflickr.com/x.jpg",
            "id": number,
        }
        for number in numbers
    ]
    annotations = [
        {
            "segmentation": [polygon(10, 10, 10, 10), polygon(25, 10, 5, 10)],
            "area": 150.0,
            "iscrowd": 0,
            "image_id": first,
            "bbox": [10, 10, 20, 10],
            "category_id": 18,
            "id": 1768,
        },
        {
            "segmentation": CROWD,
            "area": 5,
            "iscrowd": 1,
            "image_id": first,
            "bbox": [0, 0, 1, 5],
            "category_id": 1,
            "id": 900100448263,
        },
    ]
    return {
        "info": {"description": "COCO 2017 Dataset"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"supercategory": "person", "id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }


def lvis(root: Path) -> Path:
    """LVIS v1 val, which has no file names; its photos are COCO's, of both folders."""
    images = [
        {
            "id": number,
            "coco_url": f"http://images.cocodataset.org/{folder}/{number:012}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "neg_category_ids": [1],
            "not_exhaustive_category_ids": [],
        }
        for folder, number in (("val2017", 397133), ("train2017", 98304))
    ]
    annotations = [
        {
            "area": 99.5,
            "id": 1,
            "segmentation": [polygon(1, 2, 10, 10)],
            "image_id": 98304,
            "bbox": [1.0, 2.0, 10.0, 10.0],
            "category_id": 1203,
        }
    ]
    write(root / "lvis/lvis_v1_val.json", {"images": images, "annotations": annotations, "categories": []})
    photo(root / "coco/val2017/000000397133.jpg")
    photo(root / "coco/train2017/000000098304.jpg")
    return root


def voc_xml(objects: Sequence[str], *, width: int = WIDTH, height: int = HEIGHT) -> str:
    size = f"<size>\n<width>{width}</width>\n<height>{height}</height>\n<depth>3</depth>\n</size>"
    return (
        "<annotation>\n<folder>VOC2007</folder>\n<filename>x.jpg</filename>\n<source><database>VOC</database></source>\n"
        f"{size}\n<segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )


def voc_object(edges: tuple[int, int, int, int], *, difficult: int = 0, part: str = "") -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{name}>{edge}</{name}>\n" for name, edge in zip(names, edges, strict=True))
    return (
        "<object>\n<name>dog</name>\n<pose>Left</pose>\n<truncated>1</truncated>\n"
        f"<difficult>{difficult}</difficult>\n{part}<bndbox>\n{box}</bndbox>\n</object>\n"
    )


def voc(folder: Path, lists: Mapping[str, Sequence[str]], annotations: Mapping[str, str]) -> Path:
    for name, names in lists.items():
        write(folder / f"ImageSets/Main/{name}.txt", "".join(f"{item}\n" for item in names))
    for name, text in annotations.items():
        write(folder / f"Annotations/{name}.xml", text)
        photo(folder / f"JPEGImages/{name}.jpg")
    return folder


def kitti_line(kind: str, edges: Sequence[float]) -> str:
    box = " ".join(f"{edge:.2f}" for edge in edges)
    return f"{kind} 0.00 0 -0.20 {box} 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n"


OPEN_IMAGES_HEAD = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
