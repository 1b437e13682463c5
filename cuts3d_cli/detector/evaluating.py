"""Evaluation while a detector is trained, as the training sees it: `cuts3d_cli.evaluation.training` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cuts3d_cli.wording import Say

if TYPE_CHECKING:
    from cuts3d_cli.detector.inference import Detector

Results = Mapping[str, Mapping[str, Any]]
"""Data set -> its figures as plain JSON values, in [0, 1]: "box" and "mask" as in `KindMetrics`, or None for "mask"."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of one process of an evaluation.

    Attributes:
        rank: of the process.
        world: number of processes.
        gather: returns the objects of all processes in the first one, and nothing in the others.
        stopped: returns whether a signal asks the process to stop.
    """

    rank: int
    world: int
    gather: Callable[[Any], Sequence[Any]]
    stopped: Callable[[], bool]


class Evaluation(Protocol):
    """Evaluates a detector on data sets. It can be handed to other processes."""

    def check(self, *, say: Say) -> None:
        """Check that the data sets are there, before a training begins.

        Raises:
            Cuts3dError: one is not.
        """

    def __call__(self, detector: Detector, *, share: Share, say: Say) -> Results:
        """Evaluate a detector.

        Args:
            detector: the same in all processes.
            share: of the process.
            say: prints a status line.

        Returns:
            The results; nothing in other processes than the first. They are worthless where a process was stopped.
        """


def deciding_figure(results: Results) -> float | None:
    """Return the figure by which detectors are compared: mask AP, or box AP of data sets without masks, on average.

    Returns:
        In [0, 1]; None where it is undefined for one of the data sets.
    """
    figures = [(result.get("mask") or result["box"])["ap"] for result in results.values()]
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known and len(known) == len(figures) else None
