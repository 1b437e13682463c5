from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.config import PAPER, TrainConfig
from cuts3d_cli.detector.copy_paste import (
    CopyPaste,
    PastedInstances,
    blend,
    choose,
    hides,
    nearest_pixels,
    opacity,
    paste,
    place,
    sampled,
    uncovered,
)
from cuts3d_cli.detector.maps import ConfidenceMaps
from tests.support.training_data import box, sample_of

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
    pasted = PastedInstances(
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
    pasted = place(source, torch.tensor([0]), scaled=(10, 15), offset=(5, 9))
    after = paste(sample_of(flat(0), []), pasted, alpha="none", overlap=0.5)
    # Half the size, shifted by 5 rows and 9 columns.
    assert after["instances"].gt_boxes.tensor.tolist() == [[9 + 3, 5 + 2, 9 + 9, 5 + 6]]
    assert after["instances"].gt_scores.tolist() == pytest.approx([0.6])
    assert after["instances"].gt_pasted.tolist() == [True]


def test_what_would_hide_too_much_is_left_out():
    target = sample_of(flat(0), [box(SIZE, 0, 0, 4, 4)])
    pixels = torch.full((3, *SIZE), 200.0)

    def pasted(columns: int) -> PastedInstances:
        masks = torch.from_numpy(box(SIZE, 0, 0, 4, columns))[None]
        return PastedInstances(pixels=pixels, masks=masks, confidence=torch.ones(1, *SIZE), scores=torch.ones(1))

    assert len(paste(target, pasted(2), alpha="none", overlap=0.5)["instances"]) == 1  # exactly half
    after = paste(target, pasted(1), alpha="none", overlap=0.5)
    assert after["instances"].gt_boxes.tensor.tolist() == [[1, 0, 4, 4], [0, 0, 1, 4]]
    assert after["instances"].gt_pasted.tolist() == [False, True]


def test_confidence_is_one_where_an_instance_is_hidden():
    target = sample_of(flat(0), [box(SIZE, 0, 0, 4, 10)], confidence=[0.6])
    masks = torch.from_numpy(box(SIZE, 0, 0, 4, 2))[None]
    given = PastedInstances(
        pixels=torch.zeros(3, *SIZE), masks=masks, confidence=torch.where(masks, 0.8, 1.0), scores=torch.ones(1)
    )
    own, other = paste(target, given, alpha="none", overlap=0.5)["instances"].gt_confidence.dense()
    assert own[0, :12].tolist() == pytest.approx([1, 1, *[0.6] * 8, 1, 1])
    assert other[0, :4].tolist() == pytest.approx([0.8, 0.8, 1, 1])


def with_doubtful_rim(sample: dict[str, Any], *, value: float) -> dict[str, Any]:
    """The same sample, where the pixels within 2 of each mask but outside of it have a confidence of their own."""
    instances = sample["instances"]
    masks = instances.gt_masks.dense()
    grown = torch.nn.functional.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
    instances.gt_confidence = ConfidenceMaps.of(torch.where(grown & ~masks, value, instances.gt_confidence.dense()))
    return sample


def test_doubt_around_an_instance_stays_but_for_what_lies_over_it():
    # The confidence map covers more than the mask: columns 4 and 5 of rows 0 to 5, and rows 4 and 5.
    target = with_doubtful_rim(sample_of(flat(0), [box(SIZE, 0, 0, 4, 4)], confidence=[0.8]), value=0.6)
    masks = torch.from_numpy(box(SIZE, 0, 5, 4, 3))[None]
    given = PastedInstances(
        pixels=torch.zeros(3, *SIZE),
        masks=masks,
        confidence=torch.full((1, *SIZE), 0.8),
        scores=torch.ones(1),
    )
    own, other = paste(target, given, alpha="spatial", overlap=0.5)["instances"].gt_confidence.dense()
    assert own[0, :7].tolist() == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.6, 1, 1])
    assert own[5, :7].tolist() == pytest.approx([0.6] * 6 + [1])
    # The pasted one ends sharply where its mask ends, so around it nothing is in doubt.
    assert other[0, 3:10].tolist() == pytest.approx([1, 1, 0.8, 0.8, 0.8, 1, 1])


def test_what_hides_too_much_is_told_by_its_share():
    below = torch.tensor([[[1, 1, 1, 0, 0, 0]], [[0, 0, 0, 0, 1, 0]]], dtype=torch.bool)
    above = torch.tensor([[[1, 0, 0, 1, 0, 0]], [[0, 1, 1, 0, 0, 0]], [[0, 0, 0, 0, 0, 1]]], dtype=torch.bool)
    areas = below.sum(dim=(1, 2))
    for share, expected in [(0.0, [1, 1, 0]), (1 / 3, [1, 1, 0]), (0.5, [0, 1, 0]), (1.0, [0, 0, 0])]:
        assert hides(above, below, areas=areas, share=share).tolist() == expected
    # An area may lie partly elsewhere: 2 of 4 pixels are half of it, 2 of 5 are not.
    assert hides(above[1:2], below[:1], areas=torch.tensor([4]), share=0.5).tolist() == [True]
    assert hides(above[1:2], below[:1], areas=torch.tensor([5]), share=0.5).tolist() == [False]
    assert hides(above, below[:0], areas=areas[:0], share=0.0).tolist() == [False] * 3


def test_shared_pixels_are_counted_exactly_in_mixed_precision():
    # 300 of 601 pixels are less than half of them; in bfloat16 601 and 300 are 600 and 300.
    masks = torch.zeros(2, 1, 601, dtype=torch.bool)
    masks[0], masks[1, 0, :300] = True, True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hides(masks[1:], masks[:1], areas=torch.tensor([601]), share=0.5).tolist() == [False]
        assert hides(masks[:1], masks[:1], areas=torch.tensor([601]), share=1.0).tolist() == [True]


def test_an_instance_that_is_hidden_whole_is_gone():
    target = sample_of(flat(0), [box(SIZE, 0, 0, 4, 4), box(SIZE, 10, 10, 2, 2)], confidence=[0.6, 0.8])
    masks = torch.from_numpy(box(SIZE, 10, 10, 3, 3))[None]
    given = PastedInstances(
        pixels=torch.zeros(3, *SIZE), masks=masks, confidence=torch.ones(1, *SIZE), scores=torch.ones(1)
    )
    # With a share over 1 nothing is left out.
    after = paste(target, given, alpha="none", overlap=1.01)["instances"]
    assert after.gt_boxes.tensor.tolist() == [[0, 0, 4, 4], [10, 10, 13, 13]]
    assert after.gt_scores.tolist() == pytest.approx([0.6, 1.0])
    assert [float(values.min()) for values in after.gt_confidence.dense()] == pytest.approx([0.6, 1.0])
    assert after.gt_pasted.tolist() == [False, True]


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
frame = st.tuples(st.integers(20, 33), st.integers(30, 47))
picture = st.tuples(frame, st.lists(instance, max_size=4))


@settings(deadline=None, max_examples=60)
@given(st.lists(picture, min_size=2, max_size=4), st.integers(0, 1000), st.sampled_from(["spatial", "scalar", "none"]))
def test_boxes_masks_and_confidence_stay_aligned(images: list[Any], seed: int, alpha: str):
    batch = [
        with_doubtful_rim(
            sample_of(
                flat(30 * number, size), [box(size, *where) for where, _ in items], confidence=[c for _, c in items]
            ),
            value=0.7,
        )
        for number, (size, items) in enumerate(images)
    ]
    before = [(sample["image"].clone(), sample["instances"].gt_masks.dense().clone()) for sample in batch]
    rims = [sample["instances"].gt_confidence.dense().clone() for sample in batch]
    after = CopyPaste(config(alpha=alpha))(batch, generator=generator(seed))
    for old, (image, own), maps in zip(batch, before, rims, strict=True):
        assert torch.equal(old["image"], image)
        assert torch.equal(old["instances"].gt_masks.dense(), own)
        assert torch.equal(old["instances"].gt_confidence.dense(), maps)
        assert not old["instances"].has("gt_pasted")
    for sample, (image, old_masks), old_maps in zip(after, before, rims, strict=True):
        instances = sample["instances"]
        masks, confidence = instances.gt_masks.dense(), instances.gt_confidence.dense()
        new = instances.gt_pasted
        assert masks.shape[1:] == image.shape[1:] == sample["image"].shape[1:]
        assert instances.gt_masks.nonempty().all()
        assert torch.equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)
        assert (masks[new].sum(dim=0) <= 1).all()
        hidden = masks[new].any(dim=0)
        assert not (masks[~new] & hidden).any()
        assert torch.equal(sample["image"][:, ~hidden], image[:, ~hidden])
        # What is left of the image's own instances is theirs, in their order; so is their confidence.
        left = [number for number, mask in enumerate(old_masks) if (mask & ~hidden).any()]
        assert torch.equal(masks[~new], old_masks[left] & ~hidden)
        assert torch.equal(confidence[~new], torch.where(hidden, 1.0, old_maps[left]))
        # A pasted instance's confidence is its own number inside of it, and 1 elsewhere.
        for mask, values, score in zip(masks[new], confidence[new], instances.gt_scores[new], strict=True):
            assert torch.allclose(values[mask], score, atol=1 / 255)
            assert (values[~mask] == 1).all()


def test_resampling_takes_the_pixel_at_the_centre():
    row = ConfidenceMaps(torch.arange(6)[None, None])

    def resampled(size: tuple[int, int]) -> torch.Tensor:
        return sampled(row, nearest_pixels((1, 6), size, device=torch.device("cpu")))

    assert resampled((1, 3)).tolist() == [[[1, 3, 5]]]
    assert resampled((2, 6))[0].tolist() == [list(range(6))] * 2
    assert resampled((1, 12))[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_overlapping_instances_of_one_source_hide_each_other():
    masks = torch.from_numpy(np.stack([box(SIZE, 0, 0, 4, 6), box(SIZE, 0, 4, 4, 6)]))
    given = PastedInstances(
        pixels=torch.zeros(3, *SIZE), masks=masks, confidence=torch.ones(2, *SIZE), scores=torch.tensor([1.0, 0.5])
    )
    after = paste(sample_of(flat(9), []), given, alpha="scalar", overlap=0.5)
    assert after["instances"].gt_boxes.tensor.tolist() == [[0, 0, 4, 4], [4, 0, 10, 4]]
    assert after["image"][0, 0, :11].tolist() == [0, 0, 0, 0, *[4] * 6, 9]
    assert torch.equal(uncovered(masks), after["instances"].gt_masks.dense())
    strength = opacity(after["instances"].gt_masks.dense(), torch.ones(2, *SIZE), given.scores, alpha="scalar")
    assert strength.max() <= 1
