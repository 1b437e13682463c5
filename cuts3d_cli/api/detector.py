"""A trained detector on photos in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cuts3d_cli.api.images import ImageLike, to_photo
from cuts3d_cli.api.settings import check_count, check_device
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import SettingError
from cuts3d_cli.segmentation import Segmentation

if TYPE_CHECKING:
    from cuts3d_cli.detector.inference import Detector as Network
    from cuts3d_cli.sidecars.detections import Detections


class Detector:
    """Finds instances with a detector that `cuts3d train` made. The network is loaded once, when first needed.

    An object may be used by several threads; the network computes for one at a time.

    Attributes:
        checkpoint: the file of weights.
    """

    def __init__(
        self, checkpoint: str | Path, *, device: str = "auto", min_score: float = 0.0, half: bool = True
    ) -> None:
        """Choose a checkpoint; load nothing.

        Args:
            checkpoint: `model-final.safetensors` or `checkpoint-*.pth`.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            min_score: detections under it are left out, in [0, 1].
            half: half precision on CUDA.

        Raises:
            SettingError: the score is outside [0, 1], or the device no text.
        """
        check_device(device)
        if not 0 <= min_score <= 1:
            raise SettingError("min_score", f"is {min_score}: it must lie between 0 and 1")
        self.checkpoint = Path(checkpoint)
        self._device, self._half, self._min_score = device, half, min_score
        self._lock = threading.Lock()
        self._network: Network | None = None

    def __call__(self, image: ImageLike) -> Segmentation:
        """Find the instances of one photo, best first.

        Args:
            image: a PIL image, (h, w, 3) or (h, w) uint8 in RGB or gray, or a path.

        Returns:
            The instances, without depth, cuts and confidence.

        Raises:
            SettingError: the image is of the wrong type or shape, or there is no such device.
            SampleError: the photo cannot be used.
            WeightsError: the checkpoint is missing, damaged, or no detector's.
            Cuts3dError: detectron2 is not installed.
        """
        (found,) = self._detect([to_photo(image).image])
        return found

    def batch(self, images: Iterable[ImageLike], *, batch_size: int = 4) -> Iterator[Segmentation]:
        """Find the instances of many photos, in their order.

        Args:
            images: each as for a call.
            batch_size: photos that go through the network at once, where they have one size.

        Yields:
            One result a photo.

        Raises:
            As a call.
        """
        check_count("batch_size", batch_size, least=1)
        remaining = iter(images)
        while batch := [to_photo(image).image for image in islice(remaining, batch_size)]:
            yield from self._detect(batch)

    def _detect(self, photos: Sequence[Image.Image]) -> list[Segmentation]:
        arrays = [np.asarray(photo) for photo in photos]
        with self._lock:
            if self._network is None:
                self._network = self._load()
            found = self._network.detect(arrays)
        return [self._segmentation(image, item) for image, item in zip(arrays, found, strict=True)]

    def _load(self) -> Network:
        require_detectron2()
        from cuts3d_cli.detector.inference import Detector as Network

        return Network.load(self.checkpoint, device=choose_device(self._device), half=self._half)

    def _segmentation(self, image: np.ndarray, found: Detections) -> Segmentation:
        kept = found.over(self._min_score)
        masks = [decode_rle(code) for code in kept.masks]
        return Segmentation(
            image=image,
            masks=np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), dtype=bool),
            boxes=kept.boxes,
            scores=kept.scores,
            title=str(self.checkpoint),
        )
