"""CutS3D's extraction: Normalized Cut on a sharpened graph, then LocalCut, one instance an iteration (Sec. 3.1-3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.affinity import binarise, cosine_affinity
from cuts3d_cli.cut.bipartition import bipartition, connected_component
from cuts3d_cli.cut.localcut import Capacity, Sink, choose_sink, grid_spacing, local_cut
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.cut.mincut import MinCutSolver
from cuts3d_cli.cut.ncut import TIE_TOLERANCE, Eigensolver, solve_ncut
from cuts3d_cli.cut.sharpening import Pairing, sharpened_edges, spatial_importance
from cuts3d_cli.cut.timing import StepTimer
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.errors import UsageError

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
    grid = (features.shape[1], features.shape[2])
    if depth is None:
        if parameters.sharpen or parameters.separation == "local":
            raise ValueError("sharpening and LocalCut need a depth map")
    elif depth.shape != grid or not (depth.min() >= 0.0 and depth.max() <= 1.0):
        raise ValueError(f"depth must be {grid} and within [0, 1], it is {depth.shape}")
    if parameters.separation == "local":
        check_tau_knn(parameters.tau_knn, grid)

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

    removed = np.zeros(grid, dtype=bool)
    candidates: list[Candidate] = []
    fallbacks = 0
    stopped = None
    for iteration in range(parameters.instances + parameters.retries):
        if sum(item.dropped is None for item in candidates) == parameters.instances:
            break
        if np.count_nonzero(~removed) < 3:
            stopped = "all patches belong to instances"
            break
        with timer.step("eigen"):
            pair = solve_ncut(edges, removed=removed.reshape(-1), solver=parameters.eigensolver)
        fallbacks += pair.fell_back
        if not pair.has_structure:
            stopped = NO_STRUCTURE_REASON
            break
        split = bipartition(pair.vector, grid, removed=removed)
        # The rest undivided, all of its entries equal, is "the rest" as well.
        if split is None or (iteration and mask_iou(split.mask, ~removed) >= parameters.rest_iou):
            stopped = REST_REASON
            break
        sink = None
        with timer.step("cut"):
            if parameters.separation == "component" or depth is None:
                mask = connected_component(split.mask, split.seed)
            else:
                if parameters.sink == "eigenvector":
                    sink = choose_sink(
                        pair.vector, source=split.seed, removed=removed.reshape(-1), tolerance=TIE_TOLERANCE
                    )
                mask = local_cut(
                    depth,
                    split.mask,
                    source=split.seed,
                    sink=sink,
                    tau_knn=parameters.tau_knn,
                    k=parameters.knn,
                    background_level=parameters.background_level,
                    capacity=parameters.capacity,
                    solver=parameters.min_cut_solver,
                )
        candidates.append(
            Candidate(
                iteration=iteration,
                bipartition=split.mask,
                mask=mask,
                source=split.seed,
                sink=sink,
                vector=pair.vector.reshape(grid),
                dropped="too small" if mask.mean() <= parameters.min_area else None,
            )
        )
        removed = removed | mask
    return Extraction(candidates=candidates, stopped=stopped, fallbacks=fallbacks, seconds=timer.seconds)
