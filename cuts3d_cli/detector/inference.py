"""The trained detector at work: photos in, boxes, scores and masks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.cut.masks import Rle, encode_rle
from cuts3d_cli.weights.checkpoint import load_into


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found in one photo, best first.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the photo.
        scores: (N,) float32 in [0, 1].
        masks: N masks at the photo's size.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    masks: Sequence[Rle]

    def over(self, score: float) -> Detections:
        """Those of at least this score."""
        kept = np.flatnonzero(self.scores >= score).tolist()
        return Detections(boxes=self.boxes[kept], scores=self.scores[kept], masks=[self.masks[i] for i in kept])


class Detector:
    """A trained detector.

    Args:
        model: a detectron2 R-CNN, as `build_model` makes it.
        config: the configuration that it was trained with; the sizes at test time come from it.
        device: where it works.
        half: mixed precision, on CUDA only.
    """

    def __init__(
        self, model: torch.nn.Module, *, config: TrainConfig, device: str | torch.device, half: bool = True
    ) -> None:
        """See the class."""
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

        Only photos that the network sees at one size go through it together. A smaller one would be filled up to the
        size of its neighbours, which the convolutions see, so that its detections would depend on them.

        Args:
            images: (H, W, 3) uint8, RGB, each of its own size.

        Returns:
            One result a photo.
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
        from detectron2.data.transforms import ResizeShortestEdge

        height, width = image.shape[:2]
        resize = ResizeShortestEdge(self.config.test_min_size, self.config.test_max_size)
        resized = resize.get_transform(image).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}


def _detections(instances: Any) -> Detections:
    order = torch.argsort(instances.scores, descending=True, stable=True)
    found = instances[order].to("cpu")
    return Detections(
        boxes=found.pred_boxes.tensor.float().numpy(),
        scores=found.scores.float().numpy(),
        masks=[encode_rle(mask) for mask in found.pred_masks.numpy()],
    )
