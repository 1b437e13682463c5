"""Heads, cascaded or plain, with DropLoss and the Spatial Confidence Soft Target loss; either can be off."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from cuts3d_cli.detector.losses import class_loss, drop_weights, soft_mask_loss


class BoxPredictor(FastRCNNOutputLayers):
    """Scores and boxes of a box head, with DropLoss.

    Args:
        input_shape: of the box features.
        drop_iou: boxes whose IoU with every true box is at most this get no classification loss; None for no DropLoss.
        further: arguments of detectron2's `FastRCNNOutputLayers`.

    Attributes:
        true_boxes: boxes of all instances of the batch at hand, image by image; the heads around it set them.
    """

    def __init__(self, input_shape: ShapeSpec, *, drop_iou: float | None, **further: Any) -> None:
        super().__init__(input_shape, **further)
        self.drop_iou = drop_iou
        self.true_boxes: list[torch.Tensor] | None = None

    def losses(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of this head, as detectron2's `FastRCNNOutputLayers.losses`, with DropLoss."""
        found: dict[str, torch.Tensor] = super().losses(predictions, proposals)
        if self.drop_iou is None or not proposals:
            return found
        if self.true_boxes is None:
            raise RuntimeError(
                "the true boxes of the batch are unknown: this predictor works within the heads of this module"
            )
        with torch.no_grad():
            refined = self.predict_boxes(predictions, proposals)
            counts = torch.cat(
                [
                    drop_weights(boxes, true, iou=self.drop_iou)
                    for boxes, true in zip(refined, self.true_boxes, strict=True)
                ]
            )
        classes = torch.cat([item.gt_classes for item in proposals])
        found["loss_cls"] = class_loss(predictions[0], classes, weights=counts) * self.loss_weight.get("loss_cls", 1.0)
        return found


class MaskHead(MaskRCNNConvUpsampleHead):
    """The mask head, whose loss may be weighted by Spatial Confidence (paper: Eq. 6).

    Args:
        input_shape: of the mask features.
        soft: whether the loss is weighted.
        further: arguments of detectron2's `MaskRCNNConvUpsampleHead`.
    """

    def __init__(self, input_shape: ShapeSpec, *, soft: bool, **further: Any) -> None:
        super().__init__(input_shape, **further)
        self.soft = soft

    def forward(self, features: torch.Tensor, instances: list[Instances]) -> Any:
        """Compute the loss in training, else the masks of the instances, as detectron2's `BaseMaskRCNNHead`."""
        if not self.training:
            return super().forward(features, instances)
        logits = self.layers(features)[:, 0]
        size = logits.shape[-1]
        filled = [item for item in instances if len(item)]
        if not filled:
            return {"loss_mask": logits.sum() * 0}
        boxes = [item.proposal_boxes.tensor for item in filled]
        targets = torch.cat([item.gt_masks.crop_and_resize(box, size) for item, box in zip(filled, boxes, strict=True)])
        _count_mask_errors(logits, targets)
        confidence = None
        if self.soft:
            confidence = torch.cat(
                [item.gt_confidence.crop_and_resize(box, size) for item, box in zip(filled, boxes, strict=True)]
            )
        return {"loss_mask": soft_mask_loss(logits, targets, confidence=confidence) * self.loss_weight}


class _KnowTrueBoxes:
    """Heads whose predictors know all true boxes of the batch while they compute losses.

    The boxes that proposals are matched with do not suffice: instances without a matched proposal are missing there.
    """

    box_predictor: Any

    def forward(self, images: Any, features: Any, proposals: Any, targets: list[Instances] | None = None) -> Any:
        """Return proposals and losses in training, else instances, as detectron2's `ROIHeads`."""
        cascaded = isinstance(self.box_predictor, torch.nn.ModuleList)
        predictors = list(self.box_predictor) if cascaded else [self.box_predictor]
        for predictor in predictors:
            predictor.true_boxes = None if targets is None else [item.gt_boxes.tensor for item in targets]
        try:
            return super().forward(images, features, proposals, targets)  # type: ignore[misc]
        finally:
            for predictor in predictors:
                predictor.true_boxes = None


class MaskCascadeROIHeads(_KnowTrueBoxes, CascadeROIHeads):
    """detectron2's cascade of box heads, and a mask head."""

    def _run_stage(self, features: list[torch.Tensor], proposals: list[Instances], stage: int) -> Any:
        if self.training:
            return super()._run_stage(features, proposals, stage)
        # Without the scaling of gradients, which no tracer can follow.
        pooled = self.box_pooler(features, [item.proposal_boxes for item in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))


class MaskROIHeads(_KnowTrueBoxes, StandardROIHeads):
    """detectron2's single box head, and a mask head."""


@torch.no_grad()
def _count_mask_errors(logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Note the accuracy of masks, and the shares of false pixels, under detectron2's names.

    Args:
        logits: (N, S, S) float; over 0 is the mask.
        targets: (N, S, S) bool.
    """
    found = logits > 0
    counts = torch.stack([(found != targets).sum(), (found & ~targets).sum(), targets.sum()])
    wrong, extra, positive = counts.tolist()  # waits for the device once
    pixels = max(targets.numel(), 1)
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - wrong / pixels)
    storage.put_scalar("mask_rcnn/false_positive", extra / max(pixels - positive, 1))
    storage.put_scalar("mask_rcnn/false_negative", (wrong - extra) / max(positive, 1))
