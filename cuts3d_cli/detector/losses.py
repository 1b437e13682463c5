"""Losses of the heads: the Spatial Confidence Soft Target loss, and DropLoss for the classification.

Sources: paper, Sec. 3.4, Eq. 6; DropLoss: Wang et al., "Cut and Learn", 2023.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def soft_mask_loss(
    logits: torch.Tensor, targets: torch.Tensor, *, confidence: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the binary cross entropy of masks, with each pixel weighted by its Spatial Confidence (paper: Eq. 6).

    The paper has a sum; this is the mean, as in the detectors that it builds on, so that the loss keeps its scale.

    Args:
        logits: (N, S, S) float.
        targets: (N, S, S) bool, the pseudo-masks.
        confidence: (N, S, S) float in [0, 1], 1 outside of the confidence map; None is 1 everywhere.

    Returns:
        A scalar. With confidence 1 everywhere it is the usual loss; without instances it is 0 and has a gradient.
    """
    if logits.numel() == 0:
        return logits.sum() * 0
    weight = None if confidence is None else confidence.to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), weight=weight)


def drop_weights(boxes: torch.Tensor, true_boxes: torch.Tensor, *, iou: float) -> torch.Tensor:
    """Compute the weights of DropLoss. Pseudo-masks miss objects, so a box far from all of them may still be right.

    Args:
        boxes: (P, 4) float32, x0, y0, x1, y1, as refined by the head.
        true_boxes: (K, 4) float32, of all instances of the image.
        iou: a box counts if its largest IoU is over this.

    Returns:
        (P,) float32: 1 where a box counts, else 0. Without instances none counts.
    """
    from torchvision.ops import box_iou

    if len(true_boxes) == 0:
        return torch.zeros(len(boxes), device=boxes.device)
    return (box_iou(boxes, true_boxes).amax(dim=1) > iou).to(torch.float32)


def class_loss(scores: torch.Tensor, classes: torch.Tensor, *, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Compute the cross entropy of the boxes' classes.

    Args:
        scores: (P, C + 1) float, logits; the last class is background.
        classes: (P,) int64.
        weights: (P,) float, the weight of each box; None is 1.

    Returns:
        A scalar: the mean over all boxes, including those of weight 0.
    """
    if len(classes) == 0:
        return scores.sum() * 0
    if weights is None:
        return functional.cross_entropy(scores, classes)
    return (functional.cross_entropy(scores, classes, reduction="none") * weights).mean()
