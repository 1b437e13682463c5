"""MaskCut (CutLER, CVPR 2023), the 2D baseline, with its rules as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.affinity import binarise, cosine_affinity
from cuts3d_cli.cut.bipartition import bipartition, connected_component
from cuts3d_cli.cut.cuts3d import NO_STRUCTURE_REASON
from cuts3d_cli.cut.iterations import run_iterations
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.cut.ncut import Eigenpair, Eigensolver, solve_ncut
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.timing import StepTimer

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

    def solve(removed: NDArray[np.bool_]) -> Eigenpair:
        return solve_ncut(edges, removed=removed.reshape(-1), solver=eigensolver)

    return run_iterations(MaskCutRules(grid=grid, instances=instances), solve=solve, timer=timer)


@dataclass(frozen=True, kw_only=True)
class MaskCutRules:
    """MaskCut's rules on one image: see `extract_maskcut`, and `cuts3d_cli.cut.iterations.Rules`.

    Attributes:
        grid: (H, W).
        instances: N, the number of iterations.
    """

    grid: tuple[int, int]
    instances: int

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        """Whether all iterations are done."""
        return len(found) == self.instances

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        """None: nodes that were found stay in the graph."""
        return None

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        """(H, W) bool: the nodes of all masks so far; an empty one removes nothing."""
        painted = np.zeros(self.grid, dtype=bool)
        for item in found:
            if item.dropped is None:
                painted |= item.mask
        return painted

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Candidate | str:
        """The mask that the next eigenvector leads to, or why there is none."""
        split = bipartition(pair.vector, self.grid) if pair.has_structure else None
        if split is None:
            return NO_STRUCTURE_REASON
        mask = connected_component(split.mask, split.seed)
        return Candidate(
            iteration=len(found),
            bipartition=split.mask,
            mask=mask,
            source=split.seed,
            sink=None,
            vector=pair.vector.reshape(self.grid),
            dropped=_rejection(mask, self._previous(found)) if found else None,
        )

    def _previous(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        last = found[-1]
        return np.zeros(self.grid, dtype=bool) if last.dropped else last.mask


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
