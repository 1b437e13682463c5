"""What all methods share: an eigenproblem, a cut, and the next eigenproblem without what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.affinity import cosine_affinity
from cuts3d_cli.cut.methods import Method, Rules
from cuts3d_cli.cut.ncut import Eigenpair, solve_ncut
from cuts3d_cli.cut.perspective import Perspective
from cuts3d_cli.cut.types import Extraction
from cuts3d_cli.timing import StepTimer

NO_STRUCTURE_REASON = "the semantic graph has no structure to cut"
"""Why a method stops at an eigenvector that tells nothing about the graph; see `Eigenpair.has_structure`."""


def extract(
    features: NDArray[np.floating],
    depth: NDArray[np.float32] | None,
    *,
    method: Method,
    settings: CutSettings,
    view: Perspective | None = None,
) -> Extraction:
    """Cut an image into instances: the graph of its patches, then all iterations.

    Args:
        features: (C, H, W).
        depth: (H, W) in [0, 1], larger is farther, no NaN; None where the method needs none.
        method: builds the graph and decides about each solution.
        settings: of the cut, `tau_ncut` set.
        view: metric depth in perspective; None where depth is not metric, or not asked for.

    Returns:
        The finished extraction.

    Raises:
        SampleError: the features are not finite or all zero.
        UsageError: the settings do not fit the grid.
        ValueError: the depth does not fit.
    """
    timer = StepTimer()
    rules = method.rules(depth, grid=(features.shape[1], features.shape[2]), settings=settings, view=view)
    # The graph: affinities, sharpened by depth where the method wants that, and binarised.
    with timer.step("affinity"):
        affinity = cosine_affinity(features)
        importance = method.importance(depth, settings=settings)
    with timer.step("affinity" if importance is None else "sharpen"):
        # Float64 is what the solver computes in: converted once for all eigenproblems.
        edges = method.edges(affinity, importance, settings=settings).astype(np.float64)
    del affinity

    def solve(removed: NDArray[np.bool_]) -> Eigenpair:
        return solve_ncut(edges, removed=removed.reshape(-1), solver=settings.eigensolver)

    return run_iterations(rules, solve=solve, timer=timer)


def begin(rules: Rules) -> Extraction:
    """Return an extraction before its first eigenproblem."""
    return _unless_over(Extraction(candidates=(), finished=False), rules)


def advance(extraction: Extraction, pair: Eigenpair, rules: Rules) -> Extraction:
    """Return an extraction after one more eigenproblem.

    Args:
        extraction: not finished.
        pair: the solution without the nodes in `rules.removed(extraction.candidates)`.
        rules: the method's.

    Returns:
        The extraction with the candidates that it led to, or the reason to stop; finished if that was the last.
    """
    number = extraction.eigenproblems
    after = replace(extraction, fallbacks=extraction.fallbacks + pair.fell_back, eigenproblems=number + 1)
    found = rules.cut(pair, extraction.candidates)
    if isinstance(found, str):
        return replace(after, stopped=found, finished=True)
    numbered = [replace(item, eigenproblem=number) for item in found]
    return _unless_over(replace(after, candidates=(*after.candidates, *numbered)), rules)


def run_iterations(rules: Rules, *, solve: Callable[[NDArray[np.bool_]], Eigenpair], timer: StepTimer) -> Extraction:
    """Run all iterations on one image, one after the other.

    Args:
        rules: the method's.
        solve: from the removed nodes, (H, W) bool, to the eigenpair of what is left.
        timer: receives the steps "eigen" and "cut"; what it holds already becomes part of the result.

    Returns:
        The finished extraction.
    """
    extraction = begin(rules)
    while not extraction.finished:
        with timer.step("eigen"):
            pair = solve(rules.removed(extraction.candidates))
        with timer.step("cut"):
            extraction = advance(extraction, pair, rules)
    return replace(extraction, seconds=timer.seconds)


def _unless_over(extraction: Extraction, rules: Rules) -> Extraction:
    if rules.is_complete(extraction.candidates):
        return replace(extraction, finished=True)
    reason = rules.exhausted(extraction.candidates)
    return replace(extraction, stopped=reason, finished=reason is not None)
