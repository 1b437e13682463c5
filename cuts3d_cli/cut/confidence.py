"""Spatial Confidence (Sec. 3.4): how far an instance depends on the threshold it was cut with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import CutSettings
from cuts3d_cli.config.cutting import Capacity, CrfBackend
from cuts3d_cli.cut.cloud import Surface
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.grid import depth_to_grid
from cuts3d_cli.cut.localcut import cut_graph, local_graph, longest_edge
from cuts3d_cli.cut.masks import upsample_nearest
from cuts3d_cli.cut.parts import part_with, parts_of
from cuts3d_cli.errors import SettingError

CRF_LEVELS = 255
"""Probabilities of the CRF are stored in steps of 1/255."""
PAPER_TAU_KNN_MIN = 0.05
"""The paper's lowest threshold (Table 15)."""
LOWEST_SHARE = PAPER_TAU_KNN_MIN / 0.115
"""What part of the highest threshold the lowest one is in the paper."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The thresholds of one of the cuts that are compared.

    Attributes:
        tau_knn: longest edge kept.
        concavity: most concave edge kept; None where all are.
    """

    tau_knn: float
    concavity: float | None = None


def choose_thresholds(
    settings: CutSettings,
    *,
    spacing: float,
    tau_knn_min: float | Literal["auto"],
    tau_knn: float | Literal["auto"] | None,
    cuts: int,
) -> list[Thresholds]:
    """Choose the thresholds of all cuts: linearly from the lowest to the highest, both included (Eq. 4).

    Where concave edges are cut, the concavity runs along, from `LOWEST_SHARE` of its own value (not in the paper).

    Args:
        settings: that the masks were cut with.
        spacing: of the grid, see `Surface`.
        tau_knn_min: the lowest threshold. "auto" is the paper's 0.05 where that lies between the spacing of the grid
            and the highest threshold, else `LOWEST_SHARE` of the highest one, but at least the spacing.
        tau_knn: the highest threshold; None for that of the masks.
        cuts: T, their number.

    Returns:
        As many thresholds.

    Raises:
        SettingError: a lowest threshold that was set does not lie between the spacing and the highest one.
    """
    high = longest_edge(settings.tau_knn if tau_knn is None else tau_knn, spacing=spacing)
    if tau_knn_min == "auto":
        fits = spacing <= PAPER_TAU_KNN_MIN <= high
        low = PAPER_TAU_KNN_MIN if fits else min(max(LOWEST_SHARE * high, spacing), high)
    else:
        low = tau_knn_min
    if not spacing <= low <= high:
        raise SettingError(
            "confidence.tau_knn_min",
            f"{low:g} must lie between the diagonal spacing of the grid, {spacing:.4f}, and the highest threshold,"
            f" {high:g}: 'auto' does",
        )
    taus = np.linspace(low, high, cuts).tolist()
    if settings.concavity == "off":
        return [Thresholds(tau_knn=tau) for tau in taus]
    shapes = np.linspace(LOWEST_SHARE * settings.concavity, settings.concavity, cuts).tolist()
    return [Thresholds(tau_knn=tau, concavity=c) for tau, c in zip(taus, shapes, strict=True)]


def confidence_counts(
    surface: Surface,
    mask: NDArray[np.bool_],
    *,
    source: int | NDArray[np.int64],
    sink: int | None,
    thresholds: Sequence[Thresholds],
    k: int,
    capacity: Capacity,
    seed: int | None = None,
    min_area: float = 0.0,
) -> NDArray[np.uint8]:
    """Count in how many LocalCuts a patch belongs to the instance (the sum in Eq. 4).

    All cuts share bipartition, source, sink and k-NN graph, which is built once.

    Args:
        surface: of the scene.
        mask: (H, W) bool, the semantic bipartition B.
        source: row-major index, or (R,) of several, inside the mask.
        sink: row-major index, or None: all nodes outside the mask.
        thresholds: of the cuts, from 1 to 255 of them.
        k: see `knn_graph`.
        capacity: see `edge_capacity`.
        seed: row-major index of a source: where the surface is known on a finer grid, the part that holds it is
            counted; the first source by default.
        min_area: see `take_apart`.

    Returns:
        (H, W) uint8 in [0, T]; T, the number of cuts, at the source.

    Raises:
        ValueError: the number of cuts does not fit a byte.
    """
    if not 1 <= len(thresholds) <= 255:
        raise ValueError(f"{len(thresholds)} cuts do not fit a byte")
    graph = local_graph(surface, mask, k=k, longest=max(item.tau_knn for item in thresholds))
    counts = np.zeros(mask.shape, dtype=np.uint8)
    for item in thresholds:
        found = cut_graph(
            graph,
            mask,
            source=source,
            sink=sink,
            tau_knn=item.tau_knn,
            concavity=item.concavity,
            capacity=capacity,
        )
        if surface.fine is not None:
            parts = parts_of(found, surface, tau_knn=item.tau_knn, concavity=item.concavity, min_area=min_area)
            found = part_with(parts, int(np.atleast_1d(source)[0]) if seed is None else seed)
        counts += found
    return counts


def crf_counts(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    *,
    iterations: int,
    backend: CrfBackend = "auto",
) -> NDArray[np.uint8]:
    """Compute the CRF's foreground probability of each mask, averaged over the patches (paper: B.5).

    Args:
        image: (s, s, 3) uint8, RGB, the square image that the CRF works on.
        masks: (H, W) bool each, at least one, before the CRF.
        iterations: of the CRF.
        backend: see `refine_masks`.

    Returns:
        (M, H, W) uint8, in steps of 1 / `CRF_LEVELS`.
    """
    large = [upsample_nearest(mask, (image.shape[0], image.shape[1])) for mask in masks]
    refined = refine_masks(image, large, iterations=iterations, backend=backend)
    grid = (masks[0].shape[0], masks[0].shape[1])
    maps = [depth_to_grid(np.clip(share, 0, 1), grid, sampling="area") for _, share in refined]
    return np.rint(np.stack(maps) * CRF_LEVELS).astype(np.uint8)


def spatial_confidence(counts: NDArray[np.uint8], *, levels: int, floor: float) -> NDArray[np.float32]:
    """Compute the Spatial Confidence from stored counts: their share, but at least the floor (Eq. 4, Table 10a).

    Args:
        counts: (..., H, W) uint8 in [0, levels].
        levels: the count that stands for 1.
        floor: lower bound, in [0, 1].

    Returns:
        (..., H, W) float32 in [floor, 1].
    """
    return np.maximum(counts.astype(np.float32) / np.float32(levels), np.float32(floor))


def mean_confidence(confidence: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Compute the mean confidence over a mask: the score by which masks are ranked (Sec. 3.4, confident copy-paste).

    Args:
        confidence: (H, W) in [0, 1].
        mask: (H, W) bool.

    Returns:
        The mean, in [0, 1]; 0 for an empty mask.
    """
    return float(confidence[mask].mean(dtype=np.float64)) if mask.any() else 0.0
