"""CutS3D's extraction: Normalized Cut on a sharpened graph, then LocalCut, one instance an iteration (Sec. 3.1-3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.affinity import binarise, cosine_affinity
from cuts3d_cli.cut.bipartition import Bipartition, bipartition, connected_component, core
from cuts3d_cli.cut.iterations import run_iterations
from cuts3d_cli.cut.localcut import Capacity, Sink, Source, choose_sink, grid_spacing, local_cut
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.cut.mincut import MinCutSolver
from cuts3d_cli.cut.ncut import TIE_TOLERANCE, Eigenpair, Eigensolver, solve_ncut
from cuts3d_cli.cut.sharpening import Pairing, sharpened_edges, spatial_importance
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.errors import UsageError
from cuts3d_cli.timing import StepTimer

Separation = Literal["local", "component"]

REST_REASON = "the cut predicts the rest of the image"
NO_STRUCTURE_REASON = "the semantic graph has no structure to cut"


@dataclass(frozen=True, kw_only=True)
class CutParameters:
    """Parameters of `extract_cuts3d`; `cuts3d_cli.config` holds their defaults and meaning."""

    instances: int
    tau_ncut: float
    tau_knn: float
    sharpen: bool
    beta: float
    sigma: float
    pairing: Pairing
    separation: Separation
    source: Source
    core_share: float
    sink: Sink
    knn: int
    background_level: float
    capacity: Capacity
    min_cut_solver: MinCutSolver
    eigensolver: Eigensolver
    min_area: float
    rest_iou: float
    retries: int


def check_tau_knn(tau_knn: float, grid: tuple[int, int]) -> None:
    """Refuse a threshold that takes every object apart (not in the paper).

    Raises:
        UsageError: tau_knn is under the distance of diagonal neighbours on the grid.
    """
    spacing = grid_spacing(grid)
    if tau_knn < spacing:
        raise UsageError(
            f"--tau-knn {tau_knn:g} is under the diagonal spacing of the {grid[0]}x{grid[1]} grid, {spacing:.4f},"
            " and would take every object apart: raise it, or give the backbone a larger --size"
        )


def extract_cuts3d(
    features: NDArray[np.floating],
    depth: NDArray[np.floating] | None,
    *,
    parameters: CutParameters,
) -> Extraction:
    """Cut an image into at most `parameters.instances` instances.

    Each iteration solves the Normalized Cut on what is left, and removes the instance that it found, also one that is
    dropped for its size: the next iteration would find it again. Up to `parameters.retries` further iterations make up
    for dropped ones (not in the paper). It stops early when a cut predicts "the rest", the
    inverse of all instances so far.

    Args:
        features: (C, H, W).
        depth: (H, W) in [0, 1], larger is farther, no NaN. None only if neither sharpening nor LocalCut is asked for.
        parameters: the method's parameters.

    Returns:
        The candidates; their masks are disjoint.

    Raises:
        SampleError: the features are not finite or all zero.
        UsageError: tau_knn is under the grid's spacing.
        ValueError: depth is missing, of another shape, not finite, or outside [0, 1].
    """
    rules = Cuts3dRules(grid=(features.shape[1], features.shape[2]), depth=depth, parameters=parameters)
    timer = StepTimer()
    with timer.step("affinity"):
        affinity = cosine_affinity(features)
    if parameters.sharpen and depth is not None:
        with timer.step("sharpen"):
            importance = spatial_importance(depth, sigma=parameters.sigma, beta=parameters.beta)
            edges = sharpened_edges(
                affinity, importance, pairing=parameters.pairing, tau_ncut=parameters.tau_ncut
            ).astype(np.float64)
    else:
        with timer.step("affinity"):
            edges = binarise(affinity, tau_ncut=parameters.tau_ncut).astype(np.float64)
    del affinity

    def solve(removed: NDArray[np.bool_]) -> Eigenpair:
        return solve_ncut(edges, removed=removed.reshape(-1), solver=parameters.eigensolver)

    return run_iterations(rules, solve=solve, timer=timer)


@dataclass(frozen=True, kw_only=True)
class Cuts3dRules:
    """CutS3D's rules on one image: see `extract_cuts3d`, and `cuts3d_cli.cut.iterations.Rules`.

    Attributes:
        grid: (H, W).
        depth: (H, W) in [0, 1], larger is farther, no NaN. None only if neither sharpening nor LocalCut is asked for.
        parameters: the method's parameters.
    """

    grid: tuple[int, int]
    depth: NDArray[np.floating] | None
    parameters: CutParameters

    def __post_init__(self) -> None:
        """Check that they fit each other.

        Raises:
            UsageError: tau_knn is under the grid's spacing.
            ValueError: depth is missing, of another shape, not finite, or outside [0, 1].
        """
        local = self.parameters.separation == "local"
        if self.depth is None:
            if self.parameters.sharpen or local:
                raise ValueError("sharpening and LocalCut need a depth map")
        elif self.depth.shape != self.grid or not (self.depth.min() >= 0.0 and self.depth.max() <= 1.0):
            raise ValueError(f"depth must be {self.grid} and within [0, 1], it is {self.depth.shape}")
        if local:
            check_tau_knn(self.parameters.tau_knn, self.grid)

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        """Whether there are enough instances, or as many cuts as are allowed."""
        instances = sum(item.dropped is None for item in found)
        return instances == self.parameters.instances or len(found) == (
            self.parameters.instances + self.parameters.retries
        )

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        """Why nothing is left to be cut; None if something is."""
        left = np.count_nonzero(~self.removed(found))
        return "all patches belong to instances" if left < 3 else None

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        """(H, W) bool: the nodes of all instances so far, dropped ones too."""
        removed = np.zeros(self.grid, dtype=bool)
        for item in found:
            removed |= item.mask
        return removed

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Candidate | str:
        """The instance that the next eigenvector leads to, or why there is none."""
        if not pair.has_structure:
            return NO_STRUCTURE_REASON
        removed = self.removed(found)
        split = bipartition(pair.vector, self.grid, removed=removed)
        # The rest undivided, all of its entries equal, is "the rest" as well.
        if split is None or (found and mask_iou(split.mask, ~removed) >= self.parameters.rest_iou):
            return REST_REASON
        if self.parameters.separation == "component" or self.depth is None:
            return self._candidate(pair, split, found, mask=connected_component(split.mask, split.seed))
        return self._local_cut(pair, split, found, depth=self.depth)

    def _local_cut(
        self, pair: Eigenpair, split: Bipartition, found: Sequence[Candidate], *, depth: NDArray[np.floating]
    ) -> Candidate:
        settings = self.parameters
        nodes = core(split, share=settings.core_share) if settings.source == "core" else None
        source = split.seed if nodes is None else np.flatnonzero(nodes)
        sink = None
        if settings.sink == "eigenvector":
            sink = choose_sink(
                pair.vector, source=source, removed=self.removed(found).reshape(-1), tolerance=TIE_TOLERANCE
            )
        mask = local_cut(
            depth,
            split.mask,
            source=source,
            sink=sink,
            tau_knn=settings.tau_knn,
            k=settings.knn,
            background_level=settings.background_level,
            capacity=settings.capacity,
            solver=settings.min_cut_solver,
        )
        return self._candidate(pair, split, found, mask=mask, sink=sink, nodes=nodes)

    def _candidate(
        self,
        pair: Eigenpair,
        split: Bipartition,
        found: Sequence[Candidate],
        *,
        mask: NDArray[np.bool_],
        sink: int | None = None,
        nodes: NDArray[np.bool_] | None = None,
    ) -> Candidate:
        return Candidate(
            iteration=len(found),
            bipartition=split.mask,
            mask=mask,
            source=split.seed,
            core=nodes,
            sink=sink,
            vector=pair.vector.reshape(self.grid),
            dropped="too small" if mask.mean() <= self.parameters.min_area else None,
        )
