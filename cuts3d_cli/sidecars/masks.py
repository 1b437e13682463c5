"""The pseudo sidecar: the masks of every photo, and how they were cut."""

from __future__ import annotations

from typing import Any

from cuts3d_cli.cut.image import CutResult
from cuts3d_cli.cut.masks import encode_rle, rle_area, rle_box


def to_record(result: CutResult, *, size: tuple[int, int], method: str) -> dict[str, Any]:
    """The JSON that a pseudo sidecar holds for one image; the README documents its fields."""
    candidates = result.extraction.candidates
    grid = list(candidates[0].mask.shape) if candidates else None
    return {
        "method": method,
        "height": size[0],
        "width": size[1],
        "grid": grid,
        "stopped": result.extraction.stopped,
        "instances": [
            {
                "iteration": item.candidate.iteration,
                "segmentation": item.segmentation,
                "bbox": rle_box(item.segmentation),
                "area": rle_area(item.segmentation),
                "crf_iou": None if item.crf_iou is None else round(item.crf_iou, 6),
                "patch_mask": encode_rle(item.patch_mask),
                "bipartition": encode_rle(item.candidate.bipartition),
                "source": node_position(item.candidate.source, item.candidate.mask.shape),
                **({} if item.candidate.core is None else {"core": encode_rle(item.candidate.core)}),
                "sink": None
                if item.candidate.sink is None
                else node_position(item.candidate.sink, item.candidate.mask.shape),
            }
            for item in result.instances
        ],
        "dropped": list(result.dropped),
    }


def node_position(node: int, grid: tuple[int, ...]) -> list[int]:
    """[row, column] of a row-major node."""
    return [node // grid[1], node % grid[1]]
