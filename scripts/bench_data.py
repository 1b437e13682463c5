"""Photos for the benchmarks: sets of real ones beside the checkout, rendered scenes where there are none; features."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scenes import render_scene

from cuts3d_cli.config import Config, resolve
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.depth.maps import decode_depth_png, decode_sensor_png, encode_depth_png, normalise
from cuts3d_cli.evaluation.datasets.coco import read_ground_truth
from cuts3d_cli.evaluation.metrics import Instance
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.images import decode_image

WITH_DEPTH = ("mosd", "ycbv", "arc2017")
WITHOUT_DEPTH = ("coco", "coco_person", "mandarin", "voc")
RENDERED = "rendered"
"""A set that is always there: scenes of objects that touch, by `scenes.py`."""
RENDERED_SCENES = 8
MILLIMETRE = 0.001


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo of a set.

    Attributes:
        name: SET/NAME.
        image: RGB.
        metres: (h, w) float32 by a sensor, NaN where nothing was measured; None where there is no depth.
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

    def depth(self) -> NDArray[np.float32] | None:
        """(h, w) float32 in [0, 1], NaN where nothing was measured: what `cuts3d depth --backend sensor` stores."""
        if self.metres is None:
            return None
        normalised = normalise(self.metres, direction="distance", unit="metre", zero_is_missing=True)
        return decode_depth_png(encode_depth_png(normalised.depth))


def data_folder(given: Path | None) -> Path:
    """The folder of the sets: as given, else CUTS3D_TEST_DATA, else shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return given or Path(os.environ.get("CUTS3D_TEST_DATA") or beside)


def read_set(folder: Path, name: str) -> list[Photo] | None:
    """The photos of a set in the order of their ids; None if it is not there.

    Raises:
        UsageError: its annotations are damaged.
    """
    if name == RENDERED:
        return [rendered(seed) for seed in range(RENDERED_SCENES)]
    path = folder / name / "annotations.json"
    if not path.is_file():
        return None
    truth = read_ground_truth(path)
    photos = []
    for number in sorted(truth.images):
        file = Path(truth.images[number].file)
        depth = folder / name / "depth" / file.with_suffix(".png")
        metres = decode_sensor_png(depth.read_bytes(), scale=MILLIMETRE) if depth.is_file() else None
        photos.append(
            Photo(
                name=f"{name}/{file.stem}",
                image=decode_image((folder / name / "images" / file).read_bytes()),
                metres=metres,
                instances=truth.instances[number],
            )
        )
    return photos


def rendered(seed: int, *, height: int = 480, width: int = 640) -> Photo:
    """A rendered scene of three to five objects that touch."""
    scene = render_scene(seed, height=height, width=width, objects=3 + seed % 3)
    masks = [scene.instances == number for number in range(1, int(scene.instances.max()) + 1)]
    return Photo(
        name=f"{RENDERED}/{seed}",
        image=Image.fromarray(scene.image),
        metres=scene.depth.astype(np.float32),
        instances=[Instance.of_mask(encode_rle(mask)) for mask in masks],
    )


def some_photos(folder: Path, count: int, *, sets: Sequence[str]) -> list[Photo]:
    """Photos from several sets in turn, spread over each; rendered scenes where none of the sets is there.

    Args:
        folder: of the sets.
        count: how many.
        sets: their names.
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
    """Patch features of photos, kept in a folder so that a network sees each photo once."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder.

        Args:
            folder: made if missing; one that was filled by other code of a backbone gives that code's features. By
                default a temporary one, which ends with this object.
        """
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="cuts3d-bench-")
            folder = Path(self._temporary.name)
        self.folder = folder
        self._extractors: dict[tuple[str, int | None], FeatureExtractor] = {}

    def extractor(self, config: Config) -> FeatureExtractor:
        """The backbone of a configuration, loaded once."""
        key = (config.features.backbone, config.features.size)
        if key not in self._extractors:
            self._extractors[key] = FeatureExtractor(config)
        return self._extractors[key]

    def of(self, photos: Sequence[Photo], config: Config) -> Iterator[NDArray[np.float16]]:
        """The features of each photo, (C, H, W).

        Raises:
            WeightsError: the weights of the backbone cannot be had.
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


def offline(overrides: dict[str, dict[str, object]], *, preset: str = "offline") -> Config:
    """A configuration that needs no hub, whatever the environment and the working folder say.

    Args:
        overrides: section -> field -> value.
        preset: what they are changes to; its backbone and depth source are replaced.
    """
    merged: dict[str, dict[str, object]] = {
        "features": {"backbone": OFFLINE_BACKBONE, "weights": None},
        "depth": {"backend": "sensor"},
    }
    for section, fields in overrides.items():
        merged[section] = {**merged.get(section, {}), **fields}
    return resolve(preset=preset, overrides=merged, environment={}, folder=Path(os.devnull))
