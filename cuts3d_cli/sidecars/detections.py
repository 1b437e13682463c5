"""The predict sidecar: what a detector finds in every photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import PredictConfig
from cuts3d_cli.cut.masks import Rle, rle_area


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


def to_record(found: Detections, *, size: tuple[int, int], config: PredictConfig) -> dict[str, Any]:
    """The JSON that a predict sidecar holds for one image: instances, best first.

    A detection whose mask is empty is left out.
    """
    kept = found.over(config.min_score)
    instances = [
        {
            "score": round(float(score), 6),
            "bbox": [round(float(value), 2) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "segmentation": mask,
            "area": rle_area(mask),
        }
        for box, score, mask in zip(kept.boxes, kept.scores, kept.masks, strict=True)
        if rle_area(mask) > 0
    ]
    return {"height": size[0], "width": size[1], "instances": instances[: config.max_detections]}
