"""Photos for the benchmarks, real ones or rendered scenes, and their features."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.common import BenchError
from cuts3d_cli.api.cutter import to_stored_precision
from cuts3d_cli.config import Config, resolve
from cuts3d_cli.depth.maps import DepthMap, normalise
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.features.extractor import FeatureExtractor
from scenes import render_scene
from scenes.files import MILLIMETRES, coco_instance

WITH_DEPTH = ("mosd", "ycbv", "arc2017")
WITHOUT_DEPTH = ("coco", "coco_person", "mandarin", "voc")
RENDERED = "rendered"
"""A set that is always available: rendered scenes of touching objects."""
RENDERED_SCENES = 8

Instance = Mapping[str, Any]
"""An object of the ground truth as COCO describes it: area, bbox, iscrowd, segmentation."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo of a set.

    Attributes:
        name: SET/NAME.
        image: RGB.
        metres: (h, w) float32 by a depth sensor, NaN where there is no measurement; None without depth.
        instances: its ground truth.
    """

    name: str
    image: Image.Image
    metres: NDArray[np.float32] | None
    instances: Sequence[Instance]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.image.height, self.image.width

    def depth_map(self) -> DepthMap | None:
        """Return the depth that is cut in, to the precision of a stored one."""
        if self.metres is None:
            return None
        found = normalise(self.metres, direction="distance", unit="metre", zero_is_missing=True)
        return to_stored_precision(found, direction="distance", unit="metre")


def data_folder(given: Path | None) -> Path:
    """Return the folder of the sets: as given, else CUTS3D_TEST_DATA, else shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return given or Path(os.environ.get("CUTS3D_TEST_DATA") or beside)


def read_set(folder: Path, name: str) -> list[Photo] | None:
    """Read the photos of a set, in the order of their ids.

    Args:
        folder: of the sets. A set is a folder with images/, annotations.json (COCO) and, where it has depth, depth/
            with PNGs of uint16 millimetres.
        name: of the set; "rendered" renders scenes instead.

    Returns:
        The photos; None if the set is not there.

    Raises:
        BenchError: its annotations are damaged.
    """
    if name == RENDERED:
        return [rendered(seed) for seed in range(RENDERED_SCENES)]
    path = folder / name / "annotations.json"
    if not path.is_file():
        return None
    photos = []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        instances: dict[int, list[Instance]] = {image["id"]: [] for image in content["images"]}
        for item in content["annotations"]:
            kept = {key: item[key] for key in ("area", "bbox", "iscrowd", "segmentation") if key in item}
            instances[item["image_id"]].append(kept)
        for image in sorted(content["images"], key=lambda image: image["id"]):
            file = Path(image["file_name"])
            photos.append(_read_photo(folder / name, file, name=name, instances=instances[image["id"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is not a COCO JSON: {type(error).__name__} {error}") from error
    return photos


def _read_photo(folder: Path, file: Path, *, name: str, instances: Sequence[Instance]) -> Photo:
    depth = folder / "depth" / file.with_suffix(".png")
    metres = None
    if depth.is_file():
        millimetres = np.asarray(Image.open(depth)).astype(np.float32)
        metres = np.where(millimetres > 0, millimetres / MILLIMETRES, np.nan).astype(np.float32)
    return Photo(
        name=f"{name}/{file.stem}",
        image=ImageOps.exif_transpose(Image.open(folder / "images" / file)).convert("RGB"),
        metres=metres,
        instances=instances,
    )


def rendered(seed: int, *, height: int = 480, width: int = 640) -> Photo:
    """Render a scene of three to five touching objects.

    Args:
        seed: of the scene.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    scene = render_scene(seed, height=height, width=width, objects=3 + seed % 3)
    numbers = range(1, int(scene.instances.max()) + 1)
    return Photo(
        name=f"{RENDERED}/{seed}",
        image=Image.fromarray(scene.image),
        metres=scene.depth.astype(np.float32),
        instances=[coco_instance(scene.instances == number) for number in numbers],
    )


def some_photos(folder: Path, count: int, *, sets: Sequence[str]) -> list[Photo]:
    """Choose photos from several sets in turn, spread over each; rendered scenes if none of the sets is there.

    Args:
        folder: of the sets.
        count: number of photos.
        sets: names of the sets.
    """
    found = [photos for name in sets if (photos := read_set(folder, name))]
    if not found:
        return [rendered(seed) for seed in range(count)]
    shares = [len(range(place, count, len(found))) for place in range(len(found))]
    turns = [
        [photos[index * len(photos) // share] for index in range(min(share, len(photos)))]
        for photos, share in zip(found, shares, strict=True)
    ]
    return [turn[index] for index in range(max(shares)) for turn in turns if index < len(turn)]


class Features:
    """Patch features of photos, kept in a folder so that a network sees each photo once.

    Args:
        folder: created if missing. One that was filled by another version of a backbone's code returns the features of
            that version. By default a temporary folder, which ends with this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the folder; load nothing."""
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="cuts3d-bench-")
            folder = Path(self._temporary.name)
        self.folder = folder
        self._extractors: dict[tuple[str, int | None], FeatureExtractor] = {}

    def extractor(self, config: Config) -> FeatureExtractor:
        """Return the backbone of a configuration, loaded once."""
        key = (config.features.backbone, config.features.size)
        if key not in self._extractors:
            self._extractors[key] = FeatureExtractor(config)
        return self._extractors[key]

    def of(self, photos: Sequence[Photo], config: Config) -> Iterator[NDArray[np.float16]]:
        """Compute or read the features of each photo.

        Args:
            photos: of any size.
            config: names the backbone and its input size.

        Yields:
            (C, H, W) float16.

        Raises:
            WeightsError: the weights of the backbone are unavailable.
        """
        extractor = self.extractor(config)
        network = f"{extractor.spec.name}-{extractor.size}-{extractor.weights.stat().st_size}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for photo in photos:
            digest = hashlib.sha256(photo.image.tobytes() + repr(photo.size).encode()).hexdigest()
            path = self.folder / f"{network}-{digest[:32]}.npy"
            if not path.is_file():
                (features,) = extractor.extract([photo.image])
                descriptor, unfinished = tempfile.mkstemp(dir=self.folder)
                with os.fdopen(descriptor, "wb") as file:
                    np.save(file, features, allow_pickle=False)
                os.replace(unfinished, path)
            yield np.load(path, allow_pickle=False)


def offline_overrides(overrides: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Add a backbone and a depth source that need no model hub to settings.

    Args:
        overrides: section -> field -> value; they take precedence.
    """
    merged: dict[str, dict[str, object]] = {
        "features": {"backbone": OFFLINE_BACKBONE, "weights": None},
        "depth": {"backend": "sensor"},
    }
    for section, fields in overrides.items():
        merged[section] = {**merged.get(section, {}), **fields}
    return merged


def offline(overrides: Mapping[str, Mapping[str, object]], *, preset: str = "offline") -> Config:
    """Return a configuration that needs no model hub, independent of the environment and the working folder.

    Args:
        overrides: section -> field -> value.
        preset: what they change; its backbone and depth source are replaced.
    """
    return resolve(preset=preset, overrides=offline_overrides(overrides), environment={}, folder=Path(os.devnull))
