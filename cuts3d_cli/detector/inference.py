"""Inference with a trained detector: photos in, boxes, scores and masks out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.config import Precision, PredictConfig
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.detector.loading import StoredDetector, load_detector
from cuts3d_cli.devices import autocasting, choose_precision, computing
from cuts3d_cli.sidecars.detections import Detections
from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from detectron2.modeling.meta_arch import GeneralizedRCNN


class Detector:
    """A trained detector.

    Args:
        model: a detectron2 R-CNN.
        settings: its settings at test time; those that shape the network are the model's own already.
        device: the device to work on.
        precision: what it computes in, in 16 bits by autocast; "auto" and what a device can do are as for
            `choose_precision`.

    Raises:
        SettingError: the precision is for CUDA, and the device is another one.
    """

    def __init__(
        self,
        model: GeneralizedRCNN,
        *,
        settings: InferenceSettings,
        device: str | torch.device,
        precision: Precision = "auto",
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        self.precision = choose_precision(precision, device=str(self.device))
        self._model = model.to(self.device).eval()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str | torch.device,
        precision: Precision = "auto",
        wanted: PredictConfig | None = None,
        say: Say = lambda line: None,
    ) -> Detector:
        """Load a detector from a file.

        Args:
            path: what `cuts3d train` or detectron2 wrote, as for `cuts3d_cli.detector.loading.load_detector`.
            device: where it is to work.
            precision: what it computes in.
            wanted: what the user says of its settings; None for nothing.
            say: is told what the detector is and which settings are in force.

        Raises:
            WeightsError: the file is missing, damaged, or holds no detector that can be built.
            FileError: a configuration cannot be read, or describes another detector.
            SettingError: a setting cannot take effect.
        """
        return cls.of(load_detector(path, wanted or PredictConfig(), say=say), device=device, precision=precision)

    @classmethod
    def of(cls, stored: StoredDetector, *, device: str | torch.device, precision: Precision = "auto") -> Detector:
        """Build a detector from what its file holds.

        Raises:
            WeightsError: tensors are missing, unknown or of another shape.
        """
        return cls(stored.build(), settings=stored.inference, device=device, precision=precision)

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find the instances of some photos.

        Only photos of one size after resizing go through the network together: padding to a common size would make the
        detections of a photo depend on its neighbours.

        Args:
            images: (H, W, 3) uint8, RGB, of any sizes.

        Returns:
            One result per photo.
        """
        inputs = [self._input(image) for image in images]
        sizes = [tuple(item["image"].shape) for item in inputs]
        found: dict[int, Detections] = {}
        for size in dict.fromkeys(sizes):
            places = [place for place, other in enumerate(sizes) if other == size]
            with (
                torch.inference_mode(),
                computing(self.precision, device=self.device),
                autocasting(self.precision, device=self.device),
            ):
                outputs = self._model([inputs[place] for place in places])
            classes = self._model.roi_heads.num_classes
            found |= {
                place: _detections(output["instances"], classes=classes)
                for place, output in zip(places, outputs, strict=True)
            }
        return [found[place] for place in range(len(images))]

    def _input(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """Resize a photo and put it into the format of detectron2."""
        from detectron2.data.transforms import ResizeShortestEdge

        height, width = image.shape[:2]
        resize = ResizeShortestEdge(self.settings.min_size, self.settings.max_size)
        resized = resize.get_transform(image).apply_image(image)
        if self._model.input_format == "BGR":
            resized = resized[:, :, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}


def _detections(instances: Any, *, classes: int) -> Detections:
    """Convert detectron2's instances, of a detector of so many classes."""
    order = torch.argsort(instances.scores, descending=True, stable=True)
    found = instances[order].to("cpu")
    return Detections(
        boxes=found.pred_boxes.tensor.float().numpy(),
        scores=found.scores.float().numpy(),
        masks=[encode_rle(mask) for mask in found.pred_masks.numpy()],
        classes=found.pred_classes.numpy() if classes > 1 else None,
    )
