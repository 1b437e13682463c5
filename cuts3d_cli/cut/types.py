"""The results of a cut at patch resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The find of one iteration of the cut, at patch resolution.

    Attributes:
        iteration: from 0, one a find.
        bipartition: (H, W) bool, the semantic mask B.
        mask: (H, W) bool, the instance.
        source: row-major index of the most foreground node s (MaskCut: of the seed).
        core: (H, W) bool, all nodes that were the source together with s; None where s alone was.
        eigenproblem: that it comes from, from 0; several finds may come from one.
        sink: row-major index of the most background node t; None where the whole background is the sink, or in 2D.
        vector: (H, W) float64, the eigenvector, largest absolute entry +1.
        dropped: why this is no instance; None if it is one.
    """

    iteration: int
    bipartition: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    source: int
    sink: int | None
    vector: NDArray[np.float64]
    dropped: str | None = None
    core: NDArray[np.bool_] | None = None
    eigenproblem: int = 0


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The iterations on one image.

    Attributes:
        candidates: one per iteration, the dropped ones too.
        eigenproblems: how many were solved.
        stopped: why there are fewer iterations than asked for; None if all were done.
        finished: no iteration is to come.
        fallbacks: how many eigenproblems Lanczos could not solve and the dense solver did.
        seconds: time spent in each step.
    """

    candidates: Sequence[Candidate]
    stopped: str | None = None
    finished: bool = True
    fallbacks: int = 0
    eigenproblems: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
