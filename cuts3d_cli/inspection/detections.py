"""`cuts3d viz --checkpoint`: draws what a trained detector finds in one photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cuts3d_cli.config import Config
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector.train import require_detectron2
from cuts3d_cli.devices import choose_device
from cuts3d_cli.figures.overlay import overlay_masks
from cuts3d_cli.figures.sheet import Panel, compare, png_bytes
from cuts3d_cli.files import atomic_write_bytes
from cuts3d_cli.inspection.viz import Drawn, Say, read_photo

MIN_SCORE = 0.5
"""Lowest score that is drawn; where nothing reaches it, the best detection is."""


def draw_detections(path: Path, *, checkpoint: Path, out: Path | None, config: Config, say: Say) -> Drawn:
    """Detect the instances of one photo and draw them.

    Args:
        path: the photo.
        checkpoint: what `cuts3d train` wrote.
        out: the picture; NAME.cuts3d.png in the working folder by default.
        config: section `run`.
        say: told in a line what is missed.

    Returns:
        What was drawn.

    Raises:
        Cuts3dError: the photo cannot be read, or detectron2 is not installed.
        WeightsError: the checkpoint cannot be read.
    """
    require_detectron2()
    from cuts3d_cli.detector.inference import Detector

    image = np.asarray(read_photo(path, max_pixels=config.run.max_image_pixels), dtype=np.uint8)
    detector = Detector.load(checkpoint, device=choose_device(config.run.device), half=config.run.half)
    (every,) = detector.detect([image])
    notes = []
    found = every.over(MIN_SCORE)
    if not len(found.scores):
        best = f", the best has {every.scores[0]:.2f}" if len(every.scores) else ""
        notes.append(f"nothing was found with a score of {MIN_SCORE:g}{best}")
        say(notes[0])
        found = every.over(float(every.scores[0])) if len(every.scores) else every
    masks = [decode_rle(mask) for mask in found.masks]
    # The surest is drawn last, over the others.
    drawn = overlay_masks(image, masks[::-1], labels=[f"{score:.2f}" for score in found.scores][::-1])
    panels = [
        Panel(title="photo", image=image),
        Panel(title=f"{len(masks)} detection{'s' * (len(masks) != 1)}, with scores", image=drawn),
    ]
    target = out or Path(f"{path.stem}.cuts3d.png")
    picture = compare([(path.name, panels)], title=f"{path.name}: {checkpoint}")
    atomic_write_bytes(target, png_bytes(picture))
    return Drawn(path=target, masks=len(masks), notes=notes)
