"""What the cut knows of a photo with metric depth: its point cloud in perspective, finer depth, and planes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.cloud import (
    SURROUNDINGS_SIGMA,
    Surface,
    mean_curvature_around,
    paper_cloud,
    perspective_cloud,
    surface_normals,
)
from cuts3d_cli.cut.focal import Focal, seen_by
from cuts3d_cli.cut.grid import fill_holes, patch_distance, patch_medians
from cuts3d_cli.cut.noise import depth_noise, steady_focal
from cuts3d_cli.cut.planes import background_planes

NOISY_NOTE = "is noisy: it is taken as less steep than the focal length says, so that surfaces stay whole"
"""What is said, after "the depth", where noise flattens the point cloud."""
RELATIVE_NOTE = "the depth is relative: cut in the paper's point cloud, since perspective needs metres"
"""What is said where the settings ask for perspective and depth is not metric."""
MEASURED_SHARE = 0.25
"""A cell of the fine grid with a smaller share of measured pixels gets the depth of the nearest one that has more."""


@dataclass(frozen=True, kw_only=True)
class Perspective:
    """A photo with metric depth, as the cut takes it (not in the paper).

    Attributes:
        points: (H, W, 3) float64, the point cloud in perspective, see `perspective_cloud`.
        fine: (s H, s W, 3) float64, the same on a finer grid; None where masks are not taken apart.
        planes: (H, W) bool, the patches of planes that are background; None where planes are not looked for.
        measured: (H, W) float64 in [0, 1], the share of each patch's pixels with a measurement; None where nothing
            asks for it.
        focal: the photo's own focal length, if the cloud was made with it; None for that of the settings, or the
            default.
        flattened: whether depth is so noisy that the cloud is less steep than its focal length makes it, see
            `cuts3d_cli.cut.noise.steady_focal`.
    """

    points: NDArray[np.float64]
    fine: NDArray[np.float64] | None = None
    planes: NDArray[np.bool_] | None = None
    measured: NDArray[np.float64] | None = None
    focal: Focal | None = None
    flattened: bool = False


def in_perspective(
    distance: NDArray[np.floating] | None,
    *,
    grid: tuple[int, int],
    settings: CutSettings,
    focal: Focal | None = None,
) -> Perspective | None:
    """Bring metric depth to what the settings ask for, where they ask for perspective.

    Args:
        distance: (h, w) along the optical axis, over 0, NaN where nothing was measured; None for relative depth.
        grid: (H, W).
        settings: of the cut.
        focal: the photo's own focal length, if it is known; that of the settings goes before it.

    Returns:
        The cloud and what goes with it, or None.

    Raises:
        SampleError: no pixel is valid.
    """
    if distance is None or settings.cloud != "perspective":
        return None
    focal = focal if settings.focal == "auto" else None
    length, size = seen_by(focal, size=(distance.shape[0], distance.shape[1]), settings=settings)
    values = patch_distance(distance, grid)
    points = perspective_cloud(values, size=size, focal=length)
    medians, measured = patch_medians(distance, grid)
    fine = planes = None
    finest, known = points, np.where(measured > 0, values, np.nan)
    if settings.parts != "off":
        cells = (grid[0] * settings.parts, grid[1] * settings.parts)
        fine_medians, share = patch_medians(distance, cells)
        enough = share >= MEASURED_SHARE
        known = np.where(enough, fine_medians, np.nan) if enough.any() else fine_medians
        finest = fine = perspective_cloud(fill_holes(known), size=size, focal=length)
    if settings.planes != "off":
        spacing = _spacing(points)
        planes = background_planes(medians, measured > 0, spacing=spacing, focal=length, smallest=settings.planes)

    # The finest grid shows most of the noise.
    steady = steady_focal(length, noise=depth_noise(known), step=_spacing(finest) / math.sqrt(2.0))
    if steady < length:
        for cloud in (points,) if fine is None else (points, fine):
            cloud[..., 2] *= steady / length
    asked = settings.planes != "off" or settings.measured != "off"
    return Perspective(
        points=points,
        fine=fine,
        planes=planes,
        measured=measured if asked else None,
        focal=focal,
        flattened=steady < length,
    )


def _spacing(points: NDArray[np.float64]) -> float:
    """Return the distance between diagonal neighbours of a cloud on a grid, as seen: without their depth."""
    return float(np.hypot(*(points[1, 1, :2] - points[0, 0, :2])))


def surface_of(depth: NDArray[np.floating], view: Perspective | None, *, settings: CutSettings) -> Surface:
    """Choose the point cloud that the settings ask for.

    Args:
        depth: (H, W) in [0, 1], larger is farther, no NaN.
        view: metric depth in perspective; None where depth is not metric: then the cloud is the paper's.
        settings: of the cut.

    Returns:
        The surface. In perspective, the background lies `background_level` behind the farthest point.
    """
    if view is None or settings.cloud != "perspective":
        return _surface(paper_cloud(depth), level=settings.background_level, settings=settings)
    fine = None
    if view.fine is not None:
        scale = len(view.fine) // len(view.points)
        fine = _surface(view.fine, level=_level(view.fine, settings), settings=settings, scale=scale)
    return _surface(view.points, level=_level(view.points, settings), settings=settings, fine=fine)


def _level(points: NDArray[np.float64], settings: CutSettings) -> float:
    return float(points[..., 2].max()) + settings.background_level


def _surface(
    cloud: NDArray[np.float64], *, level: float, settings: CutSettings, scale: int = 1, fine: Surface | None = None
) -> Surface:
    """Return a surface, with normals where the settings ask for them; its grid is `scale` times that of the patches."""
    if settings.concavity == "off":
        return Surface(cloud=cloud, level=level, fine=fine)
    normals = surface_normals(cloud)
    around = mean_curvature_around(cloud, normals, sigma=SURROUNDINGS_SIGMA * scale)
    return Surface(cloud=cloud, level=level, normals=normals, around=around, fine=fine)
