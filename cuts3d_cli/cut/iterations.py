"""What both methods share: an eigenproblem, a cut, and the next eigenproblem without what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.ncut import Eigenpair
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.timing import StepTimer


class Rules(Protocol):
    """A method's rules on one image, for everything but the graph and its eigenproblems.

    An object of it can travel to another process, so that one process solves and another one cuts.
    """

    def is_complete(self, found: Sequence[Candidate]) -> bool:
        """Whether no further cut is wanted after these."""

    def exhausted(self, found: Sequence[Candidate]) -> str | None:
        """Why no further cut is possible after these; None if one is."""

    def removed(self, found: Sequence[Candidate]) -> NDArray[np.bool_]:
        """(H, W) bool: nodes that are out of the graph of the next eigenproblem."""

    def cut(self, pair: Eigenpair, found: Sequence[Candidate]) -> Candidate | str:
        """What the solution of the next eigenproblem leads to: a candidate, or the reason to stop."""


def begin(rules: Rules) -> Extraction:
    """An extraction before its first eigenproblem."""
    return _unless_over(Extraction(candidates=(), finished=False), rules)


def advance(extraction: Extraction, pair: Eigenpair, rules: Rules) -> Extraction:
    """An extraction after one more eigenproblem.

    Args:
        extraction: not finished.
        pair: the solution without the nodes in `rules.removed(extraction.candidates)`.
        rules: the method's.

    Returns:
        The extraction with what came of it; finished if that was the last.
    """
    after = replace(extraction, fallbacks=extraction.fallbacks + pair.fell_back)
    found = rules.cut(pair, extraction.candidates)
    if isinstance(found, str):
        return replace(after, stopped=found, finished=True)
    return _unless_over(replace(after, candidates=(*after.candidates, found)), rules)


def run_iterations(rules: Rules, *, solve: Callable[[NDArray[np.bool_]], Eigenpair], timer: StepTimer) -> Extraction:
    """All iterations on one image, one after the other.

    Args:
        rules: the method's.
        solve: from the removed nodes, (H, W) bool, to the eigenpair of what is left.
        timer: gets the steps "eigen" and "cut"; what it knows already becomes part of the result.

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
