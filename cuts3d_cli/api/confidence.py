"""Spatial Confidence of masks that were just cut."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import ConfidenceConfig, CutSettings, PseudoConfig
from cuts3d_cli.cut.confidence import CRF_LEVELS, confidence_counts, crf_counts
from cuts3d_cli.cut.image import CutResult
from cuts3d_cli.cut.localcut import grid_spacing
from cuts3d_cli.errors import SettingError
from cuts3d_cli.images import resize_square

_LOG = logging.getLogger("cuts3d_cli")


def count_confidence(
    result: CutResult,
    *,
    depth: NDArray[np.float32] | None,
    photo: Image.Image,
    settings: PseudoConfig,
    config: ConfidenceConfig,
    grid: tuple[int, int],
) -> tuple[NDArray[np.uint8], int]:
    """Count in how many cuts each patch belongs to each mask, as `cuts3d confidence` does.

    Args:
        result: of the cut.
        depth: (H, W) in [0, 1], for source "depth".
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
        return crf_counts(square, masks, iterations=settings.crf_iterations), levels
    assert depth is not None
    low, high = choose_thresholds(config, settings, grid=grid)
    counts = [
        confidence_counts(
            depth,
            item.candidate.bipartition,
            source=item.candidate.source if item.candidate.core is None else np.flatnonzero(item.candidate.core),
            sink=item.candidate.sink,
            tau_knn_min=low,
            tau_knn=high,
            cuts=config.cuts,
            k=settings.knn,
            background_level=settings.background_level,
            capacity=settings.capacity,
        )
        for item in result.instances
    ]
    return np.stack(counts), levels


def choose_thresholds(config: ConfidenceConfig, settings: CutSettings, *, grid: tuple[int, int]) -> tuple[float, float]:
    """Choose the lowest and the highest threshold of the cuts.

    The default of the lowest one is for the paper's `tau_knn` and grid. Where it does not fit, it takes the same share
    of the highest one, but at least the spacing of the grid (not in the paper).

    Raises:
        SettingError: a lowest threshold that was set does not fit.
    """
    low, high = config.tau_knn_min, settings.tau_knn if config.tau_knn is None else config.tau_knn
    spacing = grid_spacing(grid)
    if spacing <= low <= high:
        return low, high
    defaults = ConfidenceConfig(), CutSettings()
    if low != defaults[0].tau_knn_min:
        raise SettingError(
            "confidence.tau_knn_min",
            f"is {low:g}: it must lie between the spacing of the {grid[0]}x{grid[1]} grid, {spacing:.4f}, and the"
            f" highest threshold, {high:g}",
        )
    low = min(max(high * defaults[0].tau_knn_min / defaults[1].tau_knn, spacing), high)
    _LOG.info("confidence.tau_knn_min is %.4f, to fit tau_knn %g and the grid", low, high)
    return low, high
