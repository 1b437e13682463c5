"""Takes a mask apart into the surfaces that it consists of, on a finer grid than that of the patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cuts3d_cli.cut.cloud import Surface, edge_concavity

PARTS_COVER = 0.5
"""A mask is taken apart where its large parts cover at least this share of it: what falls to dust is one."""


def take_apart(
    mask: NDArray[np.bool_], fine: Surface, *, tau_knn: float, concavity: float | None, min_area: float
) -> list[NDArray[np.bool_]]:
    """Take a mask apart along steps in depth and concave edges that its patches are too coarse for (not in the paper).

    Args:
        mask: (H, W) bool, at least one patch.
        fine: the surface on a grid of (s H, s W), for a whole s.
        tau_knn: longest edge kept between neighbours of the fine grid.
        concavity: most concave edge kept; None keeps all.
        min_area: share of the grid that a part must cover more of.

    Returns:
        The parts, (H, W) bool each, largest first: disjoint, and together the mask. The mask alone where there are
        fewer than two large parts, or where they cover too little of it.
    """
    scale = fine.cloud.shape[0] // mask.shape[0]
    inside = np.repeat(np.repeat(mask, scale, axis=0), scale, axis=1)
    labels = _surfaces(inside, fine, tau_knn=tau_knn, concavity=concavity)

    # The large parts, largest first; label 0 is outside.
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    large = [int(label) for label in np.argsort(-sizes, kind="stable") if sizes[label] > min_area * labels.size]
    if len(large) < 2 or sizes[large].sum() < PARTS_COVER * np.count_nonzero(inside):
        return [mask]

    # What belongs to none of them goes to the one that is nearest in space; a patch, to the part that has most of it.
    number = np.zeros(len(sizes), dtype=np.int64)
    number[large] = np.arange(1, len(large) + 1)
    owner = number[labels].reshape(-1)
    points, rest = fine.cloud.reshape(-1, 3), inside.reshape(-1) & (owner == 0)
    if rest.any():
        owned = np.flatnonzero(owner)
        owner[rest] = owner[owned[cKDTree(points[owned]).query(points[rest])[1]]]
    cells = owner.reshape(mask.shape[0], scale, mask.shape[1], scale)
    shares = np.stack([(cells == item).sum(axis=(1, 3)) for item in range(1, len(large) + 1)])
    chosen = shares.argmax(axis=0)
    parts = [mask & (chosen == item) for item in range(len(large))]
    return [part for part in parts if part.any()]


def parts_of(
    mask: NDArray[np.bool_], surface: Surface, *, tau_knn: float, concavity: float | None, min_area: float
) -> list[NDArray[np.bool_]]:
    """Take a mask apart as `take_apart`, where the surface is known on a finer grid.

    Args:
        mask: (H, W) bool, at least one patch.
        surface: of the patches.
        tau_knn: longest edge kept between patches; on the finer grid it is as much shorter as its spacing.
        concavity, min_area: see `take_apart`.

    Returns:
        The parts; the mask alone where there is no finer grid.
    """
    if surface.fine is None:
        return [mask]
    tau_knn *= surface.fine.spacing / surface.spacing
    return take_apart(mask, surface.fine, tau_knn=tau_knn, concavity=concavity, min_area=min_area)


def part_with(parts: list[NDArray[np.bool_]], node: int) -> NDArray[np.bool_]:
    """Return the part that holds a node, a row-major index.

    Raises:
        ValueError: none does.
    """
    for part in parts:
        if part.reshape(-1)[node]:
            return part
    raise ValueError(f"node {node} lies in no part")


def _surfaces(
    inside: NDArray[np.bool_], fine: Surface, *, tau_knn: float, concavity: float | None
) -> NDArray[np.int64]:
    """Label the connected surfaces, (sH, sW), from 1; 0 is outside."""
    nodes = np.arange(inside.size).reshape(inside.shape)
    # Each of the eight neighbours once.
    pairs = [
        (nodes[:, :-1], nodes[:, 1:]),
        (nodes[:-1], nodes[1:]),
        (nodes[:-1, :-1], nodes[1:, 1:]),
        (nodes[:-1, 1:], nodes[1:, :-1]),
    ]
    first = np.concatenate([pair[0].reshape(-1) for pair in pairs])
    second = np.concatenate([pair[1].reshape(-1) for pair in pairs])
    both = inside.reshape(-1)[first] & inside.reshape(-1)[second]
    first, second = first[both], second[both]
    points = fine.cloud.reshape(-1, 3)
    kept = np.linalg.norm(points[first] - points[second], axis=1) <= tau_knn
    if concavity is not None and fine.normals is not None:
        kept &= edge_concavity(fine, first=first, second=second) <= concavity
    edges = (np.ones(np.count_nonzero(kept), dtype=bool), (first[kept], second[kept]))
    _, labels = connected_components(coo_matrix(edges, shape=(inside.size, inside.size)), directed=False)
    compact = np.unique(np.where(inside.reshape(-1), labels + 1, 0), return_inverse=True)[1].reshape(inside.shape)
    return compact if not inside.all() else compact + 1
