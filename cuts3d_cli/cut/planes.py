"""Planes of a scene, and which of them are background: table, floor and wall (not in the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cuts3d_cli.cut.background import border_contact

PLANE_TOLERANCE = 0.3
"""How far a patch may lie from a plane, in diagonal spacings of the grid."""
PLANE_CONTACT = 0.25
"""A plane is background where its contact with the border is over this; see `border_contact`."""
MOST_PLANES = 3
"""Most planes that are looked for."""
SMALLEST_PIECE = 4
"""Pieces of a plane with fewer patches are left to the objects: they lie on its level by chance."""
_TRIALS = 600
_REFINEMENTS = 3
_FLAT = 1e-3


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A plane in an image.

    Attributes:
        coefficients: (3,) float64: the inverse distance is a x + b y + c, with x and y in [0, 1) over the grid.
        inliers: (H, W) bool, the patches that lie on it.
    """

    coefficients: NDArray[np.float64]
    inliers: NDArray[np.bool_]


def find_planes(
    distance: NDArray[np.float64], measured: NDArray[np.bool_], *, tolerance: float, smallest: float
) -> list[Plane]:
    """Find the planes of a scene, largest first, by RANSAC with fixed draws and a least-squares fit.

    The inverse distance of a plane is linear in the image, whatever the focal length, and so are the steps of a
    disparity sensor: planes near and far are found alike.

    Args:
        distance: (H, W) along the optical axis, over 0.
        measured: (H, W) bool, patches with a measurement; others lie on no plane.
        tolerance: largest difference of ln Z to a plane.
        smallest: a plane covers at least this share of all patches.

    Returns:
        At most `MOST_PLANES`, of disjoint patches.
    """
    height, width = distance.shape
    y, x = np.mgrid[0:height, 0:width]
    rays = np.stack([x.reshape(-1) / width, y.reshape(-1) / height, np.ones(distance.size)], axis=1)
    # A plane's rows times its coefficients are 1: errors are relative ones.
    rows = rays * np.where(measured, distance, 1.0).reshape(-1, 1)
    left = measured.reshape(-1).copy()
    chance = np.random.default_rng(0)
    found: list[Plane] = []
    while len(found) < MOST_PLANES and np.count_nonzero(left) >= max(3.0, smallest * distance.size):
        coefficients = _best_of_triples(rays, rows, np.flatnonzero(left), chance=chance, tolerance=tolerance)
        if coefficients is None:
            break
        # Fit to all inliers, and look again which they are.
        for _ in range(_REFINEMENTS):
            inliers = left & _on_plane(rows, coefficients, tolerance=tolerance)
            if np.count_nonzero(inliers) < 3:
                break
            coefficients = np.linalg.lstsq(rows[inliers], np.ones(np.count_nonzero(inliers)), rcond=None)[0]
        inliers = left & _on_plane(rows, coefficients, tolerance=tolerance)
        if np.count_nonzero(inliers) < smallest * distance.size:
            break
        found.append(Plane(coefficients=coefficients, inliers=inliers.reshape(distance.shape)))
        left &= ~inliers
    return found


def background_planes(
    distance: NDArray[np.float64], measured: NDArray[np.bool_], *, spacing: float, focal: float, smallest: float
) -> NDArray[np.bool_]:
    """Mark the patches of planes that lie along the border of the photo: what everything else stands on or before.

    The face of a box is a plane as well, but rarely a large one that the photo cuts off along much of its outline.

    Args:
        distance, measured, smallest: see `find_planes`.
        spacing: of the grid, see `cuts3d_cli.cut.cloud.Surface`.
        focal: the focal length, in the unit of the spacing.

    Returns:
        (H, W) bool.
    """
    background = np.zeros(distance.shape, dtype=bool)
    for plane in find_planes(distance, measured, tolerance=PLANE_TOLERANCE * spacing / focal, smallest=smallest):
        if border_contact(plane.inliers) > PLANE_CONTACT:
            labels, _ = ndimage.label(plane.inliers, structure=np.ones((3, 3)))
            large = np.bincount(labels.reshape(-1)) >= SMALLEST_PIECE
            large[0] = False
            background |= large[labels]
    return background


def _best_of_triples(
    rays: NDArray[np.float64],
    rows: NDArray[np.float64],
    nodes: NDArray[np.int64],
    *,
    chance: np.random.Generator,
    tolerance: float,
) -> NDArray[np.float64] | None:
    """Return the plane through three nodes, of several drawn ones, that most nodes lie on; None if none is one."""
    triples = nodes[chance.integers(0, len(nodes), (_TRIALS, 3))]
    triples = triples[np.abs(np.linalg.det(rays[triples])) > _FLAT]
    if not len(triples):
        return None
    candidates = np.linalg.solve(rows[triples], np.ones((len(triples), 3, 1)))[..., 0]
    counts = [np.count_nonzero(_on_plane(rows[nodes], item, tolerance=tolerance)) for item in candidates]
    best: NDArray[np.float64] = candidates[int(np.argmax(counts))]
    return best


def _on_plane(rows: NDArray[np.float64], coefficients: NDArray[np.float64], *, tolerance: float) -> NDArray[np.bool_]:
    """Return which rows, (K, 3), lie on a plane: the ratio of the two distances is near to 1."""
    ratio = rows @ coefficients
    on_plane: NDArray[np.bool_] = (ratio > np.exp(-tolerance)) & (ratio < np.exp(tolerance))
    return on_plane
