from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.detector.fields import ConfidenceMaps
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.resnet_weights import load_backbone, to_detectron2
from cuts3d_cli.detector.roi_heads import BoxPredictor
from cuts3d_cli.errors import HubUnreachableError, WeightsError
from tests.detector.made import box, sample_of

SIZE = (96, 128)


def config(**changes: Any) -> TrainConfig:
    return replace(PRESETS["tiny"].train, **changes)


def batch(confidence: float = 1.0) -> list[dict[str, Any]]:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    masks = [box(SIZE, 10, 10, 40, 40), box(SIZE, 40, 70, 50, 50)]
    return [sample_of(image, masks, confidence=[confidence] * 2)]


def losses(model: torch.nn.Module, samples: list[dict[str, Any]]) -> dict[str, float]:
    torch.manual_seed(1)
    with EventStorage(), torch.no_grad():
        return {name: float(value) for name, value in model(samples).items()}


def plain_losses(model: torch.nn.Module, samples: list[dict[str, Any]]) -> dict[str, float]:
    """What detectron2's own heads and masks say."""
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers, MaskRCNNConvUpsampleHead

    for sample in samples:
        sample["instances"].gt_masks = BitMasks(sample["instances"].gt_masks.dense())
    heads: Any = model.roi_heads
    heads.mask_head.__class__ = MaskRCNNConvUpsampleHead
    for predictor in heads.box_predictor:
        predictor.__class__ = FastRCNNOutputLayers
    return losses(model, samples)


def test_without_our_losses_it_is_the_plain_cascade_to_the_bit():
    torch.manual_seed(0)
    model = build_model(config(drop_loss=False, soft_loss=False), device="cpu")
    assert losses(model, batch(0.5)) == plain_losses(model, batch(0.5))


def test_full_confidence_changes_nothing_and_half_halves_the_mask_loss():
    torch.manual_seed(0)
    model = build_model(config(drop_loss=False, soft_loss=True), device="cpu")
    full = losses(model, batch(1.0))
    assert full == plain_losses(build_like(model), batch(1.0))
    samples = batch()
    samples[0]["instances"].gt_confidence = ConfidenceMaps(torch.full((2, *SIZE), 51, dtype=torch.uint8))
    fifth = losses(model, samples)
    # Boxes that reach beyond the image have confidence 1 there, but these lie within it.
    assert fifth["loss_mask"] == pytest.approx(full["loss_mask"] / 5, rel=1e-4)
    assert {name: fifth[name] for name in fifth if name != "loss_mask"} == {
        name: full[name] for name in full if name != "loss_mask"
    }


def build_like(model: torch.nn.Module) -> torch.nn.Module:
    copy = build_model(config(drop_loss=False, soft_loss=False), device="cpu")
    copy.load_state_dict(model.state_dict())
    return copy


def test_drop_loss_knows_all_instances_and_spares_the_boxes_loss():
    torch.manual_seed(0)
    with_drop = build_model(config(drop_loss=True, soft_loss=False), device="cpu")
    without = build_like(with_drop)
    seen: list[list[int]] = []
    before = BoxPredictor.losses

    def noted(self: Any, predictions: Any, proposals: Any) -> Any:
        seen.append([len(boxes) for boxes in self.true_boxes])
        return before(self, predictions, proposals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoxPredictor, "losses", noted)
        dropped = losses(with_drop, batch())
    plain = losses(without, batch())
    assert seen == [[2]] * 3
    for stage in range(3):
        assert dropped[f"loss_cls_stage{stage}"] < plain[f"loss_cls_stage{stage}"]
        assert dropped[f"loss_box_reg_stage{stage}"] == plain[f"loss_box_reg_stage{stage}"]
    assert all(predictor.true_boxes is None for predictor in with_drop.roi_heads.box_predictor)


def test_an_image_without_instances_can_be_learned_from():
    model = build_model(config(), device="cpu")
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    found = losses(model, [sample_of(image, [])])
    assert all(np.isfinite(value) for value in found.values())
    assert found["loss_mask"] == 0


def test_torchvisions_resnet_gives_the_same_features(tmp_path: Path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    with torch.no_grad():  # other statistics than those of a new network
        for name, value in theirs.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    state = {f"module.encoder_q.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    model = build_model(config(resnet_depth=50), device="cpu").eval()
    said: list[str] = []
    assert load_backbone(model.backbone.bottom_up, str(tmp_path / "moco.pth"), say=said.append) == tmp_path / "moco.pth"
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            features = layer(features)
        assert torch.allclose(model.backbone.bottom_up(image)["res5"], features, atol=1e-4)


def test_names_of_tensors():
    one = torch.zeros(1)
    names = ["conv1.weight", "bn1.bias", "layer1.0.bn3.weight", "layer4.2.downsample.1.running_mean", "fc.weight"]
    assert list(to_detectron2(dict.fromkeys(names, one))) == [
        "stem.conv1.weight",
        "stem.conv1.norm.bias",
        "res2.0.conv3.norm.weight",
        "res5.2.shortcut.norm.running_mean",
        "fc.weight",
    ]


def test_another_network_is_refused_in_brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    model = build_model(config(resnet_depth=50), device="cpu")
    with pytest.raises(WeightsError, match=r"r18.pth does not fit the detector's ResNet: \d+ tensors missing \(res2"):
        load_backbone(model.backbone.bottom_up, str(tmp_path / "r18.pth"), say=print)
    with pytest.raises(WeightsError, match="is not a file"):
        load_backbone(model.backbone.bottom_up, str(tmp_path / "none.pth"), say=print)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path))
    with pytest.raises(HubUnreachableError, match=r"pass --backbone-weights random"):
        load_backbone(model.backbone.bottom_up, "dino-resnet50", say=print)
