"""Inference with a trained detector: photos in, boxes, scores and masks out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.sidecars.detections import Detections
from cuts3d_cli.weights.checkpoint import load_into


class Detector:
    """A trained detector.

    Args:
        model: a detectron2 R-CNN, as `build_model` builds it.
        config: the configuration of its training, with the sizes at test time.
        device: the device to work on.
        half: mixed precision, on CUDA only.
    """

    def __init__(
        self, model: torch.nn.Module, *, config: TrainConfig, device: str | torch.device, half: bool = True
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.half = half and self.device.type == "cuda"
        self._model = model.to(self.device).eval()

    @classmethod
    def load(cls, path: Path, *, device: str | torch.device, half: bool = True) -> Detector:
        """Load a checkpoint that `cuts3d train` wrote.

        Args:
            path: `model-final.safetensors`, `model-final.pth` or `checkpoint-0005000.pth`.
            device: where it is to work.
            half: mixed precision, on CUDA only.

        Raises:
            WeightsError: the file is missing, damaged, or no such checkpoint.
        """
        from cuts3d_cli.detector.checkpoints import load_trained
        from cuts3d_cli.detector.model import build_model

        state, config = load_trained(path)
        model = build_model(config, device="cpu")
        load_into(model, state, what="the detector of its configuration", path=path)
        return cls(model, config=config, device=device, half=half)

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
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=self.half):
                outputs = self._model([inputs[place] for place in places])
            found |= {place: _detections(output["instances"]) for place, output in zip(places, outputs, strict=True)}
        return [found[place] for place in range(len(images))]

    def _input(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """Resize a photo and put it into the format of detectron2."""
        from detectron2.data.transforms import ResizeShortestEdge

        height, width = image.shape[:2]
        resize = ResizeShortestEdge(self.config.test_min_size, self.config.test_max_size)
        resized = resize.get_transform(image).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}


def _detections(instances: Any) -> Detections:
    """Convert detectron2's instances."""
    order = torch.argsort(instances.scores, descending=True, stable=True)
    found = instances[order].to("cpu")
    return Detections(
        boxes=found.pred_boxes.tensor.float().numpy(),
        scores=found.scores.float().numpy(),
        masks=[encode_rle(mask) for mask in found.pred_masks.numpy()],
    )
