"""Losses of the heads: the Spatial Confidence Soft Target loss, and the classification loss that drops boxes.

Sources: paper, Sec. 3.4, Eq. 6; DropLoss: Wang et al., "Cut and Learn", 2023.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def soft_mask_loss(
    logits: torch.Tensor, targets: torch.Tensor, *, confidence: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross entropy of masks, each pixel weighed by its Spatial Confidence (Eq. 6).

    The paper sums; here it is the mean, as in the detectors that it builds on, so that the loss keeps its scale.

    Args:
        logits: (N, S, S) float.
        targets: (N, S, S) bool, the pseudo-masks.
        confidence: (N, S, S) float in [0, 1], 1 outside of the confidence map; None is 1 everywhere.

    Returns:
        A scalar. With confidence 1 everywhere it is the plain loss; without instances it is 0 and has a gradient.
    """
    if logits.numel() == 0:
        return logits.sum() * 0
    weight = None if confidence is None else confidence.to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), weight=weight)


def drop_weights(boxes: torch.Tensor, true_boxes: torch.Tensor, *, iou: float) -> torch.Tensor:
    """DropLoss: which boxes count. Masks miss objects, so a box far from all of them may be right after all.

    Args:
        boxes: (P, 4) float32, as refined by the head.
        true_boxes: (K, 4) float32, of all instances of the image.
        iou: boxes count whose largest IoU is over this.

    Returns:
        (P,) float32: 1 where a box counts, else 0. Without instances none counts.
    """
    from torchvision.ops import box_iou

    if len(true_boxes) == 0:
        return torch.zeros(len(boxes), device=boxes.device)
    return (box_iou(boxes, true_boxes).amax(dim=1) > iou).to(torch.float32)


def class_loss(scores: torch.Tensor, classes: torch.Tensor, *, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy of the boxes' classes.

    Args:
        scores: (P, C + 1) float, logits; the last class is background.
        classes: (P,) int64.
        weights: (P,) float, what each box counts; None is 1.

    Returns:
        A scalar: the mean over all boxes, also those that do not count.
    """
    if len(classes) == 0:
        return scores.sum() * 0
    if weights is None:
        return functional.cross_entropy(scores, classes)
    return (functional.cross_entropy(scores, classes, reduction="none") * weights).mean()
