"""A trained detector on photos in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.api.fixed import Fixed, as_keywords
from cuts3d_cli.api.images import ImageLike, to_photo
from cuts3d_cli.api.settings import (
    check_count,
    check_device,
    check_errors,
    check_precision,
    configure,
    in_keywords,
    returned,
)
from cuts3d_cli.config import Precision, in_present_terms
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import SampleError
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.timing import StepTimer

if TYPE_CHECKING:
    from cuts3d_cli.detector.inference import Detector as Network
    from cuts3d_cli.sidecars.detections import Detections

_LOG = logging.getLogger("cuts3d_cli")


class Detector(Fixed):
    """Finds instances with a detector of `cuts3d train` or detectron2. The network is loaded once, when first needed.

    An object may be used by several threads; the network computes for one at a time. Its settings stay as they are.
    """

    @in_keywords()
    def __init__(
        self, checkpoint: str | Path, *, device: str = "auto", precision: Precision = "auto", **settings: Any
    ) -> None:
        """Choose a checkpoint; load nothing.

        Args:
            checkpoint: `model-final.safetensors`, `checkpoint-*.pth`, or a file of detectron2's.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            precision: what the network computes in: "float32", "bfloat16", or on CUDA "tf32" or "float16"; "auto" is
                float16 on CUDA, else float32.
            settings: fields of the section `predict`, in place of the detector's own: `min_score=0.5`,
                `max_detections=300`, `test_settings="cutler"`, ...

        Raises:
            SettingError: an unknown setting, one of the wrong type or outside its limits; or no device, or precision.
        """
        check_device(device)
        # `half` of older versions is among the settings.
        settings = in_present_terms("run", {**settings, **({} if precision == "auto" else {"precision": precision})})
        precision = settings.pop("precision", "auto")
        check_precision(precision)
        self._checkpoint = Path(checkpoint)
        self._given = settings
        self._wanted = configure(settings=settings, sections=("predict",)).predict
        self._device, self._precision = device, precision
        self._lock = threading.Lock()
        self._network: Network | None = None

    def _way_out(self, name: str, given: str) -> str:
        return f"{super()._way_out(name, given)}, which loads the network again"

    @property
    def checkpoint(self) -> Path:
        """The file of weights."""
        return self._checkpoint

    def __repr__(self) -> str:
        """Return a line: the checkpoint, and the settings that were given."""
        return f"<Detector {as_keywords({'checkpoint': self._checkpoint, **self._given})}, device {self._device}>"

    @in_keywords()
    def __call__(self, image: ImageLike) -> Segmentation:
        """Find the instances of one photo, best first.

        Args:
            image: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or a path.

        Returns:
            The instances, without depth, cuts and confidence.

        Raises:
            SettingError: the image is of the wrong type or shape, there is no such device, or a setting has no effect.
            SampleError: the photo cannot be used.
            WeightsError: the checkpoint is missing, damaged, or no detector's.
            FileError: its configuration cannot be read, or describes another detector.
            Cuts3dError: detectron2 is not installed.
        """
        (found,) = self._detect([image])
        if isinstance(found, SampleError):
            raise found
        return found

    @overload
    def batch(
        self, images: Iterable[ImageLike], *, batch_size: int = 4, errors: Literal["raise"] = "raise"
    ) -> Iterator[Segmentation]: ...

    @overload
    def batch(
        self, images: Iterable[ImageLike], *, batch_size: int = 4, errors: Literal["return"]
    ) -> Iterator[Segmentation | SampleError]: ...

    def batch(
        self, images: Iterable[ImageLike], *, batch_size: int = 4, errors: Literal["raise", "return"] = "raise"
    ) -> Iterator[Segmentation | SampleError]:
        """Find the instances of many photos, in their order.

        Args:
            images: each as for a call.
            batch_size: photos that go through the network at once, where they have one size.
            errors: "raise" ends at the first photo that cannot be used; "return" gives its SampleError in place of a
                result and goes on.

        Yields:
            One result a photo.

        Raises:
            SettingError, WeightsError, FileError, Cuts3dError: as for a call.
            SampleError: a photo cannot be used, and `errors` is "raise".
        """
        check_errors(errors)
        check_count("batch_size", batch_size, least=1)
        remaining = iter(images)
        with in_keywords():
            while batch := list(islice(remaining, batch_size)):
                for found in self._detect(batch):
                    if isinstance(found, SampleError):
                        yield returned(found, errors=errors)
                    else:
                        yield found

    def _detect(self, images: Sequence[ImageLike]) -> list[Segmentation | SampleError]:
        """Find the instances of photos together; one that cannot be used stays behind, as the error that says why."""
        timer = StepTimer()
        read: list[NDArray[np.uint8] | SampleError] = []
        with timer.step("read"):
            for image in images:
                try:
                    read.append(np.asarray(to_photo(image).image))
                except SampleError as error:
                    read.append(error)
        arrays = [item for item in read if not isinstance(item, SampleError)]
        if not arrays:
            return [item for item in read if isinstance(item, SampleError)]
        with self._lock:
            if self._network is None:
                with timer.step("load"):
                    self._network = self._load()
            with timer.step("detect"):
                found = self._network.detect(arrays)
        title = str(self.checkpoint)
        share = {step: seconds / len(arrays) for step, seconds in timer.seconds.items()}
        results = (
            as_segmentation(item, image=image, title=title, seconds=share)
            for image, item in zip(arrays, found, strict=True)
        )
        return [item if isinstance(item, SampleError) else next(results) for item in read]

    def _load(self) -> Network:
        require_detectron2()
        from cuts3d_cli.detector.inference import Detector as Network

        device = choose_device(self._device)
        return Network.load(
            self.checkpoint, device=device, precision=self._precision, wanted=self._wanted, say=_LOG.info
        )


def as_segmentation(
    found: Detections, *, image: NDArray[np.uint8], title: str, seconds: Mapping[str, float] | None = None
) -> Segmentation:
    """Return detections as instances.

    Args:
        found: in the image.
        image: (h, w, 3) uint8, RGB.
        title: what found them, in a few words.
        seconds: wall-clock seconds by step.
    """
    masks = [decode_rle(code) for code in found.masks]
    return Segmentation(
        image=image,
        masks=np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), dtype=bool),
        boxes=found.boxes,
        scores=found.scores,
        classes=found.classes,
        title=title,
        seconds=dict(seconds or {}),
    )
