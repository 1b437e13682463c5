from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.config import PAPER, TrainConfig
from cuts3d_cli.detector.copy_paste import CopyPaste, Pasted, blend, choose, nearest, opacity, paste, place
from tests.detector.made import box, sample_of

SIZE = (20, 30)


def config(**changes: Any) -> TrainConfig:
    from dataclasses import replace

    return replace(PAPER.train, **changes)


def flat(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_are_blended_by_confidence():
    # Eq. 5: 0.5 * 200 + 0.5 * 100 = 150; 0.8 * 200 + 0.2 * 100 = 180; 0.75 * 1 + 0.25 * 2 = 1.25 -> 1.
    target = torch.tensor([[[100, 100, 2, 7]]], dtype=torch.uint8).expand(3, 1, 4)
    source = torch.tensor([[[200.0, 200.0, 1.0, 99.0]]]).expand(3, 1, 4)
    strength = torch.tensor([[0.5, 0.8, 0.75, 0.0]])
    assert blend(target, source, strength)[0].tolist() == [[150, 180, 1, 7]]


@pytest.mark.parametrize(("alpha", "value"), [("none", 200), ("scalar", 160), ("spatial", 140)])
def test_the_three_ways_of_blending(alpha: str, value: int):
    mask = torch.from_numpy(box(SIZE, 2, 3, 4, 5))[None]
    pasted = Pasted(
        pixels=torch.full((3, *SIZE), 200.0),
        masks=mask,
        confidence=torch.where(mask, 0.4, 1.0),
        scores=torch.tensor([0.6]),
    )
    after = paste(sample_of(flat(100), []), pasted, alpha=alpha, overlap=0.5)
    assert torch.equal(after["image"][0] == value, mask[0])
    assert torch.equal(after["image"][0] == 100, ~mask[0])


def test_a_target_without_instances_gets_the_right_boxes():
    source = sample_of(flat(200), [box(SIZE, 4, 6, 8, 12)], confidence=[0.6])
    pasted = place(source, torch.tensor([0]), scaled=(10, 15), offset=(5, 9), size=SIZE)
    after = paste(sample_of(flat(0), []), pasted, alpha="none", overlap=0.5)
    # Half the size, shifted by 5 rows and 9 columns.
    assert after["instances"].gt_boxes.tensor.tolist() == [[9 + 3, 5 + 2, 9 + 9, 5 + 6]]
    assert after["instances"].gt_scores.tolist() == pytest.approx([0.6])
    assert after["instances"].gt_pasted.tolist() == [True]


def test_what_would_hide_too_much_is_left_out():
    target = sample_of(flat(0), [box(SIZE, 0, 0, 4, 4)])
    pixels = torch.full((3, *SIZE), 200.0)

    def pasted(columns: int) -> Pasted:
        masks = torch.from_numpy(box(SIZE, 0, 0, 4, columns))[None]
        return Pasted(pixels=pixels, masks=masks, confidence=torch.ones(1, *SIZE), scores=torch.ones(1))

    assert len(paste(target, pasted(2), alpha="none", overlap=0.5)["instances"]) == 1  # exactly half
    after = paste(target, pasted(1), alpha="none", overlap=0.5)
    assert after["instances"].gt_boxes.tensor.tolist() == [[1, 0, 4, 4], [0, 0, 1, 4]]
    assert after["instances"].gt_pasted.tolist() == [False, True]


def test_confidence_is_one_where_an_instance_is_hidden():
    target = sample_of(flat(0), [box(SIZE, 0, 0, 4, 10)], confidence=[0.6])
    masks = torch.from_numpy(box(SIZE, 0, 0, 4, 2))[None]
    given = Pasted(
        pixels=torch.zeros(3, *SIZE), masks=masks, confidence=torch.where(masks, 0.8, 1.0), scores=torch.ones(1)
    )
    own, other = paste(target, given, alpha="none", overlap=0.5)["instances"].gt_confidence.dense()
    assert own[0, :12].tolist() == pytest.approx([1, 1, *[0.6] * 8, 1, 1])
    assert other[0, :4].tolist() == pytest.approx([0.8, 0.8, 1, 1])


def test_the_most_confident_are_pasted_and_never_all():
    scores = torch.tensor([0.7, 0.9, 0.6, 0.9])
    found = {tuple(choose(scores, confident=True, generator=generator(seed)).tolist()) for seed in range(40)}
    assert found == {(1,), (1, 3), (0, 1, 3)}
    any_of = {tuple(choose(scores, confident=False, generator=generator(seed)).tolist()) for seed in range(200)}
    assert {len(item) for item in any_of} == {1, 2, 3}
    assert {(0,), (1,), (2,), (3,)} <= any_of
    assert choose(scores[:1], confident=True, generator=generator()).tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_no_image_is_pasted_onto_itself(count: int):
    batch = [sample_of(flat(20 + 40 * number), [box(SIZE, 8, 12, 4, 5)]) for number in range(count)]
    for seed in range(30):
        after = CopyPaste(config(alpha="none", copy_paste_overlap=1.0))(batch, generator=generator(seed))
        for number, sample in enumerate(after):
            pasted = sample["instances"].gt_masks.dense()[sample["instances"].gt_pasted]
            assert bool(len(pasted)) <= (count > 1)
            assert not (sample["image"][:, pasted.any(dim=0)] == 20 + 40 * number).any()
        # the batch itself is as it was
        assert all((sample["image"] == 20 + 40 * number).all() for number, sample in enumerate(batch))


def test_switches():
    batch = [sample_of(flat(value), [box(SIZE, 2, 2, 5, 5)]) for value in (10, 200)]
    for changes in ({"copy_paste": False}, {"copy_paste_rate": 0.0}):
        after = CopyPaste(config(**changes))(batch, generator=generator())
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(after, batch, strict=True))
        assert not any(sample["instances"].gt_pasted.any() for sample in after)


def test_equal_generators_paste_alike():
    batch = [sample_of(flat(value), [box(SIZE, 2, 2, 5, 5), box(SIZE, 9, 9, 6, 6)]) for value in (10, 90, 200)]
    first, second = (CopyPaste(config())(batch, generator=generator(7)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


rectangle = st.tuples(st.integers(0, 14), st.integers(0, 22), st.integers(1, 6), st.integers(1, 8))
instance = st.tuples(rectangle, st.sampled_from([0.5, 0.6, 0.8, 0.9]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(instance, max_size=4), min_size=2, max_size=4), st.integers(0, 1000))
def test_boxes_masks_and_confidence_stay_aligned(images: list[list[Any]], seed: int):
    batch = [
        sample_of(flat(30 * number), [box(SIZE, *where) for where, _ in items], confidence=[c for _, c in items])
        for number, items in enumerate(images)
    ]
    for sample in CopyPaste(config())(batch, generator=generator(seed)):
        instances = sample["instances"]
        masks, confidence = instances.gt_masks.dense(), instances.gt_confidence.dense()
        assert instances.gt_masks.nonempty().all()
        assert torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)
        pasted = masks[instances.gt_pasted]
        assert (pasted.sum(dim=0) <= 1).all()
        assert not (masks[~instances.gt_pasted] & pasted.any(dim=0)).any()
        # An instance's confidence is its own number inside of it, and 1 elsewhere.
        for mask, values, score in zip(masks, confidence, instances.gt_scores, strict=True):
            assert torch.allclose(values[mask], score, atol=1 / 255)
            assert (values[~mask] == 1).all()


def test_resampling_takes_the_pixel_at_the_centre():
    row = torch.arange(6)[None, None]
    assert nearest(row, (1, 3)).tolist() == [[[1, 3, 5]]]
    assert nearest(row, (2, 6))[0].tolist() == [list(range(6))] * 2
    assert nearest(row, (1, 12))[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_overlapping_instances_of_one_source_hide_each_other():
    masks = torch.from_numpy(np.stack([box(SIZE, 0, 0, 4, 6), box(SIZE, 0, 4, 4, 6)]))
    given = Pasted(
        pixels=torch.zeros(3, *SIZE), masks=masks, confidence=torch.ones(2, *SIZE), scores=torch.tensor([1.0, 0.5])
    )
    after = paste(sample_of(flat(9), []), given, alpha="scalar", overlap=0.5)
    assert after["instances"].gt_boxes.tensor.tolist() == [[0, 0, 4, 4], [4, 0, 10, 4]]
    assert after["image"][0, 0, :11].tolist() == [0, 0, 0, 0, *[4] * 6, 9]
    strength = opacity(after["instances"].gt_masks.dense(), torch.ones(2, *SIZE), given.scores, alpha="scalar")
    assert strength.max() <= 1
