"""Lanczos and the dense solver on real photos: the masks must be the same, not just nearly the same eigenvectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cuts3d_cli.config import CutSettings
from cuts3d_cli.cut.iterations import extract
from cuts3d_cli.cut.maskcut import MaskCut
from cuts3d_cli.cut.masks import mask_iou
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.images import decode_image, resize_square

SIZE = 322
"""Pixels; a grid of 23x23, so that the dense solver takes a tenth of a second."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "mosd"])
def test_both_solvers_give_the_same_masks_on_every_photo(test_data: Path, offline_weights: Path, name: str):
    from cuts3d_cli.features.catalogue import load_backbone

    photos = sorted((test_data / name / "images").iterdir())
    assert photos
    backbone = load_backbone(OFFLINE_BACKBONE, size=SIZE, weights=offline_weights, device="cpu", precision="float32")
    differing = []
    for photo in photos:
        square = resize_square(decode_image(photo.read_bytes()), SIZE)
        features = backbone.extract(square[None])[0].astype(np.float16)
        lanczos, dense = (
            extract(
                features,
                None,
                method=MaskCut(),
                settings=CutSettings(tau_ncut=backbone.spec.tau_ncut, eigensolver=solver),
            )
            for solver in ("lanczos", "dense")
        )
        assert lanczos.fallbacks == 0, photo.name
        same = [item.dropped for item in lanczos.candidates] == [item.dropped for item in dense.candidates]
        pairs = zip(lanczos.candidates, dense.candidates, strict=False)
        if not same or any(mask_iou(one.mask, other.mask) < 0.999 for one, other in pairs):
            differing.append(photo.name)
    assert differing == []
