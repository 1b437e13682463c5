"""MaskCut (CutLER, CVPR 2023), the 2D baseline, with its rules as published."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.affinity import binarise, cosine_affinity
from cuts3d_cli.cut.bipartition import bipartition, connected_component
from cuts3d_cli.cut.cuts3d import NO_STRUCTURE_REASON
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.cut.ncut import Eigensolver, solve_ncut
from cuts3d_cli.cut.timing import StepTimer
from cuts3d_cli.cut.types import Candidate, Extraction

MAX_PREVIOUS_IOU = 0.5
MIN_AREA = 0.01


def extract_maskcut(
    features: NDArray[np.floating],
    *,
    instances: int,
    tau_ncut: float,
    eigensolver: Eigensolver,
) -> Extraction:
    """Cut an image into at most `instances` masks with MaskCut's rules.

    Unlike in `extract_cuts3d`, nodes that were found before stay in the graph with edges of `EPSILON`, and take part in
    everything. From the second iteration on, a mask that overlaps the one before with an IoU over 0.5, or covers at
    most 1 % of the grid, counts as empty. An empty mask removes nothing: the next iteration meets the same graph.

    Args:
        features: (C, H, W).
        instances: N, the number of iterations.
        tau_ncut: threshold of the binarised graph.
        eigensolver: see `solve_ncut`.

    Returns:
        The candidates. Their masks may overlap; see `subtract_earlier`.

    Raises:
        SampleError: the features are not finite or all zero.
    """
    timer = StepTimer()
    grid = (features.shape[1], features.shape[2])
    with timer.step("affinity"):
        edges = binarise(cosine_affinity(features), tau_ncut=tau_ncut).astype(np.float64)
    painted = np.zeros(grid, dtype=bool)
    previous = np.zeros(grid, dtype=bool)
    candidates: list[Candidate] = []
    fallbacks = 0
    stopped = None
    for iteration in range(instances):
        with timer.step("eigen"):
            pair = solve_ncut(edges, removed=painted.reshape(-1), solver=eigensolver)
        fallbacks += pair.fell_back
        with timer.step("cut"):
            split = bipartition(pair.vector, grid) if pair.has_structure else None
            if split is None:
                stopped = NO_STRUCTURE_REASON
                break
            mask = connected_component(split.mask, split.seed)
            dropped = _rejection(mask, previous) if iteration else None
            candidates.append(
                Candidate(
                    iteration=iteration,
                    bipartition=split.mask,
                    mask=mask,
                    source=split.seed,
                    sink=None,
                    vector=pair.vector.reshape(grid),
                    dropped=dropped,
                )
            )
            previous = np.zeros(grid, dtype=bool) if dropped else mask
            painted |= previous
    return Extraction(candidates=candidates, stopped=stopped, fallbacks=fallbacks, seconds=timer.seconds)


def subtract_earlier(masks: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """Take from each mask what the masks before it cover, as MaskCut does when it enlarges them.

    Args:
        masks: each (H, W) bool, in order of iteration.

    Returns:
        As many masks of the same shape, disjoint; some may be empty.
    """
    covered = np.zeros_like(masks[0]) if masks else np.zeros((0, 0), dtype=bool)
    disjoint = []
    for mask in masks:
        disjoint.append(mask & ~covered)
        covered = covered | disjoint[-1]
    return disjoint


def _rejection(mask: NDArray[np.bool_], previous: NDArray[np.bool_]) -> str | None:
    if mask_iou(mask, previous) > MAX_PREVIOUS_IOU:
        return "repeats the mask before"
    if mask.mean() <= MIN_AREA:
        return "too small"
    return None
