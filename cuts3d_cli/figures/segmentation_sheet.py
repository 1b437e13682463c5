"""The picture of a segmentation: that of its cuts where it was cut, else the photo beside its instances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cuts3d_cli.figures.overlay import overlay_masks
from cuts3d_cli.figures.sheet import Panel, sheet
from cuts3d_cli.figures.viz_sheet import visualise
from cuts3d_cli.segmentation import Segmentation

_WIDTH = 480
"""Of a panel of detections, pixels: many have room for their scores."""


def draw(segmentation: Segmentation, *, title: str | None = None, notes: Sequence[str] = ()) -> Image.Image:
    """Draw a segmentation: image, depth, each cut, the masks and their Spatial Confidence.

    Args:
        segmentation: to draw. Of a detector's, which has no cuts, the photo and the masks with their scores are drawn.
        title: above everything; by default what made it.
        notes: below everything; why the cuts stopped early is added.

    Returns:
        An RGB picture, the same for the same input.
    """
    above = segmentation.title if title is None else title
    if segmentation.cuts is None:
        return _draw_detections(segmentation, title=above, notes=notes)
    stopped = [f"stopped: {segmentation.stopped}"] if segmentation.stopped else []
    maps = segmentation.confidence
    # Outside its semantic mask an instance was not cut, and has no confidence to show.
    semantic = {cut.mask: cut.bipartition for cut in segmentation.cuts if cut.mask is not None}
    return visualise(
        image=segmentation.image,
        depth=segmentation.depth,
        importance=segmentation.importance,
        cuts=segmentation.cuts,
        masks=list(segmentation.masks),
        labels=None,
        title=above,
        notes=[*notes, *stopped],
        confidences=[]
        if maps is None
        else [np.where(semantic.get(place, True), values, np.float32(np.nan)) for place, values in enumerate(maps)],
        scores=[] if maps is None else [float(score) for score in segmentation.scores],
    )


def _draw_detections(segmentation: Segmentation, *, title: str, notes: Sequence[str]) -> Image.Image:
    count = len(segmentation)
    # The surest is drawn last, over the others.
    order = np.argsort(segmentation.scores, kind="stable")
    drawn = overlay_masks(
        segmentation.image,
        [segmentation.masks[place] for place in order],
        labels=[f"{segmentation.scores[place]:.2f}" for place in order],
    )
    panels = [
        Panel(title="Photo", image=segmentation.image),
        Panel(title=f"Detections: {count or 'none'}, with scores", image=drawn),
    ]
    return sheet([panels], title=title, notes=notes, width=_WIDTH)
