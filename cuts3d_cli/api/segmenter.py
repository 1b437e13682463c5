"""Cuts the instances out of photos in memory: `Segmenter`, which keeps its networks, and `segment`, for one photo."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from cuts3d_cli.api.images import DepthUnit, ImageLike, to_depth, to_photo
from cuts3d_cli.api.settings import configure
from cuts3d_cli.config import Config, ConfidenceConfig, PseudoConfig
from cuts3d_cli.cut.confidence import mean_confidence, score_instances, spatial_confidence
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.cut.methods import Method, get_method
from cuts3d_cli.depth.base import DepthBackend
from cuts3d_cli.depth.catalogue import load_depth
from cuts3d_cli.depth.maps import normalise
from cuts3d_cli.devices import choose_device
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.errors import DepthMissingError, Message, SampleError, SettingError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.figures.overlay import upsample_grid
from cuts3d_cli.images import resize_square
from cuts3d_cli.segmentation import Cut, Segmentation
from cuts3d_cli.sidecars.depth import PNG_STEPS

_LOG = logging.getLogger("cuts3d_cli")
_CUTTING = threading.Lock()
"""Held while an image is cut: the number of threads of the linear algebra belongs to the whole process."""
_KEPT_SEGMENTERS = 2


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A photo with its depth, and what the cut needs of both.

    Attributes:
        photo: upright, RGB.
        depth: (h, w) float32 in [0, 1], NaN where nothing was measured; None in 2D.
        patch_depth: (H, W) float32 in [0, 1], no NaN; None where the method needs none.
    """

    photo: Image.Image
    depth: NDArray[np.float32] | None
    patch_depth: NDArray[np.float32] | None


class Segmenter:
    """Cuts the instances out of photos, without labels (CutS3D). Networks are loaded once, when first needed.

    An object may be used by several threads; images are cut one at a time then. For several cores, see `batch`.

    Attributes:
        config: the configuration in force.
        grid: (H, W) of the patch grid.
    """

    def __init__(
        self, *, preset: str | None = None, config: Config | None = None, device: str = "auto", **settings: Any
    ) -> None:
        """Choose a configuration; load nothing.

        Args:
            preset: a named configuration, as `PRESETS` lists them; "paper" by default.
            config: a whole configuration in place of a preset.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            settings: fields of the sections `pseudo`, `features`, `depth` and `confidence`, as in `tau_knn=0.05`. Where
                two sections share a name it is the first one's; write section and field with two underscores for the
                others: `depth__weights`, `confidence__tau_knn`.

        Raises:
            SettingError: an unknown setting, or a value of the wrong type, out of range, or that does not fit the
                backbone's grid.
        """
        chosen = configure(preset=preset, config=config, settings=settings)
        self.config = replace(chosen, run=replace(chosen.run, device=device))
        self._extractor = FeatureExtractor(self.config, say=_log)
        self.grid = self._extractor.grid
        threshold = self._extractor.spec.tau_ncut if chosen.pseudo.tau_ncut is None else chosen.pseudo.tau_ncut
        self._settings: PseudoConfig = replace(chosen.pseudo, tau_ncut=threshold)
        self._method: Method = get_method(self._settings.method)
        self._method.check(self._settings, self.grid)
        self._networks = threading.RLock()
        self._depth_network: DepthBackend | None = None

    def __call__(
        self,
        image: ImageLike,
        *,
        depth: NDArray[Any] | None = None,
        depth_unit: DepthUnit = "relative",
        larger_is_nearer: bool = False,
        confidence: bool = True,
    ) -> Segmentation:
        """Cut the instances out of one photo.

        Args:
            image: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or a path.
            depth: (h, w) of numbers, of any resolution and the photo's aspect ratio; 0, NaN and infinite values are
                missing. None: it is estimated, if the configuration names a network that can.
            depth_unit: "metre" (any unit of length will do), or "relative", known up to scale and shift.
            larger_is_nearer: the map holds disparities in place of distances.
            confidence: compute Spatial Confidence, which scores the masks; without it all scores are 1.

        Returns:
            The instances.

        Raises:
            SettingError: an argument is of the wrong type, shape or aspect ratio.
            DepthMissingError: the method needs depth, none is given, and none can be estimated.
            SampleError: the photo or the depth map cannot be used.
            WeightsError: the weights of a network are unavailable.
        """
        given = self._prepare(to_photo(image), depth, unit=depth_unit, larger_is_nearer=larger_is_nearer)
        with self._networks:
            (features,) = self._extractor.extract([given.photo])
        with _CUTTING:
            result = cut_image(self._task(given, features))
            return self._segmentation(given, result, with_confidence=confidence)

    def batch(
        self,
        images: Iterable[ImageLike],
        *,
        depths: Iterable[NDArray[Any] | None] | None = None,
        depth_unit: DepthUnit = "relative",
        larger_is_nearer: bool = False,
        confidence: bool = True,
        batch_size: int = 4,
        workers: int = 0,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Segmentation | SampleError]:
        """Cut the instances out of many photos, in their order.

        Args:
            images: each as for a call.
            depths: one map a photo, None where there is none; as for a call.
            depth_unit, larger_is_nearer, confidence: as for a call.
            batch_size: photos that go through the backbone at once.
            workers: processes that cut; 0 cuts in this one. They import the caller's main module, as all processes
                of `multiprocessing` do that are spawned.
            errors: "raise" ends at the first photo that cannot be used; "return" gives its SampleError in place of a
                result and goes on.

        Yields:
            One result a photo.

        Raises:
            SettingError, DepthMissingError, WeightsError: as for a call.
            SampleError: a photo or depth map cannot be used, and `errors` is "raise".
        """
        if errors not in ("raise", "return"):
            raise SettingError("errors", f"is {errors!r}: choose one of raise, return")
        if batch_size < 1 or workers < 0:
            raise SettingError("batch_size" if batch_size < 1 else "workers", "is too small")
        pairs = zip(images, repeat(None) if depths is None else depths, strict=depths is not None)
        with WorkerPool(workers) as pool:
            tasks = self._tasks(pairs, batch_size=batch_size, unit=depth_unit, larger_is_nearer=larger_is_nearer)
            for given, future in pool.in_order(cut_image, tasks):
                try:
                    if isinstance(given, SampleError) or future is None:
                        raise given if isinstance(given, SampleError) else SampleError("it was not cut")
                    result = result_of(future)
                    with _CUTTING:
                        yield self._segmentation(given, result, with_confidence=confidence)
                except SampleError as error:
                    if errors == "raise":
                        raise
                    yield error

    def _tasks(
        self,
        pairs: Iterable[tuple[ImageLike, NDArray[Any] | None]],
        *,
        batch_size: int,
        unit: DepthUnit,
        larger_is_nearer: bool,
    ) -> Iterator[tuple[_Prepared | SampleError, CutTask | None]]:
        """Yield each photo with its task, or why there is none."""
        remaining = iter(pairs)
        while batch := list(islice(remaining, batch_size)):
            given: list[_Prepared | SampleError] = []
            for image, depth in batch:
                try:
                    given.append(self._prepare(to_photo(image), depth, unit=unit, larger_is_nearer=larger_is_nearer))
                except SampleError as error:
                    given.append(error)
            usable = [item for item in given if isinstance(item, _Prepared)]
            with self._networks:
                features = iter(self._extractor.extract([item.photo for item in usable]) if usable else [])
            for item in given:
                yield item, None if isinstance(item, SampleError) else self._task(item, next(features))

    def _prepare(
        self, photo: Image.Image, depth: NDArray[Any] | None, *, unit: DepthUnit, larger_is_nearer: bool
    ) -> _Prepared:
        """Bring depth to what the cut takes, and estimate it where none is given."""
        if depth is not None:
            values = to_depth(
                depth,
                size=(photo.height, photo.width),
                unit=unit,
                larger_is_nearer=larger_is_nearer,
                levels=PNG_STEPS,
            )
        elif self._method.needs_depth(self._settings):
            values = self._estimate(photo)
        else:
            return _Prepared(photo=photo, depth=None, patch_depth=None)
        settings = self._settings
        on_grid = patch_depth(values, self.grid, clip=settings.depth_clip, sampling=settings.depth_sampling)
        return _Prepared(photo=photo, depth=values, patch_depth=on_grid)

    def _estimate(self, photo: Image.Image) -> NDArray[np.float32]:
        """Estimate the depth of a photo, to the precision of a stored map."""
        settings = self.config.depth
        if settings.backend == "sensor":
            raise DepthMissingError(
                "there is no depth: give depth=, name a network by backend=, or cut in 2D with method='maskcut'"
            )
        with self._networks:
            if self._depth_network is None:
                self._depth_network = load_depth(
                    settings, device=choose_device(self.config.run.device), half=self.config.run.half
                )
            network = self._depth_network
            raw = network.predict([np.asarray(photo)], max_side=settings.max_side)[0]
        depth = normalise(raw, direction=network.spec.direction, unit=network.spec.unit).depth
        return (np.rint(depth.astype(np.float64) * PNG_STEPS) / PNG_STEPS).astype(np.float32)

    def _task(self, given: _Prepared, features: NDArray[np.float16]) -> CutTask:
        needs_depth = self._method.needs_depth(self._settings)
        return CutTask(
            image=resize_square(given.photo, self._settings.crf_size),
            size=(given.photo.height, given.photo.width),
            features=features,
            depth=given.patch_depth if needs_depth else None,
            config=self._settings,
        )

    def _segmentation(self, given: _Prepared, result: CutResult, *, with_confidence: bool) -> Segmentation:
        """Return the result of a cut as plain arrays."""
        size = (given.photo.height, given.photo.width)
        masks = [decode_rle(item.segmentation) for item in result.instances]
        boxes = [item.box for item in result.instances]
        maps, scores = self._confidence(given, result) if with_confidence else (None, None)
        return Segmentation(
            image=np.asarray(given.photo),
            masks=np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            scores=np.ones(len(masks), dtype=np.float32) if scores is None else scores,
            confidence=maps,
            depth=None if given.depth is None else np.asarray(upsample_grid(given.depth, size)),
            importance=self._method.importance(given.patch_depth, settings=self._settings),
            cuts=cuts_of(result, ignores_found=self._method.ignores_found),
            stopped=result.extraction.stopped,
            title=f"{self._method.title(self._settings)}, {self._extractor.spec.name} at {self._extractor.size}",
            seconds=dict(result.seconds),
        )

    def _confidence(
        self, given: _Prepared, result: CutResult
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return the confidence map and the score of each mask; None where the masks were not cut in 3D."""
        config, settings = self.config.confidence, self._settings
        if config.source == "depth" and not self._method.cuts_in_3d(settings):
            return None, None
        with threadpool_limits(limits=1):
            counts, levels = count_confidence(
                result, depth=given.patch_depth, photo=given.photo, settings=settings, config=config, grid=self.grid
            )
        maps = spatial_confidence(counts, levels=levels, floor=config.floor)
        scores = [
            mean_confidence(values, item.patch_mask) for values, item in zip(maps, result.instances, strict=True)
        ]
        return maps, np.array(scores, dtype=np.float32).reshape(-1)


@functools.lru_cache(maxsize=_KEPT_SEGMENTERS)
def _segmenter(preset: str | None, device: str, settings: tuple[tuple[str, Any], ...]) -> Segmenter:
    return Segmenter(preset=preset, device=device, **dict(settings))


def segment(
    image: ImageLike,
    *,
    depth: NDArray[Any] | None = None,
    depth_unit: DepthUnit = "relative",
    larger_is_nearer: bool = False,
    confidence: bool = True,
    preset: str | None = None,
    device: str = "auto",
    **settings: Any,
) -> Segmentation:
    """Cut the instances out of one photo. The networks of the last calls are kept for the next ones.

    Args:
        image: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or a path.
        depth, depth_unit, larger_is_nearer, confidence: as for a call of a `Segmenter`.
        preset, device, settings: as for `Segmenter`.

    Returns:
        The instances: `masks` (N, h, w) bool, `boxes` (N, 4) float32, `scores` (N,) float32.

    Raises:
        SettingError, DepthMissingError, SampleError, WeightsError: as a `Segmenter` and a call of it.
    """
    chosen = tuple(sorted(settings.items()))
    try:
        segmenter = _segmenter(preset, device, chosen)
    except TypeError:  # a value that cannot be hashed; the error of a wrong one names its setting
        segmenter = Segmenter(preset=preset, device=device, **settings)
    return segmenter(
        image, depth=depth, depth_unit=depth_unit, larger_is_nearer=larger_is_nearer, confidence=confidence
    )
