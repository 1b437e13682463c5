"""A view of the point cloud that LocalCut works on (paper: Sec. 3.2). The drawing is not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.figures.palette import RGB, instance_colours

_YAW, _PITCH = np.deg2rad(38.0), np.deg2rad(20.0)
_ROOM = 0.06
_BOX: RGB = (200, 204, 210)


def cloud_view(
    image: NDArray[np.uint8],
    depth: NDArray[np.floating[Any]],
    masks: Sequence[NDArray[np.bool_]],
    *,
    size: tuple[int, int],
    colours: Sequence[RGB] | None = None,
) -> NDArray[np.uint8]:
    """Draw the pixels as points at (x, y, depth), seen obliquely from above and from the right.

    The projection is orthographic, like the point cloud of the paper, and separates objects at different depths.

    Args:
        image: (h, w, 3) uint8, RGB, the colours of the points.
        depth: (h, w) float in [0, 1], larger is farther; points with NaN are left out.
        masks: (h, w) bool each; their points are tinted with `colours`.
        size: height and width of the picture, pixels.
        colours: one per mask; None takes `instance_colours`.

    Returns:
        (height, width, 3) uint8, RGB, on white.
    """
    if colours is None:
        colours = instance_colours(len(masks))
    height, width = image.shape[:2]
    aspect = width / height
    # Tint the points of the masks.
    tinted = image.astype(np.float32)
    for mask, tint in zip(masks, colours, strict=False):
        tinted[mask] = 0.45 * image[mask] + 0.55 * np.asarray(tint, np.float32)
    # Place the points in a box around the origin, of unit height and depth.
    rows, columns = np.nonzero(np.isfinite(depth))
    points = np.stack(
        [
            ((columns + 0.5) / width - 0.5) * aspect,
            (rows + 0.5) / height - 0.5,
            np.clip(depth[rows, columns], 0, 1) - 0.5,
        ],
        axis=1,
    )
    # Fit the projected box into the picture.
    corners = np.array([[x, y, z] for x in (-aspect, aspect) for y in (-1, 1) for z in (-1, 1)]) / 2
    seen_corners, _ = _project(corners)
    low, high = seen_corners.min(axis=0), seen_corners.max(axis=0)
    scale = (1 - 2 * _ROOM) * min(size[1] / (high[0] - low[0]), size[0] / (high[1] - low[1]))
    middle = (low + high) / 2
    centre = np.array([size[1], size[0]]) / 2

    # Draw the twelve edges of the box.
    canvas = np.full((*size, 3), 255, dtype=np.uint8)
    placed = np.rint(((seen_corners - middle) * scale + centre) * 16).astype(int)
    for a in range(8):
        for bit in (1, 2, 4):
            if not a & bit:
                cv2.line(canvas, tuple(map(int, placed[a])), tuple(map(int, placed[a | bit])), _BOX, 1, cv2.LINE_AA, 4)
    # Paint the points from the farthest to the nearest.
    seen, away = _project(points)
    pixels = (seen - middle) * scale + centre
    order = np.argsort(-away, kind="stable")
    at = np.floor(pixels[order]).astype(np.intp)
    colour = np.clip(tinted[rows[order], columns[order]], 0, 255).astype(np.uint8)
    # Make each as large as the distance of its neighbours, so that surfaces have no gaps.
    dot = max(int(np.ceil(scale / height)), 1)
    down, right = np.divmod(np.arange(dot * dot), dot)
    y, x = (at[:, 1, None] + down).ravel(), (at[:, 0, None] + right).ravel()
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    canvas[y[inside], x[inside]] = np.repeat(colour, dot * dot, axis=0)[inside]
    return canvas


def _project(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project (n, 3) points (right, down, far) to (n, 2) picture coordinates (right, down) and (n,) distances."""
    x, y, z = points.T
    turned_x = x * np.cos(_YAW) + z * np.sin(_YAW)
    turned_z = -x * np.sin(_YAW) + z * np.cos(_YAW)
    down = y * np.cos(_PITCH) - turned_z * np.sin(_PITCH)
    away = y * np.sin(_PITCH) + turned_z * np.cos(_PITCH)
    return np.stack([turned_x, down], axis=1), away
