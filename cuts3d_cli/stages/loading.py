"""What a base shard and its sidecars hold, as `pseudo` takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import Config
from cuts3d_cli.cut.image import patch_depth
from cuts3d_cli.cut.sharpening import spatial_importance
from cuts3d_cli.depth.maps import decode_depth_png
from cuts3d_cli.engine.driver import require_sidecar
from cuts3d_cli.engine.pool import numerics_of_one_image
from cuts3d_cli.errors import SampleError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.stages.features import photo, read_features, stored_features
from cuts3d_cli.timing import StepTimer


def finished_depth(base: Path) -> tuple[Path, Manifest]:
    """The finished depth sidecar of a base shard, with its manifest.

    Raises:
        ShardError: there is none; the line says how to make it.
    """
    return require_sidecar(
        base,
        "depth",
        further=" (with --backend sensor if depth maps were packed with the images), or cut in 2D with --method"
        " maskcut",
    )


def stored_depth(sample: Sample | None, reason: str | None) -> NDArray[np.float32]:
    """The depth map of a sample of a depth sidecar.

    Args:
        sample: of the sidecar; None if it holds none of that key.
        reason: why it failed there, if that is known.

    Returns:
        (h, w) float32 in [0, 1], NaN where nothing was measured.

    Raises:
        SampleError: there is none, or it is damaged.
    """
    if sample is None or "depth.png" not in sample.members:
        raise SampleError(f"it has no depth: {reason or 'the depth sidecar has nothing for it'}")
    return decode_depth_png(sample.members["depth.png"])


@dataclass(frozen=True)
class PhotoAndDepth:
    """A photo, and (h, w) float32 in [0, 1], NaN where nothing was measured; None where no depth was asked for."""

    image: Image.Image
    depth: NDArray[np.float32] | None


class ShardInputs:
    """A base shard's photos with what lies beside them: depth, and features where they are stored."""

    def __init__(
        self, base: Path, *, extractor: FeatureExtractor, with_depth: bool, max_pixels: int, stack: ExitStack
    ) -> None:
        """Open the sidecars; the stack closes them. Photos of more pixels than `max_pixels` fail."""
        self._max_pixels = max_pixels
        self._depths = self._features = None
        self._without_depth: Mapping[str, str] = {}
        self._without_features: Mapping[str, str] = {}
        if with_depth:
            tar, manifest = finished_depth(base)
            self._depths, self._without_depth = stack.enter_context(SidecarReader(tar)), _failures(manifest)
        if stored := stored_features(base, extractor):
            tar, manifest = stored
            self._features, self._without_features = stack.enter_context(SidecarReader(tar)), _failures(manifest)

    @property
    def has_features(self) -> bool:
        """Whether features are stored."""
        return self._features is not None

    def photo(self, sample: Sample) -> PhotoAndDepth:
        """The photo and its depth.

        Raises:
            SampleError: either is missing or damaged.
        """
        image = photo(sample, max_pixels=self._max_pixels)
        depth = None
        if self._depths:
            depth = stored_depth(self._depths.get(sample.key), self._without_depth.get(sample.key))
        return PhotoAndDepth(image=image, depth=depth)

    def features(self, sample: Sample) -> NDArray[np.float16]:
        """The stored features.

        Raises:
            SampleError: they are missing or damaged.
        """
        assert self._features is not None
        return read_features(self._features.get(sample.key), self._without_features.get(sample.key))


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An image, read and brought to the sizes that are needed, or the reason why it could not be.

    Attributes:
        key: of its sample.
        size: (height, width) of the photo.
        square: (S, S, 3) uint8, RGB, for the network; None where the features are stored.
        features: (C, H, W) float16, where they are stored.
        crf_image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        depth: (H, W) float32 in [0, 1], no NaN, at patch resolution; None where the method needs none.
        importance: (H, W) float32, its Spatial Importance; None without sharpening.
        failure: why it is not there; the other fields are then unset.
        seconds: by step.
    """

    key: str
    size: tuple[int, int] = (0, 0)
    square: NDArray[np.uint8] | None = None
    features: NDArray[np.float16] | None = None
    crf_image: NDArray[np.uint8] | None = None
    depth: NDArray[np.float32] | None = None
    importance: NDArray[np.float32] | None = None
    failure: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def load_shard(base: Path, *, config: Config, extractor: FeatureExtractor, with_depth: bool) -> Iterator[Loaded]:
    """The images of a shard as batches take them: all that a processor does before the network."""
    settings, timer = config.pseudo, StepTimer()
    sharpens = settings.method == "cuts3d" and settings.sharpen

    def load(sample: Sample, inputs: ShardInputs) -> Loaded:
        item = inputs.photo(sample)
        depth = importance = None
        if item.depth is not None:
            depth = patch_depth(item.depth, extractor.grid, settings)
            if sharpens:
                importance = spatial_importance(depth, sigma=settings.sigma, beta=settings.beta)
        return Loaded(
            key=sample.key,
            size=(item.image.height, item.image.width),
            square=None if inputs.has_features else resize_square(item.image, extractor.size),
            features=inputs.features(sample) if inputs.has_features else None,
            crf_image=resize_square(item.image, settings.crf_size),
            depth=depth,
            importance=importance,
        )

    with ExitStack() as stack:
        inputs = ShardInputs(
            base,
            extractor=extractor,
            with_depth=with_depth,
            max_pixels=config.run.max_image_pixels,
            stack=stack,
        )
        for sample in read_shard(base):
            try:
                with timer.step("read"), numerics_of_one_image():
                    loaded = load(sample, inputs)
            except SampleError as error:
                loaded = Loaded(key=sample.key, failure=str(error))
            yield replace(loaded, seconds=timer.take())


def _failures(manifest: Manifest) -> dict[str, str]:
    """Why samples are not in a sidecar, by key."""
    return {item["key"]: item["reason"] for item in manifest.failed}
