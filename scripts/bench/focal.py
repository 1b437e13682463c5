"""Benchmark of focal lengths: masks of preset `objects` with the true ones of the sets, against the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common import Report, Table, log
from bench.data import Features, Instance, Photo
from bench.quality import VARIANTS
from bench.robustness import CONDITIONS, cuts_of_photos, figures_of
from cuts3d_cli.config import Config
from cuts3d_cli.cut.focal import DEFAULT_FOCAL
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.evaluation.datasets.annotations import read_annotation
from scenes.files import coco_instance

FOCALS: Mapping[str, float] = {"mosd": 525 / 640, "ycbv": 1066.8 / 640}
"""The true focal lengths of sets, in units of the photo's longer side: of a Kinect, and of YCB-Video's cameras."""
DEPTHS = ("as measured", "2 % noise", "blurred", "with holes")
"""What is done to the depth; see `bench.robustness`."""
LEAST_SEEN = 0.5
"""An object of which a smaller share is seen in a part of its photo is no object there: what finds it is left out."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A photo made of a photo.

    Attributes:
        zoom: so much larger than the photo is what it shows, its middle; its focal length is longer by as much.
        mirrored: left and right change places.
    """

    zoom: float = 1.0
    mirrored: bool = False

    def of(self, photo: Photo) -> Photo:
        """Return the view, of the size of the photo and with its objects."""
        if self == View():
            return photo
        height, width = photo.size
        rows, columns = round(height / self.zoom), round(width / self.zoom)
        objects = [(item, self._mask(item, photo.size)) for item in photo.instances]
        y, x = np.nonzero(np.any([mask for item, mask in objects if not item.get("iscrowd")], axis=0))
        top = int(np.clip(np.median(y) - rows / 2, 0, height - rows))
        left = int(np.clip(np.median(x) - columns / 2, 0, width - columns))

        def seen(values: NDArray[Any], *, how: int) -> NDArray[Any]:
            part = np.ascontiguousarray(values[top : top + rows, left : left + columns])
            part = cv2.resize(part, (width, height), interpolation=how) if self.zoom != 1.0 else part
            return np.ascontiguousarray(part[:, ::-1]) if self.mirrored else part

        found = []
        for item, mask in objects:
            share = mask[top : top + rows, left : left + columns].sum() / max(mask.sum(), 1)
            here = seen(mask.astype(np.uint8), how=cv2.INTER_NEAREST).astype(bool)
            if here.any():
                crowd = int(bool(item.get("iscrowd")) or share < LEAST_SEEN)
                found.append({**coco_instance(here), "iscrowd": crowd})
        assert photo.metres is not None
        return replace(
            photo,
            name=f"{photo.name}, {self.zoom:g}{' mirrored' if self.mirrored else ''}",
            image=Image.fromarray(seen(np.asarray(photo.image), how=cv2.INTER_CUBIC)),
            metres=seen(photo.metres, how=cv2.INTER_NEAREST),
            instances=found,
        )

    @staticmethod
    def _mask(item: Instance, size: tuple[int, int]) -> NDArray[np.bool_]:
        code = read_annotation(dict(item), size=(size[1], size[0])).instance.mask
        assert code is not None
        return decode_rle(code)


ZOOMED = "zoomed 1.4 and 2 times"
VIEWS: Mapping[str, Sequence[View]] = {
    "the photos alone": [View()],
    "nearly the same": [View(zoom=zoom, mirrored=mirrored) for zoom in (1.0, 1.05, 1.1) for mirrored in (False, True)],
    ZOOMED: [View(zoom=zoom, mirrored=mirrored) for zoom in (1.4, 2.0) for mirrored in (False, True)],
}
"""Views that are evaluated together: few objects make figures that single ones decide, so nearly equal photos help."""


def focal(photos: Mapping[str, Sequence[Photo]], *, features: Features, depths: Sequence[str] = DEPTHS) -> Report:
    """Compare the default focal length with the true one.

    Args:
        photos: with depth, by the name of their set, one of `FOCALS`.
        features: source of the features.
        depths: names of `CONDITIONS`.

    Returns:
        A row for each set, kind of view, depth and focal length.
    """
    rows = []
    for name, some in photos.items():
        for kind, views in VIEWS.items():
            for condition in depths[:1] if kind == ZOOMED else depths:
                log(f"focal: {name}, {kind}, {condition}")
                for title, known in (("default", False), ("true", True)):
                    cuts = [
                        cut
                        for view in views
                        for cut in cuts_of_photos(
                            [view.of(photo) for photo in some],
                            _config(FOCALS[name] * view.zoom if known else DEFAULT_FOCAL),
                            change=CONDITIONS[condition],
                            features=features,
                        )
                    ]
                    flattened = sum(cut.task.view is not None and cut.task.view.flattened for cut in cuts)
                    facts = {"set": name, "views": kind, "depth": condition, "focal": title}
                    rows.append({**facts, **figures_of(cuts), "flattened": flattened})
    return Report(
        name="focal",
        tables=[Table("preset objects by the focal length", rows)],
        notes=[
            f"True, in units of the longer side: {', '.join(f'{name} {value:.2f}' for name, value in _shown(photos))}"
            f" times the zoom; default: {DEFAULT_FOCAL:g}. 'flattened': views whose noise made the cloud less steep.",
            "Nearly the same: as it is, and zoomed 1.05 and 1.1 times, each also mirrored. Views of one photo are no"
            " further photos; they show how much of a difference is chance.",
        ],
    )


def _config(length: float) -> Config:
    config = VARIANTS["objects"].config()
    return replace(config, pseudo=replace(config.pseudo, focal=length))


def _shown(photos: Mapping[str, Sequence[Photo]]) -> Iterator[tuple[str, float]]:
    return ((name, FOCALS[name]) for name in photos)
