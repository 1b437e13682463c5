from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from cuts3d_cli.detector.maps import ConfidenceMaps, IndexedMasks


def some(count: int = 5, size: tuple[int, int] = (30, 40)) -> torch.Tensor:
    return torch.rand((count, *size), generator=torch.Generator().manual_seed(0)) > 0.6


def test_targets_and_boxes_are_those_of_detectron2():
    masks = some()
    masks[2] = False
    masks[3] = False
    masks[3, 4:9, 7:20] = True
    ours, theirs = IndexedMasks(masks), BitMasks(masks)
    boxes = torch.tensor([[0.0, 0, 40, 30], [3.3, 2.1, 20.7, 18.2], [5, 5, 6, 6], [6, 3, 22, 11], [-4, -3, 50, 40]])
    assert torch.equal(ours.crop_and_resize(boxes, 14), theirs.crop_and_resize(boxes, 14))
    assert torch.equal(ours.get_bounding_boxes().tensor, theirs.get_bounding_boxes().tensor)
    assert torch.equal(ours.nonempty(), theirs.nonempty())
    assert ours.get_bounding_boxes().tensor[3].tolist() == [7, 4, 20, 9]
    index = torch.tensor([3, 3, 0, 1, 3])
    assert torch.equal(ours[index].crop_and_resize(boxes, 28), theirs[index].crop_and_resize(boxes, 28))


def test_indexing_copies_no_map():
    masks = IndexedMasks(some())
    chosen = masks[torch.tensor([4, 0, 4])]
    assert chosen.maps.data_ptr() == masks.maps.data_ptr()
    assert len(chosen) == 3
    assert torch.equal(chosen.dense(), masks.maps[[4, 0, 4]])
    assert torch.equal(masks[1].dense(), masks.maps[1:2])
    assert torch.equal(masks[1:3][1].dense(), masks.maps[2:3])
    assert len(masks[torch.zeros(5, dtype=torch.bool)]) == 0


def test_instances_can_be_put_together():
    size = (30, 40)
    parts = []
    for _ in range(2):
        part = Instances(size)
        part.gt_masks = IndexedMasks(some(2))[torch.tensor([1])]
        part.gt_confidence = ConfidenceMaps.ones(1, size)
        parts.append(part)
    both = Instances.cat(parts)
    assert len(both) == 2
    assert torch.equal(both.gt_masks.dense(), torch.cat([part.gt_masks.dense() for part in parts]))
    with pytest.raises(ValueError, match="no fields to concatenate"):
        IndexedMasks.cat([])


def test_full_confidence_is_exactly_one_wherever_it_is_asked_for():
    maps = ConfidenceMaps.ones(3, (20, 30))
    boxes = torch.tensor([[-10.0, -5, 60, 40], [0.37, 1.91, 13.3, 17.77], [25, 15, 90, 80]])
    assert torch.equal(maps.crop_and_resize(boxes, 28), torch.ones(3, 28, 28))
    assert torch.equal(maps.dense(), torch.ones(3, 20, 30))


def test_confidence_is_resampled_as_masks_are():
    mask = some(1)
    doubt = ConfidenceMaps.of(torch.where(mask, 0.0, 1.0))
    boxes = torch.tensor([[3.0, 2, 25, 28]])
    assert torch.equal(doubt.crop_and_resize(boxes, 14) <= 0.5, IndexedMasks(mask).crop_and_resize(boxes, 14))
    half = ConfidenceMaps.of(torch.full((1, 20, 30), 0.5))
    inside = half.crop_and_resize(torch.tensor([[2.0, 2, 10, 10]]), 7)
    assert np.allclose(inside, 128 / 255)


def test_maps_have_three_axes():
    with pytest.raises(ValueError, match=r"expected \(K, H, W\)"):
        IndexedMasks(torch.zeros(3, 4, dtype=torch.bool))
