"""The point cloud of LocalCut: the paper's, or one in perspective, and what its surface looks like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.grid import patch_distance

NORMAL_SIGMA = 0.8
"""Gaussian by which depth is smoothed before normals are taken from it, in patches."""


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


def perspective_cloud(distance: NDArray[np.floating], *, size: tuple[int, int], focal: float) -> NDArray[np.float64]:
    """Unproject metric depth so that distances between neighbours are true up to a local scale (not in the paper).

    On a surface at distance Z, neighbours whose rays differ by dx lie Z dx / f apart, and dZ in depth. In coordinates
    (x, y, f ln Z) both are divided by Z / f: a slope is the same near to the camera and far from it, whatever the
    farthest point of the photo is.

    Args:
        distance: (H, W) along the optical axis, over 0, no NaN; in any unit, which only shifts the cloud.
        size: (height, width) of the photo, whose longer side is 1 here.
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


def points_in_perspective(
    distance: NDArray[np.floating] | None, *, grid: tuple[int, int], settings: CutSettings
) -> NDArray[np.float64] | None:
    """Return the point cloud in perspective, where the settings ask for it and depth is metric.

    Args:
        distance: (h, w) along the optical axis, over 0, NaN where nothing was measured; None for relative depth.
        grid: (H, W).
        settings: of the cut.

    Returns:
        (H, W, 3) float64, or None.

    Raises:
        SampleError: no pixel is valid.
    """
    if distance is None or settings.cloud != "perspective":
        return None
    size = (distance.shape[0], distance.shape[1])
    return perspective_cloud(patch_distance(distance, grid), size=size, focal=settings.focal)


def surface_normals(cloud: NDArray[np.float64], *, sigma: float = NORMAL_SIGMA) -> NDArray[np.float64]:
    """Compute the normal of the surface at each patch, towards the camera (not in the paper).

    Args:
        cloud: (H, W, 3), at least 2x2.
        sigma: Gaussian by which z is smoothed first, in patches.

    Returns:
        (H, W, 3) float64, of length 1.
    """
    smooth = ndimage.gaussian_filter(cloud[..., 2], sigma, mode="nearest")
    down, right = np.gradient(smooth, cloud[1, 0, 1] - cloud[0, 0, 1], cloud[0, 1, 0] - cloud[0, 0, 0])
    normals = np.stack([right, down, -np.ones_like(smooth)], axis=-1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def edge_concavity(
    cloud: NDArray[np.float64],
    normals: NDArray[np.float64],
    *,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Compute how concave the surface is between the two ends of each edge (not in the paper).

    Where two convex objects meet, or an object and what it stands on, the surface is concave; an object's own surface
    mostly is not (Stein et al., Object Partitioning using Local Convexity, CVPR 2014).

    Args:
        cloud: (H, W, 3).
        normals: (H, W, 3), as `surface_normals` returns them.
        first, second: (E,) row-major indices of the ends.

    Returns:
        (E,) float64 in [-2, 2], over 0 where the surface is concave: -(n1 - n2) . (p1 - p2) / |p1 - p2|. 0 where both
        ends are one point.
    """
    points, directions = cloud.reshape(-1, 3), normals.reshape(-1, 3)
    between = points[first] - points[second]
    length = np.linalg.norm(between, axis=1)
    turn = np.einsum("ij,ij->i", directions[first] - directions[second], between)
    concavity: NDArray[np.float64] = -np.divide(turn, length, out=np.zeros_like(turn), where=length > 0)
    return concavity


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What LocalCut knows of the shape of a scene.

    Attributes:
        cloud: (H, W, 3) float64, (x, y, z) of each patch.
        level: z of points outside the semantic mask (Sec. 3.2).
        normals: (H, W, 3) float64, towards the camera; None where concave edges are kept.
    """

    cloud: NDArray[np.float64]
    level: float
    normals: NDArray[np.float64] | None = None

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


def surface_of(depth: NDArray[np.floating], points: NDArray[np.float64] | None, *, settings: CutSettings) -> Surface:
    """Choose the point cloud that the settings ask for.

    Args:
        depth: (H, W) in [0, 1], larger is farther, no NaN.
        points: (H, W, 3), the cloud in perspective; None where depth is not metric: then it is the paper's.
        settings: of the cut.

    Returns:
        The surface. In perspective, the background lies `background_level` behind the farthest point.
    """
    if settings.cloud == "perspective" and points is not None:
        cloud, level = points, float(points[..., 2].max()) + settings.background_level
    else:
        cloud, level = paper_cloud(depth), settings.background_level
    normals = None if settings.concavity == "off" else surface_normals(cloud)
    return Surface(cloud=cloud, level=level, normals=normals)
