from __future__ import annotations

import pytest

from cuts3d_cli.detector.resnet import RESNETS
from cuts3d_cli.errors import UsageError
from cuts3d_cli.features.catalogue import BACKBONES, backbone_spec
from cuts3d_cli.inspection.weights import all_weights, weights_spec


def test_weights_are_known_by_names_of_their_own() -> None:
    assert list(all_weights()) == [*BACKBONES, *RESNETS]
    assert len(all_weights()) == len(BACKBONES) + len(RESNETS)
    assert weights_spec("dino-resnet50") is RESNETS["dino-resnet50"]
    assert weights_spec("dino-vitb8") is BACKBONES["dino-vitb8"]
    with pytest.raises(
        UsageError, match=r"unknown backbone 'resnet50': choose one of dino-vitb8, .*, dino-resnet50, timm:NAME"
    ):
        weights_spec("resnet50")
    with pytest.raises(UsageError, match="unknown backbone 'dino-resnet50'"):  # it gives no features to cut
        backbone_spec("dino-resnet50")
