"""The depth map at patch resolution."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cuts3d_cli.config.cutting import DepthSampling
from cuts3d_cli.errors import SampleError

_Float = TypeVar("_Float", bound="np.floating")


def patch_depth(
    depth: NDArray[np.float32], grid: tuple[int, int], *, clip: float, sampling: DepthSampling
) -> NDArray[np.float32]:
    """Bring a stored depth map to the patches, as the cut takes it: clipped, without holes, at patch resolution.

    Args:
        depth: (h, w) in [0, 1], NaN where nothing was measured.
        grid: (H, W).
        clip: see `clip_depth`, percent.
        sampling: see `depth_to_grid`.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        SampleError: no pixel is valid.
    """
    return depth_to_grid(fill_holes(clip_depth(depth, percent=clip)), grid, sampling=sampling)


def patch_distance(distance: NDArray[np.floating], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Bring metric depth to the patches: what was measured around each patch's centre (not in the paper).

    The median over the central half of the patch, along either side, has a fraction of a pixel's noise. It hardly ever
    reaches over an edge, so that a step stays where it is.

    Args:
        distance: (h, w), over 0, NaN where nothing was measured.
        grid: (H, W).

    Returns:
        (H, W) float64, over 0; where the pixel at the centre was not measured, the nearest one that was.

    Raises:
        SampleError: no pixel is valid.
    """
    rows, columns = _centres(distance.shape, grid)
    medians, _ = patch_medians(distance, grid, central=True)
    missing = ~np.isfinite(distance[rows, columns])
    filled = fill_holes(distance) if missing.any() else distance
    return np.where(missing | np.isnan(medians), filled[rows, columns], medians)


def patch_medians(
    distance: NDArray[np.floating], grid: tuple[int, int], *, central: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take the median of the measured pixels of each patch: less noise than one pixel, and a step stays a step.

    Args:
        distance: (h, w), NaN where nothing was measured.
        grid: (H, W).
        central: of each patch, take only the pixels whose centres lie in its central half, along either side.

    Returns:
        (H, W) float64, the lower median, NaN where none of the pixels that are taken was measured; and the measured
        share of these, (H, W) float64 in [0, 1], 0 also where a patch is smaller than a pixel and has none.
    """
    count = grid[0] * grid[1]
    (rows, of_rows), (columns, of_columns) = (
        _pixels_of(side, cells, central=central) for side, cells in zip(distance.shape, grid, strict=True)
    )
    distance = distance[np.ix_(of_rows, of_columns)]
    patches = (rows[:, None] * grid[1] + columns[None, :]).reshape(-1)
    values = distance.reshape(-1).astype(np.float64)
    valid = np.isfinite(values)
    pixels, measured = np.bincount(patches, minlength=count), np.bincount(patches[valid], minlength=count)
    # Sorted by patch and, within each, by value: the median stands in the middle of its patch.
    order = np.lexsort((values[valid], patches[valid]))
    starts = np.cumsum(measured) - measured
    has = measured > 0
    medians = np.full(count, np.nan)
    medians[has] = values[valid][order][(starts + (measured - 1) // 2)[has]]
    share = np.divide(measured, pixels, out=np.zeros(count), where=pixels > 0)
    return medians.reshape(grid), share.reshape(grid)


def clip_depth(depth: NDArray[np.float32], *, percent: float) -> NDArray[np.float32]:
    """Clip the nearest and the farthest share of a depth map and stretch the rest to [0, 1] (not in the paper).

    A few pixels far away, or wrong, flatten everything near; this undoes it.

    Args:
        depth: (h, w) in [0, 1], NaN where nothing was measured.
        percent: share that is clipped at either end, in [0, 50); 0 changes nothing.

    Returns:
        (h, w) float32 in [0, 1], NaN where it was; the input itself where it has no range left.
    """
    valid = depth[np.isfinite(depth)]
    if percent == 0 or not valid.size:
        return depth
    low, high = np.percentile(valid, [percent, 100.0 - percent])
    if high <= low:
        return depth
    return np.clip((depth - low) / (high - low), 0.0, 1.0).astype(np.float32)


def fill_holes(depth: NDArray[_Float]) -> NDArray[_Float]:
    """Give each missing pixel the value of the nearest valid one (Euclidean). Not in the paper.

    Args:
        depth: (h, w) floating, NaN where there is no measurement.

    Returns:
        (h, w) with no NaN, a new array of its type. The same map always gives the same answer, ties included.

    Raises:
        SampleError: no pixel is valid.
    """
    missing = ~np.isfinite(depth)
    if missing.all():
        raise SampleError("the depth map has no valid pixel")
    if not missing.any():
        return depth.copy()
    rows, columns = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return depth[rows, columns]


def depth_to_grid(
    depth: NDArray[np.floating], grid: tuple[int, int], *, sampling: DepthSampling
) -> NDArray[np.float32]:
    """Bring a depth map to patch resolution (Sec. 3.2; the paper does not say how).

    Args:
        depth: (h, w) in [0, 1], without holes.
        grid: (H, W).
        sampling: "nearest" takes the pixel at the patch's centre and keeps a step a step; "area" averages over the
            patch, which puts patches half-way between an object and what lies behind it and so bridges them.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        SampleError: the map holds NaN or infinite values.
    """
    values = np.ascontiguousarray(depth, dtype=np.float32)
    if not np.isfinite(values).all():
        raise SampleError("the depth map contains NaN or infinite values")
    if sampling == "nearest":
        rows, columns = _centres(values.shape, grid)
        return values[rows, columns]
    resized = cv2.resize(values, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return np.clip(np.asarray(resized, dtype=np.float32), 0.0, 1.0)


def _pixels_of(side: int, cells: int, *, central: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the patch of each pixel along one side, and those pixels: all, or those in the central half of theirs."""
    pixels = np.arange(side)
    patches = pixels * cells // side
    if central:
        # Where the pixel's centre lies in its patch, in units of which a patch is 2 * side wide: whole numbers.
        offsets = (2 * pixels + 1) * cells - 2 * side * patches
        kept = (side <= 2 * offsets) & (2 * offsets <= 3 * side)
        patches, pixels = patches[kept], pixels[kept]
    return patches, pixels


def _centres(size: tuple[int, ...], grid: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the row, (H, 1), and the column, (1, W), of the pixel at each patch's centre."""
    rows = ((np.arange(grid[0]) + 0.5) * size[0] / grid[0]).astype(np.intp)
    columns = ((np.arange(grid[1]) + 0.5) * size[1] / grid[1]).astype(np.intp)
    return rows[:, None], columns[None, :]
