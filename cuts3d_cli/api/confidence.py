"""Spatial Confidence of masks that were just cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import ConfidenceConfig, PseudoConfig
from cuts3d_cli.cut.confidence import CRF_LEVELS, choose_thresholds, confidence_counts, crf_counts
from cuts3d_cli.cut.image import CutResult
from cuts3d_cli.cut.perspective import Perspective, surface_of
from cuts3d_cli.images import resize_square


def count_confidence(
    result: CutResult,
    *,
    depth: NDArray[np.float32] | None,
    view: Perspective | None,
    photo: Image.Image,
    settings: PseudoConfig,
    config: ConfidenceConfig,
    grid: tuple[int, int],
) -> tuple[NDArray[np.uint8], int]:
    """Count in how many cuts each patch belongs to each mask, as `cuts3d confidence` does.

    Args:
        result: of the cut.
        depth: (H, W) in [0, 1], for source "depth".
        view: metric depth in perspective that the masks were cut in, or None.
        photo: for source "crf".
        settings: that the masks were cut with.
        config: thresholds and source.
        grid: (H, W).

    Returns:
        (M, H, W) uint8, and the count that means 1.

    Raises:
        SettingError: the thresholds do not fit the grid or each other.
    """
    levels = CRF_LEVELS if config.source == "crf" else config.cuts
    if not result.instances:
        return np.zeros((0, *grid), dtype=np.uint8), levels
    if config.source == "crf":
        square = resize_square(photo, settings.crf_size)
        masks = [item.patch_mask for item in result.instances]
        maps = crf_counts(square, masks, iterations=settings.crf_iterations, backend=settings.crf_backend)
        return maps, levels
    assert depth is not None
    surface = surface_of(depth, view, settings=settings)
    thresholds = choose_thresholds(
        settings, spacing=surface.spacing, tau_knn_min=config.tau_knn_min, tau_knn=config.tau_knn, cuts=config.cuts
    )
    counts = [
        confidence_counts(
            surface,
            item.candidate.bipartition,
            source=item.candidate.source if item.candidate.core is None else np.flatnonzero(item.candidate.core),
            sink=item.candidate.sink,
            thresholds=thresholds,
            k=settings.knn,
            capacity=settings.capacity,
            seed=item.candidate.source,
            min_area=settings.min_area,
        )
        for item in result.instances
    ]
    return np.stack(counts), levels
