from __future__ import annotations

import math

import torch
from torch.nn import functional

from cuts3d_cli.detector.losses import class_loss, drop_weights, soft_mask_loss


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_full_confidence_is_the_plain_loss_to_the_bit():
    logits, targets = drawn(5, 28, 28), drawn(5, 28, 28, seed=1) > 0
    plain = functional.binary_cross_entropy_with_logits(logits, targets.float())
    assert torch.equal(soft_mask_loss(logits, targets), plain)
    assert torch.equal(soft_mask_loss(logits, targets, confidence=torch.ones(5, 28, 28)), plain)


def test_half_confidence_halves_the_loss():
    logits, targets = drawn(3, 14, 14), drawn(3, 14, 14, seed=1) > 0
    half = soft_mask_loss(logits, targets, confidence=torch.full((3, 14, 14), 0.5))
    assert torch.allclose(half, soft_mask_loss(logits, targets) / 2, rtol=1e-6)


def test_each_pixel_has_its_own_weight():
    # Two pixels with logit 0, so a loss of log 2 each: confidence 1 and 0.5 give the mean of log 2 and half of it.
    logits = torch.zeros(1, 1, 2)
    value = soft_mask_loss(logits, torch.tensor([[[True, False]]]), confidence=torch.tensor([[[1.0, 0.5]]]))
    assert math.isclose(float(value), 0.75 * math.log(2), rel_tol=1e-6)


def test_no_instances_is_no_loss_that_can_be_learned_from():
    logits = torch.zeros(0, 28, 28, requires_grad=True)
    loss = soft_mask_loss(logits, torch.zeros(0, 28, 28, dtype=torch.bool))
    loss.backward()
    assert float(loss) == 0


def test_boxes_far_from_all_instances_are_dropped():
    true = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [52, 52, 60, 60], [20, 20, 30, 30], [9.9, 9.9, 30, 30]])
    # IoU with the nearest: 1, 0.64, 0, and 0.01 / 503.
    assert drop_weights(boxes, true, iou=0.01).tolist() == [1, 1, 0, 0]
    assert drop_weights(boxes, torch.zeros(0, 4), iou=0.01).tolist() == [0, 0, 0, 0]
    assert drop_weights(boxes[:1], true, iou=1.0).tolist() == [0]  # at most the threshold is dropped


def test_the_class_loss_is_a_mean_over_all_boxes():
    scores, classes = drawn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    assert torch.equal(class_loss(scores, classes), functional.cross_entropy(scores, classes))
    each = functional.cross_entropy(scores, classes, reduction="none")
    weights = torch.tensor([1.0, 0, 1, 1, 0, 0])
    assert torch.allclose(class_loss(scores, classes, weights=weights), (each[0] + each[2] + each[3]) / 6)
    assert float(class_loss(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))) == 0
