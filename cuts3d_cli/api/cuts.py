"""The iterations of a cut as plain data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.image import CutResult
from cuts3d_cli.segmentation import Cut


def cuts_of(result: CutResult, *, ignores_found: bool) -> list[Cut]:
    """Return each iteration of a cut, the dropped ones too.

    Args:
        result: of the cut.
        ignores_found: found instances leave the graph; their patches are NaN in later eigenvectors then.
    """
    reasons = {item["iteration"]: item["reason"] for item in result.dropped}
    places = {item.candidate.iteration: place for place, item in enumerate(result.instances)}
    cuts = []
    removed: NDArray[np.bool_] | None = None
    for item in result.extraction.candidates:
        columns = item.mask.shape[1]
        reason = reasons.get(item.iteration)
        cuts.append(
            Cut(
                eigenvector=item.vector if removed is None else np.where(removed, np.nan, item.vector),
                bipartition=item.bipartition,
                instance=item.mask,
                source=divmod(item.source, columns),
                sink=None if item.sink is None else divmod(item.sink, columns),
                outcome=f"dropped: {reason}" if reason else "kept",
                mask=places.get(item.iteration),
                number=item.iteration + 1,
            )
        )
        if ignores_found:
            removed = item.mask if removed is None else removed | item.mask
    return cuts
