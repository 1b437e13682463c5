"""One image from encoded bytes to the sizes that are needed: what a worker process does before the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import PseudoConfig
from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.perspective import Perspective, in_perspective
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.depth import stored_depth
from cuts3d_cli.sidecars.photos import check_facts, known_focal, photo, upright_photo
from cuts3d_cli.timing import StepTimer

_NOT_READ = ("sensor.npy", "sensor.png")
"""Members of a base shard that are read by `depth` alone."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An image, read and brought to the sizes that are needed, or the reason why it could not be.

    Attributes:
        key: of its sample.
        size: (height, width) of the photo.
        square: (S, S, 3) uint8, RGB, for the network; None where the features are known.
        features: (C, H, W) float16; None before the network.
        crf_image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        depth: (H, W) float32 in [0, 1], no NaN, at patch resolution; None where the method needs none.
        view: metric depth in perspective; None where depth is not metric, or not asked for.
        failure: why it cannot be cut; the other fields need not be set then.
        seconds: by step.
    """

    key: str
    size: tuple[int, int] = (0, 0)
    square: NDArray[np.uint8] | None = None
    features: NDArray[np.float16] | None = None
    crf_image: NDArray[np.uint8] | None = None
    depth: NDArray[np.float32] | None = None
    view: Perspective | None = None
    failure: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def focal(self) -> Focal | None:
        """The photo's own focal length, if the point cloud was made with it."""
        return None if self.view is None else self.view.focal

    @property
    def is_flattened(self) -> bool:
        """Whether noise of the depth made the point cloud in perspective less steep."""
        return self.view is not None and self.view.flattened

    @property
    def is_relative(self) -> bool:
        """Whether depth has no view in perspective: it is not metric, or none was asked for."""
        return self.depth is not None and self.view is None


@dataclass(frozen=True, kw_only=True)
class ReadTask:
    """The encoded bytes of one image, and what is to be made of them.

    Attributes:
        sample: of the base shard.
        depth: its sample in the depth sidecar, and the reason why there is none; None where the method needs no depth.
        settings: of the cut.
        grid: (H, W) of the patch grid.
        size: side of the square for the network; None where the features are stored.
        max_pixels: a photo with more is refused.
    """

    sample: Sample
    depth: tuple[Sample | None, str | None] | None
    settings: PseudoConfig
    grid: tuple[int, int]
    size: int | None
    max_pixels: int


def read_image(task: ReadTask) -> Loaded:
    """Decode a photo and bring it, and its depth, to the sizes that are needed.

    Raises:
        SampleError: the photo, the facts about it or the depth cannot be used.
    """
    settings, timer = task.settings, StepTimer()
    with timer.step("read"):
        check_facts(task.sample)  # exports and evaluation need them, which come after the cut
        upright = upright_photo(task.sample, max_pixels=task.max_pixels)
        image = upright.image
        depth = view = None
        if task.depth is not None:
            stored = stored_depth(*task.depth)
            depth = patch_depth(stored.depth, task.grid, clip=settings.depth_clip, sampling=settings.depth_sampling)
            focal = known_focal(task.sample, upright) if settings.cloud == "perspective" else None
            view = in_perspective(stored.distance(), grid=task.grid, settings=settings, focal=focal)
        loaded = Loaded(
            key=task.sample.key,
            size=(image.height, image.width),
            square=None if task.size is None else resize_square(image, task.size),
            crf_image=resize_square(image, settings.crf_size),
            depth=depth,
            view=view,
        )
    return replace(loaded, seconds=timer.seconds)


def read_square(sample: Sample, *, size: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode the photo of a sample and resize it to a square, (size, size, 3) uint8.

    Raises:
        SampleError: there is none, or it cannot be decoded.
    """
    return resize_square(photo(sample, max_pixels=max_pixels), size)


def bytes_to_read(sample: Sample) -> Sample:
    """Return a sample without the content of what `read_image` does not look at, for the way to another process."""
    members = {name: b"" if name in _NOT_READ else data for name, data in sample.members.items()}
    return replace(sample, members=members)
