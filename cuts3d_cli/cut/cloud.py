"""The point cloud of LocalCut: the paper's, or one in perspective, and what its surface looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NORMAL_SIGMA = 0.8
"""Gaussian by which depth is smoothed before normals are taken from it, in patches."""
SURROUNDINGS_SIGMA = 3.0
"""Gaussian over the surroundings with which a concave edge is compared, in patches."""


def paper_cloud(depth: NDArray[np.floating]) -> NDArray[np.float64]:
    """Unproject a depth map orthographically (Sec. 3.2).

    x and y run over [0, 1], as does the depth (the scale is not given in the paper).

    Args:
        depth: (H, W) in [0, 1], larger is farther, no NaN.

    Returns:
        (H, W, 3) float64, (x, y, z) of each patch.
    """
    height, width = depth.shape
    y, x = np.meshgrid(np.linspace(0.0, 1.0, height), np.linspace(0.0, 1.0, width), indexing="ij")
    return np.stack([x, y, depth.astype(np.float64)], axis=-1)


def perspective_cloud(
    distance: NDArray[np.floating], *, size: tuple[float, float], focal: float
) -> NDArray[np.float64]:
    """Unproject metric depth so that distances between neighbours are true up to a local scale (not in the paper).

    On a surface at distance Z, neighbours whose rays differ by dx lie Z dx / f apart, and dZ in depth. In coordinates
    (x, y, f ln Z) both are divided by Z / f: a slope is the same near to the camera and far from it, whatever the
    farthest point of the photo is.

    Args:
        distance: (H, W) along the optical axis, over 0, no NaN; in any unit, which only shifts the cloud.
        size: (height, width) of the photo, whose longer side is 1 here. Where pixels are not square, what is seen
            along each side at one focal length; see `cuts3d_cli.cut.focal.seen_by`.
        focal: the focal length in units of the longer side.

    Returns:
        (H, W, 3) float64, (x, y, f ln Z) of each patch.

    Raises:
        ValueError: a distance is not over 0.
    """
    if not (distance > 0).all():
        raise ValueError("distances in perspective must lie over 0")
    cloud = paper_cloud(distance)
    cloud[..., 0] *= size[1] / max(size)
    cloud[..., 1] *= size[0] / max(size)
    cloud[..., 2] = focal * np.log(cloud[..., 2])
    return cloud


def surface_normals(cloud: NDArray[np.float64], *, sigma: float = NORMAL_SIGMA) -> NDArray[np.float64]:
    """Compute the normal of the surface at each patch, towards the camera (not in the paper).

    Args:
        cloud: (H, W, 3), at least 2x2.
        sigma: Gaussian by which z is smoothed first, in patches.

    Returns:
        (H, W, 3) float64, of length 1.
    """
    smooth = _smooth(cloud[..., 2], sigma)
    down, right = np.gradient(smooth, cloud[1, 0, 1] - cloud[0, 0, 1], cloud[0, 1, 0] - cloud[0, 0, 0])
    normals = np.stack([right, down, -np.ones_like(smooth)], axis=-1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def mean_curvature_around(
    cloud: NDArray[np.float64], normals: NDArray[np.float64], *, sigma: float = SURROUNDINGS_SIGMA
) -> NDArray[np.float64]:
    """Compute how the normals turn around each patch: the derivatives of their x and y, averaged (not in the paper).

    Args:
        cloud: (H, W, 3), at least 2x2.
        normals: (H, W, 3), as `surface_normals` returns them.
        sigma: Gaussian of the average, in patches.

    Returns:
        (H, W, 3) float64: a, b, c such that along (dx, dy) the normal turns by (a dx^2 + b dx dy + c dy^2) / length.
    """
    steps = cloud[1, 0, 1] - cloud[0, 0, 1], cloud[0, 1, 0] - cloud[0, 0, 0]
    (x_down, x_right), (y_down, y_right) = (np.gradient(normals[..., axis], *steps) for axis in (0, 1))
    turns = (x_right, x_down + y_right, y_down)
    return np.stack([ndimage.gaussian_filter(turn, sigma, mode="nearest") for turn in turns], axis=-1)


def edge_concavity(surface: Surface, *, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute how much more concave the surface is between the two ends of each edge than around them.

    Where two convex objects meet, or an object and what it stands on, the surface is concave; an object's own surface
    mostly is not (Stein et al., Object Partitioning using Local Convexity, CVPR 2014). What the surroundings are too,
    as the inside of a bowl, is taken off (not in the paper, either of them).

    Args:
        surface: with normals.
        first, second: (E,) row-major indices of the ends.

    Returns:
        (E,) float64, over 0 where the surface is concave: -(n1 - n2) . (p1 - p2) / |p1 - p2|, less what the curvature
        around the ends gives for an edge of that length. 0 where both ends are one point.

    Raises:
        ValueError: the surface has no normals.
    """
    if surface.normals is None or surface.around is None:
        raise ValueError("concave edges need normals")
    points, directions, around = (item.reshape(-1, 3) for item in (surface.cloud, surface.normals, surface.around))
    between = points[first] - points[second]
    length = np.linalg.norm(between, axis=1)
    turn = -np.einsum("ij,ij->i", directions[first] - directions[second], between)
    across, down = between[:, 0], between[:, 1]
    powers = np.stack([across**2, across * down, down**2], axis=-1)
    usual = -np.einsum("ij,ij->i", (around[first] + around[second]) / 2, powers)
    excess = turn - np.maximum(usual, 0.0)
    concavity: NDArray[np.float64] = np.divide(excess, length, out=np.zeros_like(turn), where=length > 0)
    return concavity


def _smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Smooth (H, W) values that go on beyond the border as they come to it, so that a slope stays one there."""
    margin = [min(math.ceil(4.0 * sigma), side - 1) for side in values.shape]
    padded = np.pad(values, [(size, size) for size in margin], mode="reflect", reflect_type="odd")
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(padded, sigma, mode="nearest")
    return smooth[margin[0] : -margin[0], margin[1] : -margin[1]]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What LocalCut knows of the shape of a scene.

    Attributes:
        cloud: (H, W, 3) float64, (x, y, z) of each patch.
        level: z of points outside the semantic mask (Sec. 3.2).
        normals: (H, W, 3) float64, towards the camera; None where concave edges are kept.
        around: (H, W, 3) float64, how they turn around each patch, see `mean_curvature_around`; None with them.
        fine: the same scene on a finer grid, (s H, s W); None where masks are not taken apart.
    """

    cloud: NDArray[np.float64]
    level: float
    normals: NDArray[np.float64] | None = None
    around: NDArray[np.float64] | None = None
    fine: Surface | None = None

    @property
    def spacing(self) -> float:
        """The distance between diagonal neighbours on the grid, as seen: without their depth."""
        step = self.cloud[1, 1, :2] - self.cloud[0, 0, :2]
        return math.hypot(*step)

    def masked(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the points with those outside the semantic mask, (H, W) bool, at the background level.

        Returns:
            (K, 3) float64, rows (x, y, z) in row-major order.
        """
        points = self.cloud.copy()
        points[~mask, 2] = self.level
        return points.reshape(-1, 3)
