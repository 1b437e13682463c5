from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.detector import model as model_module
from cuts3d_cli.detector.maps import ConfidenceMaps
from cuts3d_cli.detector.model import build_model, model_config
from cuts3d_cli.detector.roi_heads import BoxPredictor
from tests.support.training_data import box, sample_of

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


def predictors_of(model: torch.nn.Module) -> list[Any]:
    predictors: Any = model.roi_heads.box_predictor  # type: ignore[union-attr]
    return list(predictors) if isinstance(predictors, torch.nn.ModuleList) else [predictors]


def plain_losses(model: torch.nn.Module, samples: list[dict[str, Any]]) -> dict[str, float]:
    """What detectron2's own heads and masks say."""
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers, MaskRCNNConvUpsampleHead

    for sample in samples:
        sample["instances"].gt_masks = BitMasks(sample["instances"].gt_masks.dense())
    heads: Any = model.roi_heads
    heads.mask_head.__class__ = MaskRCNNConvUpsampleHead
    for predictor in predictors_of(model):
        predictor.__class__ = FastRCNNOutputLayers
    return losses(model, samples)


def test_the_papers_detector_has_its_values():
    with torch.device("meta"):
        model: Any = build_model(replace(PRESETS["paper"].train, backbone_weights="random"), device="meta")
    bottom_up = model.backbone.bottom_up
    # The stride is in the 3x3 convolution, as in torchvision's and DINO's networks.
    assert (bottom_up.res3[0].conv1.stride, bottom_up.res3[0].conv2.stride) == ((1, 1), (2, 2))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.backbone.fpn_output2.norm, torch.nn.BatchNorm2d)
    assert model.input_format == "RGB"
    assert model.pixel_mean.shape == (3, 1, 1)
    rpn = model.proposal_generator
    assert rpn.anchor_generator.num_anchors == [3] * 5
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == ({True: 2000, False: 1000}, {True: 4000, False: 1000})
    assert (rpn.nms_thresh, rpn.batch_size_per_image, rpn.positive_fraction) == (0.65, 256, 0.5)
    heads = model.roi_heads
    assert (heads.num_classes, heads.batch_size_per_image, heads.positive_fraction) == (1, 512, 0.25)
    assert heads.proposal_append_gt
    assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    assert [predictor.box2box_transform.weights for predictor in heads.box_predictor] == [
        [10, 10, 5, 5],
        [20, 20, 10, 10],
        [30, 30, 15, 15],
    ]
    for predictor, head in zip(heads.box_predictor, heads.box_head, strict=True):
        assert (predictor.cls_score.out_features, predictor.bbox_pred.out_features) == (2, 4)
        assert (predictor.smooth_l1_beta, predictor.drop_iou) == (0.0, 0.01)
        assert (predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image) == (0, 0.5, 100)
        assert [layer.out_features for layer in head if isinstance(layer, torch.nn.Linear)] == [1024, 1024]
    convolutions = [layer for layer in heads.mask_head if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [256] * 4 + [1]
    assert heads.mask_head.soft


@pytest.mark.parametrize(
    ("norm", "distributed", "device", "kind"),
    [
        ("SyncBN", True, "cpu", "BatchNorm2d"),
        ("SyncBN", False, "cpu", "BatchNorm2d"),
        ("BN", False, "cpu", "BatchNorm2d"),
        ("FrozenBN", False, "cpu", "FrozenBatchNorm2d"),
    ],
)
def test_norms(norm: Any, distributed: bool, device: str, kind: str):
    model: Any = build_model(config(norm=norm), device=device, distributed=distributed)
    assert type(model.backbone.bottom_up.stem.conv1.norm).__name__ == kind
    assert type(model.backbone.fpn_lateral2.norm).__name__ == kind


def test_synchronised_norm_has_the_same_weights_as_plain_norm():
    trained, used = (set(instantiate(model_config(config(), norm=norm)).state_dict()) for norm in ("SyncBN", "BN"))
    assert trained == used


def test_batch_norm_is_synchronised_between_gpus(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(model_module, "instantiate", lambda tree: asked.append(tree) or torch.nn.Identity())
    build_model(config(norm="SyncBN"), device="meta", distributed=True)
    monkeypatch.setattr(torch, "device", lambda name: SimpleNamespace(type="cuda"))
    build_model(config(norm="SyncBN"), device="cpu", distributed=True)
    build_model(config(norm="SyncBN"), device="cpu", distributed=False)
    assert [tree.backbone.norm for tree in asked] == ["BN", "SyncBN", "BN"]
    assert [tree.backbone.bottom_up.stem.norm for tree in asked] == ["BN", "SyncBN", "BN"]


@pytest.mark.parametrize("head", ["cascade", "standard"])
def test_without_our_losses_it_is_detectron2s_own_to_the_bit(head: Any):
    from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads

    torch.manual_seed(0)
    model: Any = build_model(config(drop_loss=False, soft_loss=False, head=head), device="cpu")
    ours = losses(model, batch(0.5))
    assert isinstance(model.roi_heads, CascadeROIHeads if head == "cascade" else StandardROIHeads)
    assert len(ours) == (9 if head == "cascade" else 5)
    assert ours == plain_losses(model, batch(0.5))


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


def build_like(model: torch.nn.Module, **changes: Any) -> torch.nn.Module:
    copy = build_model(config(drop_loss=False, soft_loss=False, **changes), device="cpu")
    copy.load_state_dict(model.state_dict())
    return copy


@pytest.mark.parametrize("head", ["cascade", "standard"])
def test_drop_loss_knows_all_instances_and_spares_the_boxes_loss(head: Any):
    torch.manual_seed(0)
    with_drop = build_model(config(drop_loss=True, soft_loss=False, head=head), device="cpu")
    without = build_like(with_drop, head=head)
    seen: list[list[int]] = []
    before = BoxPredictor.losses

    def noted(self: Any, predictions: Any, proposals: Any) -> Any:
        seen.append([len(boxes) for boxes in self.true_boxes])
        return before(self, predictions, proposals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoxPredictor, "losses", noted)
        dropped = losses(with_drop, batch())
    plain = losses(without, batch())
    stages = ["_stage0", "_stage1", "_stage2"] if head == "cascade" else [""]
    assert seen == [[2]] * len(stages)
    for stage in stages:
        assert dropped[f"loss_cls{stage}"] < plain[f"loss_cls{stage}"]
        assert dropped[f"loss_box_reg{stage}"] == plain[f"loss_box_reg{stage}"]
    assert all(predictor.true_boxes is None for predictor in predictors_of(with_drop))


def test_an_image_without_instances_can_be_learned_from():
    model = build_model(config(), device="cpu")
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    found = losses(model, [sample_of(image, [])])
    assert all(np.isfinite(value) for value in found.values())
    assert found["loss_mask"] == 0


def proposals_of(boxes: list[list[float]], classes: list[int], true: list[list[float]]) -> Instances:
    item = Instances(SIZE)
    item.proposal_boxes = Boxes(torch.tensor(boxes))
    item.gt_classes = torch.tensor(classes)
    item.gt_boxes = Boxes(torch.tensor(true))
    return item


def test_mixed_precision_keeps_the_losses_in_single_precision():
    """On a CPU, where half precision has another name: no part of ours mixes the types, also without instances."""
    model, samples = build_model(config(), device="cpu"), [*batch(0.5), *batch(0.8)]
    samples[1]["instances"] = samples[1]["instances"][:0]
    full = losses(model, samples)
    torch.manual_seed(1)
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(samples)
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert {name: float(value.detach()) for name, value in half.items()} == pytest.approx(full, rel=0.2, abs=0.02)
    torch.stack(list(half.values())).sum().backward()
    assert all(bool(torch.isfinite(item.grad).all()) for item in model.parameters() if item.grad is not None)


def test_drop_loss_by_hand():
    """Four boxes: on an instance, beside it, far from all, and on an instance that none was matched with."""
    predictor = BoxPredictor(
        ShapeSpec(channels=4),
        drop_iou=0.01,
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        num_classes=1,
        cls_agnostic_bbox_reg=True,
    )
    matched, unmatched = [0.0, 0.0, 10.0, 10.0], [60.0, 60.0, 70.0, 70.0]
    boxes = [matched, [5.0, 0.0, 15.0, 10.0], [30.0, 30.0, 40.0, 40.0], [60.0, 60.0, 68.0, 70.0]]
    item = proposals_of(boxes, [0, 1, 1, 1], [matched] * 4)
    scores = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.5, 0.0]], requires_grad=True)
    stay = torch.zeros(4, 4)
    predictor.true_boxes = [torch.tensor([matched, unmatched])]
    log_softmax = torch.log_softmax(scores.detach(), dim=1)
    each = -log_softmax[torch.arange(4), torch.tensor([0, 1, 1, 1])]
    with EventStorage():
        found = predictor.losses((scores, stay), [item])
        # All boxes count in the mean, also the one that is dropped.
        assert found["loss_cls"].item() == pytest.approx(float(each[[0, 1, 3]].sum() / 4), rel=1e-6)
        found["loss_cls"].backward()
        assert scores.grad is not None
        assert torch.equal(scores.grad[2], torch.zeros(2))
        # It is the refined box that counts: one that is moved onto an instance is not dropped ...
        moved = stay.clone()
        moved[2] = torch.tensor([-3.0, -3.0, 0.0, 0.0])  # by three times its size
        assert predictor.losses((scores, moved), [item])["loss_cls"].item() == pytest.approx(float(each.mean()))
        # ... and one that is moved away is.
        moved[0] = torch.tensor([4.0, 0.0, 0.0, 0.0])
        kept = float(each[1:].sum() / 4)
        assert predictor.losses((scores, moved), [item])["loss_cls"].item() == pytest.approx(kept)
        predictor.drop_iou = None
        assert predictor.losses((scores, stay), [item])["loss_cls"].item() == pytest.approx(float(each.mean()))


def test_what_is_detected_lies_in_the_photo():
    torch.manual_seed(0)
    model: Any = build_model(config(), device="cpu").eval()
    sample = {"image": batch()[0]["image"], "height": 48, "width": 64}
    with torch.no_grad():
        found = model([sample])[0]["instances"]
    assert found.image_size == (48, 64)
    assert len(found) <= 30
    assert found.pred_masks.shape == (len(found), 48, 64)
    assert found.pred_masks.dtype == torch.bool
    assert torch.equal(found.pred_classes, torch.zeros(len(found), dtype=torch.int64))
    assert bool((found.scores.diff() <= 0).all())


def test_equal_seeds_give_equal_models_and_losses():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model(config(), device="cpu"))
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(models[0], batch(0.5)) == losses(models[1], batch(0.5))
