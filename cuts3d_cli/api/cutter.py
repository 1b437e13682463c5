"""Cuts one decoded photo: networks that are loaded once, the cut, and Spatial Confidence."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from cuts3d_cli.api.confidence import count_confidence
from cuts3d_cli.api.cuts import cuts_of
from cuts3d_cli.config import Config, PseudoConfig, for_backbone
from cuts3d_cli.cut.confidence import mean_confidence, spatial_confidence
from cuts3d_cli.cut.crf import check_backend
from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image
from cuts3d_cli.cut.masks import decode_rle, rle_box
from cuts3d_cli.cut.methods import Method, get_method, without_camera
from cuts3d_cli.cut.perspective import Perspective, in_perspective
from cuts3d_cli.depth.base import DepthBackend, Direction, Unit
from cuts3d_cli.depth.catalogue import load_depth
from cuts3d_cli.depth.maps import DepthMap, NormalisedDepth, distance_of, normalise
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import DepthMissingError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.features.threshold import PHOTOS, with_threshold
from cuts3d_cli.figures.overlay import upsample_grid
from cuts3d_cli.images import resize_square
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.sidecars.depth import PNG_STEPS
from cuts3d_cli.timing import StepTimer, add_seconds
from cuts3d_cli.wording import Say

_CUTTING = threading.Lock()
"""Held while an image is cut: the number of threads of the linear algebra belongs to the whole process."""


@dataclass(frozen=True, kw_only=True)
class PreparedPhoto:
    """A photo with what the cut needs of it.

    Attributes:
        photo: upright, RGB.
        depth: (h, w) float32 in [0, 1], larger is farther, NaN where nothing was measured; None in 2D.
        patch_depth: (H, W) float32 in [0, 1], no NaN; None without depth.
        view: metric depth in perspective; None where depth is not metric, or not asked for.
        seconds: wall-clock seconds by step, so far.
    """

    photo: Image.Image
    depth: NDArray[np.float32] | None
    patch_depth: NDArray[np.float32] | None
    view: Perspective | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class PhotoCutter:
    """Cuts decoded photos by one configuration. Several threads may use it.

    Attributes:
        config: the configuration.
        settings: its section `pseudo`, with the threshold of the semantic graph that suits the backbone; where none is
            known, it is chosen or asked for with the first photos.
        grid: (H, W) of the patch grid.
    """

    def __init__(self, config: Config, *, say: Say | None = None, networks_of: PhotoCutter | None = None) -> None:
        """Check the configuration; load nothing.

        Args:
            config: sections `pseudo`, `features`, `depth`, `confidence` and `run`.
            say: receives a line when weights are fetched.
            networks_of: whose networks are shared, each where its section and `run` are the same.

        Raises:
            UsageError: there is no such method or backbone, or the settings do not fit the backbone's grid.
        """
        self.config = config
        donor = networks_of if networks_of is not None and networks_of.config.run == config.run else None
        same_backbone = donor is not None and donor.config.features == config.features
        same_depth = donor is not None and donor.config.depth == config.depth
        self._extractor: FeatureExtractor = (
            donor._extractor if donor and same_backbone else FeatureExtractor(config, say=say)
        )
        self._depth: _DepthNetwork = donor._depth if donor and same_depth else _DepthNetwork(config)
        # Networks that are shared are used by one at a time.
        shares = same_backbone or same_depth
        self._lock: threading.RLock = donor._lock if donor and shares else threading.RLock()
        self._say = say
        self.grid = self._extractor.grid
        self.settings: PseudoConfig = for_backbone(config.pseudo, tau_ncut=self._extractor.spec.tau_ncut)
        self._method: Method = get_method(self.settings.method)
        self._method.check(self.settings, self.grid)
        check_backend(self.settings.crf_backend)

    @property
    def needs_depth(self) -> bool:
        """Whether the method, with these settings, looks at depth."""
        return self._method.needs_depth(self.settings)

    @property
    def without_camera(self) -> tuple[str, object] | None:
        """The setting that leaves intrinsics of photos without effect, and its value; None where they have one."""
        decisive = without_camera(self.settings)
        return None if decisive is None else (decisive, getattr(self.settings, decisive))

    @property
    def title(self) -> str:
        """Method and backbone, for pictures."""
        return self._titled(self.settings)

    def _titled(self, settings: PseudoConfig) -> str:
        return f"{self._method.title(settings)}, {self._extractor.spec.name} at {self._extractor.size}"

    def fetch_weights(self) -> Path:
        """Return the file of the backbone's weights, and fetch it if need be.

        Raises:
            WeightsError: the weights are unavailable.
        """
        with self._lock:
            return self._extractor.weights

    def estimate_depth(self, photo: Image.Image, *, timer: StepTimer | None = None) -> DepthMap:
        """Estimate the depth of a photo with the network that the configuration names.

        Args:
            photo: upright, RGB.
            timer: of the steps "load" and "depth".

        Returns:
            The map, to the precision of a stored one.

        Raises:
            DepthMissingError: the configuration takes depth from a sensor.
            WeightsError: the weights of the network are unavailable.
            SampleError: the network gives no valid pixel.
        """
        settings = self.config.depth
        if settings.backend == "sensor":
            raise DepthMissingError(
                "there is no depth: give depth=, name a network by backend=, or cut in 2D with method='maskcut'"
            )
        timer = timer or StepTimer()
        with self._lock:
            network = self._depth.loaded(timer)
            if network.spec.prompted:
                raise DepthMissingError(f"{network.spec.name} needs the map of a sensor beside the photo: give depth=")
            with timer.step("depth"):
                raw = network.predict([np.asarray(photo)], max_side=settings.max_side)[0]
        found = normalise(raw, direction=network.spec.direction, unit=network.spec.unit)
        return to_stored_precision(found, direction=network.spec.direction, unit=network.spec.unit)

    def prepare(
        self,
        photo: Image.Image,
        depth: DepthMap | None,
        *,
        focal: Focal | None = None,
        timer: StepTimer | None = None,
    ) -> PreparedPhoto:
        """Bring depth to the patch grid, and estimate it first where the method needs depth and none is given.

        Args:
            photo: upright, RGB.
            depth: of the same view; or None.
            focal: the photo's own focal length, if it is known.
            timer: of the steps so far.

        Raises:
            DepthMissingError, WeightsError, SampleError: as `estimate_depth`.
        """
        timer = timer or StepTimer()
        if depth is None and self.needs_depth:
            depth = self.estimate_depth(photo, timer=timer)
        if depth is None:
            return PreparedPhoto(photo=photo, depth=None, patch_depth=None, seconds=timer.seconds)
        settings = self.settings
        return PreparedPhoto(
            photo=photo,
            depth=depth.depth,
            patch_depth=patch_depth(depth.depth, self.grid, clip=settings.depth_clip, sampling=settings.depth_sampling),
            view=in_perspective(depth.distance, grid=self.grid, settings=settings, focal=focal),
            seconds=timer.seconds,
        )

    def tasks(self, photos: Sequence[PreparedPhoto]) -> list[tuple[PreparedPhoto, CutTask]]:
        """Put photos through the backbone; what is left is to cut them.

        Returns:
            Each photo with its task. The seconds of the steps "load" and "features" are shared among them.

        Raises:
            SettingError: the threshold of the semantic graph must be given for this backbone.
            SampleError: none of the first photos can be used to choose one.
        """
        if not photos:
            return []
        timer = StepTimer()
        with self._lock:
            if not self._extractor.is_loaded:
                with timer.step("load"):
                    _ = self._extractor.backbone
            with timer.step("features"):
                features = self._extractor.extract([item.photo for item in photos])
            self.settings = with_threshold(
                self.settings, spec=self._extractor.spec, features=lambda: features[:PHOTOS], say=self._say
            )
        share = {step: seconds / len(photos) for step, seconds in timer.seconds.items()}
        return [
            (
                replace(item, seconds=add_seconds(item.seconds, share)),
                CutTask(
                    image=resize_square(item.photo, self.settings.crf_size),
                    size=(item.photo.height, item.photo.width),
                    features=vectors,
                    depth=item.patch_depth if self.needs_depth else None,
                    view=item.view if self.needs_depth else None,
                    config=self.settings,
                ),
            )
            for item, vectors in zip(photos, features, strict=True)
        ]

    def cut(self, photo: PreparedPhoto, *, confidence: bool) -> Segmentation:
        """Cut one photo.

        Args:
            photo: as `prepare` returns it.
            confidence: compute Spatial Confidence, where the method cuts in 3D.

        Raises:
            SampleError: the features cannot be used.
            SettingError: the thresholds of Spatial Confidence do not fit.
        """
        ((given, task),) = self.tasks([photo])
        return self.segmentation(given, cut_alone(task), confidence=confidence)

    def segmentation(self, given: PreparedPhoto, result: CutResult, *, confidence: bool) -> Segmentation:
        """Return the result of a cut as plain arrays.

        Args:
            given: what was cut.
            result: of the cut.
            confidence: as for `cut`.

        Raises:
            SettingError: the thresholds of Spatial Confidence do not fit.
        """
        # Relative depth has no view in perspective.
        settings = self.settings if given.view is not None else replace(self.settings, cloud="paper")
        size = (given.photo.height, given.photo.width)
        masks = [decode_rle(item.segmentation) for item in result.instances]
        boxes = np.array([rle_box(item.segmentation) for item in result.instances], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        timer = StepTimer()
        maps, scores = self._confidence(given, result, timer=timer) if confidence else (None, None)
        sharpened = given.patch_depth if self.needs_depth else None
        return Segmentation(
            image=np.asarray(given.photo),
            masks=np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
            boxes=boxes,
            scores=np.ones(len(masks), dtype=np.float32) if scores is None else scores,
            confidence=maps,
            depth=None if given.depth is None else np.asarray(upsample_grid(given.depth, size)),
            importance=self._method.importance(sharpened, settings=self.settings),
            cuts=cuts_of(result, ignores_found=self._method.ignores_found),
            stopped=result.extraction.stopped,
            title=self._titled(settings),
            seconds=add_seconds(given.seconds, result.seconds, timer.seconds),
        )

    def _confidence(
        self, given: PreparedPhoto, result: CutResult, *, timer: StepTimer
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return the confidence map and the score of each mask; None where the masks were not cut in 3D."""
        config, settings = self.config.confidence, self.settings
        if config.source == "depth" and not self._method.cuts_in_3d(settings):
            return None, None
        with _CUTTING, threadpool_limits(limits=1), timer.step("confidence"):
            counts, levels = count_confidence(
                result,
                depth=given.patch_depth,
                view=given.view,
                photo=given.photo,
                settings=settings,
                config=config,
                grid=self.grid,
            )
        maps = spatial_confidence(counts, levels=levels, floor=config.floor)
        pairs = zip(maps, result.instances, strict=True)
        scores = [mean_confidence(values, item.patch_mask) for values, item in pairs]
        return maps, np.array(scores, dtype=np.float32).reshape(-1)


class _DepthNetwork:
    """The depth network of a configuration, loaded when it is first needed."""

    def __init__(self, config: Config) -> None:
        """Load nothing.

        Args:
            config: sections `depth` and `run`.
        """
        self._config = config
        self._network: DepthBackend | None = None

    def loaded(self, timer: StepTimer) -> DepthBackend:
        """Return the network; one thread at a time.

        Args:
            timer: of the step "load".

        Raises:
            WeightsError: its weights are unavailable.
        """
        if self._network is None:
            with timer.step("load"):
                run = self._config.run
                device = choose_device(run.device)
                self._network = load_depth(self._config.depth, device=device, precision=run.precision)
        return self._network


def cut_alone(task: CutTask) -> CutResult:
    """Cut an image in this process, while no other thread does.

    Raises:
        SampleError: the features cannot be used.
    """
    with _CUTTING:
        return cut_image(task)


def to_stored_precision(found: NormalisedDepth, *, direction: Direction, unit: Unit) -> DepthMap:
    """Round a map to the levels of a depth sidecar, so that memory and disk give the same masks.

    Args:
        found: the map, brought to [0, 1].
        direction, unit: of its raw values.
    """
    depth = (np.rint(found.depth.astype(np.float64) * PNG_STEPS) / PNG_STEPS).astype(np.float32)
    distance = distance_of(depth, minimum=found.minimum, maximum=found.maximum, direction=direction, unit=unit)
    return DepthMap(depth=depth, distance=distance)
