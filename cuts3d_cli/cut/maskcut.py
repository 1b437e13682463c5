"""MaskCut (CutLER, CVPR 2023), the 2D baseline, with its rules as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.bipartition import bipartition, connected_component
from cuts3d_cli.cut.iterations import NO_STRUCTURE_REASON
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.cut.methods import Method
from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.perspective import Perspective
from cuts3d_cli.cut.types import Candidate
from cuts3d_cli.errors import SettingError

MAX_PREVIOUS_IOU = 0.5
MIN_AREA = 0.01
SETTINGS = ("instances", "tau_ncut", "eigensolver")
"""The settings of the cut that MaskCut reads."""


class MaskCut(Method):
    """MaskCut: the graph as it is, and the 2D connected component of the seed.

    Unlike in `CutS3D`, nodes that were found before stay in the graph with edges of `EPSILON`, and take part in
    everything. From the second iteration on, a mask that overlaps the one before with an IoU over 0.5, or covers at
    most 1 % of the grid, counts as empty. An empty mask removes nothing: the next iteration meets the same graph. Masks
    may overlap; see `subtract_earlier`.
    """

    ignores_found = False

    def title(self, settings: CutSettings) -> str:
        """Return the name."""
        return "MaskCut"

    def unread(self, settings: CutSettings) -> dict[str, str]:
        """Return all settings but the few that MaskCut has."""
        return {item.name: "method" for item in fields(CutSettings) if item.name not in SETTINGS}

    def rules(
        self,
        depth: NDArray[np.float32] | None,
        *,
        grid: tuple[int, int],
        settings: CutSettings,
        view: Perspective | None = None,
    ) -> MaskCutRules:
        """Return the rules for one image; see `Method.rules`."""
        if settings.instances == "all":
            raise SettingError("pseudo.instances", "is 'all': MaskCut needs a number, it does not know when to stop")
        return MaskCutRules(grid=grid, instances=settings.instances)


@dataclass(frozen=True, kw_only=True)
class MaskCutRules:
    """MaskCut's rules on one image: see `MaskCut`, and `cuts3d_cli.cut.methods.Rules`.

    Attributes:
        grid: (H, W).
        instances: N, the number of iterations.
    """

    grid: tuple[int, int]
    instances: int

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        """Return whether all iterations are done."""
        return len(found) == self.instances

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        """Return None: nodes that were found stay in the graph."""
        return None

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        """Return (H, W) bool: the nodes of all masks so far; an empty one removes nothing."""
        painted = np.zeros(self.grid, dtype=bool)
        for item in found:
            if item.dropped is None:
                painted |= item.mask
        return painted

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Sequence[Candidate] | str:
        """Return the mask that the next eigenvector leads to, or why there is none."""
        split = bipartition(pair.vector, self.grid) if pair.has_structure else None
        if split is None:
            return NO_STRUCTURE_REASON
        mask = connected_component(split.mask, split.seed)
        candidate = Candidate(
            iteration=len(found),
            bipartition=split.mask,
            mask=mask,
            source=split.seed,
            sink=None,
            vector=pair.vector.reshape(self.grid),
            dropped=_rejection(mask, self._previous(found)) if found else None,
        )
        return [candidate]

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
