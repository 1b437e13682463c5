from __future__ import annotations

import json
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.evaluation.metrics import Instance, KindMetrics, Metrics, Prediction, evaluate
from tests.support.shapes import instance, prediction, rectangle

OBJECT = (20, 20, 100, 100)
ELSEWHERE = (180, 50, 100, 100)
RECALLS = 101
"""COCO reads precision at recalls 0, 0.01, ..., 1."""


def near(value: Any) -> Any:
    """COCO's AP of a perfect result is 1 - 2e-16."""
    return pytest.approx(value, abs=1e-12)


def both(metrics: Metrics) -> tuple[KindMetrics, KindMetrics]:
    assert metrics.mask is not None
    return metrics.box, metrics.mask


def one_image(predictions: list[Prediction], instances: list[Instance]) -> Metrics:
    return evaluate({1: predictions}, {1: instances})


# ---------------------------------------------------------------------------------------------- worked by hand


def test_a_perfect_prediction():
    metrics = one_image([prediction(*OBJECT)], [instance(*OBJECT)])
    for figures in both(metrics):
        assert (figures.ap, figures.ap50, figures.ap75) == near((1, 1, 1))
        assert (figures.ap_small, figures.ap_medium, figures.ap_large) == near((None, None, 1))
        assert (figures.ar1, figures.ar10, figures.ar100) == (1, 1, 1)
        assert (figures.recall50, figures.precision50, figures.mean_best_iou) == (1, 1, 1)
        assert (figures.matched, figures.ignored) == (1, 0)
    assert (metrics.images, metrics.instances, metrics.crowds, metrics.predictions) == (1, 1, 0, 1)


def test_one_of_two_instances_is_found():
    metrics = one_image([prediction(*OBJECT)], [instance(*OBJECT), instance(*ELSEWHERE)])
    for figures in both(metrics):
        # Precision is 1 at the 51 recalls up to 0.5, and 0 beyond.
        assert figures.ap == near(51 / RECALLS)
        assert (figures.ar100, figures.recall50, figures.precision50) == (0.5, 0.5, 1)
        assert figures.mean_best_iou == 0.5


@pytest.mark.parametrize(("score", "ap"), [(0.9, 0.5), (0.3, 1.0)])
def test_a_false_positive_counts_if_its_score_is_higher(score: float, ap: float):
    metrics = one_image([prediction(*OBJECT, score=0.5), prediction(*ELSEWHERE, score=score)], [instance(*OBJECT)])
    for figures in both(metrics):
        assert figures.ap == near(ap)
        assert (figures.recall50, figures.precision50) == (1, 0.5)


def test_an_overlap_of_two_thirds_passes_four_of_ten_thresholds():
    # 80 of 120 columns: 0.50, 0.55, 0.60 and 0.65 are passed.
    metrics = one_image([prediction(20, 20, 100, 100)], [instance(40, 20, 100, 100)])
    for figures in both(metrics):
        assert figures.ap == near(0.4)
        assert figures.ar100 == near(0.4)
        assert (figures.ap50, figures.ap75) == (near(1), 0)
        assert figures.mean_best_iou == near(2 / 3)


def test_an_iou_of_just_one_half_is_found():
    for figures in both(one_image([prediction(20, 20, 50, 100)], [instance(*OBJECT)])):
        assert (figures.recall50, figures.precision50, figures.ap50) == (1, 1, near(1))


def test_a_repeated_prediction_is_a_false_positive():
    for figures in both(one_image([prediction(*OBJECT)] * 2, [instance(*OBJECT)])):
        assert figures.ap == near(1)
        assert (figures.recall50, figures.precision50) == (1, 0.5)


def test_one_prediction_of_two_instances_finds_one_and_is_the_best_of_both():
    instances = [instance(20, 20, 60, 100), instance(80, 20, 40, 100)]
    for figures in both(one_image([prediction(*OBJECT)], instances)):
        assert (figures.matched, figures.recall50) == (1, 0.5)
        assert figures.mean_best_iou == near((0.6 + 0.4) / 2)


def test_without_predictions_all_is_0_and_precision_is_undefined():
    metrics = evaluate({}, {1: [instance(*OBJECT)], 2: []})
    for figures in both(metrics):
        assert (figures.ap, figures.ar100, figures.recall50, figures.mean_best_iou) == (0, 0, 0, 0)
        assert figures.precision50 is None


def test_without_instances_all_is_undefined_but_precision():
    metrics = one_image([prediction(*OBJECT)], [])
    assert metrics.mask is None
    assert (metrics.box.ap, metrics.box.ar100, metrics.box.recall50, metrics.box.mean_best_iou) == (None,) * 4
    assert metrics.box.precision50 == 0


def test_of_no_images_nothing_is_known():
    metrics = evaluate({}, {})
    assert (metrics.images, metrics.mask) == (0, None)
    assert set(astuple(metrics.box)) == {None, 0}


def test_predictions_on_images_without_instances_are_false_positives():
    truth = {1: [instance(*OBJECT)], 2: []}
    alone = evaluate({1: [prediction(*OBJECT, score=0.5)]}, truth)
    more = evaluate({1: [prediction(*OBJECT, score=0.5)], 2: [prediction(*OBJECT, score=0.9)]}, truth)
    assert [figures.ap for figures in both(alone)] == near([1, 1])
    assert [figures.ap for figures in both(more)] == near([0.5, 0.5])
    assert more.box.precision50 == 0.5


def test_sizes_are_those_of_the_annotations():
    small, medium = (5, 5, 20, 20), (50, 50, 60, 60)
    instances = [instance(*small), instance(*medium)]
    for figures in both(one_image([prediction(*small)], instances)):
        assert (figures.ap_small, figures.ap_medium, figures.ap_large) == near((1, 0, None))
    resized = [replace(instances[0], area=100.0**2), instances[1]]
    for figures in both(one_image([prediction(*small)], resized)):
        assert (figures.ap_small, figures.ap_medium, figures.ap_large) == near((None, 0, 1))


def test_ar_is_limited_to_so_many_predictions_and_recall_is_not():
    places = [(x, y, 10, 10) for x in range(0, 240, 20) for y in range(0, 180, 15)]
    instances = [instance(*place) for place in places]
    predictions = [prediction(*place, score=1 - number / 1000) for number, place in enumerate(places)]
    assert len(places) == 144
    for figures in both(one_image(predictions, instances)):
        assert [figures.ar1, figures.ar10, figures.ar100] == near([1 / 144, 10 / 144, 100 / 144])
        assert (figures.recall50, figures.precision50) == (1, 1)


def test_masks_tell_apart_what_has_one_box():
    corner = np.zeros((200, 300), dtype=bool)
    corner[20:120, 20:30] = corner[110:120, 20:120] = True
    box, mask = both(one_image([Prediction.of_mask(encode_rle(corner))], [instance(*OBJECT)]))
    assert (box.ap, box.recall50) == near((1, 1))
    assert (mask.ap, mask.recall50) == (0, 0)
    assert mask.mean_best_iou == pytest.approx(1900 / 10000)


# ---------------------------------------------------------------------------------------------- crowds


def test_a_prediction_in_a_crowd_region_is_no_false_positive():
    instances = [instance(*OBJECT), instance(150, 0, 150, 200, crowd=True)]
    predictions = [prediction(*OBJECT, score=0.5), prediction(*ELSEWHERE, score=0.9)]
    metrics = one_image(predictions, instances)
    for figures in both(metrics):
        assert figures.ap == near(1)
        assert (figures.recall50, figures.precision50, figures.mean_best_iou) == (1, 1, 1)
        assert (figures.matched, figures.ignored) == (1, 1)
    assert (metrics.instances, metrics.crowds) == (1, 1)


def test_a_crowd_region_takes_any_number_and_half_a_prediction():
    instances = [instance(*OBJECT), instance(200, 0, 100, 200, crowd=True)]
    half, less = (150, 20, 100, 100), (149, 20, 100, 100)
    for predictions, ignored in (([prediction(*half)] * 5, 5), ([prediction(*less)] * 5, 0)):
        for figures in both(one_image(predictions, instances)):
            assert figures.ignored == ignored
            assert figures.precision50 == (None if ignored else 0)


def test_a_prediction_that_finds_an_instance_in_a_crowd_region_counts():
    for figures in both(one_image([prediction(*OBJECT)], [instance(0, 0, 300, 200, crowd=True), instance(*OBJECT)])):
        assert (figures.matched, figures.ignored, figures.precision50, figures.ap) == near((1, 0, 1, 1))


def test_of_crowds_alone_nothing_is_known():
    for figures in both(one_image([prediction(*OBJECT)], [instance(0, 0, 300, 200, crowd=True)])):
        assert set(astuple(figures)[:-2]) == {None}
        assert (figures.matched, figures.ignored) == (0, 1)


# ---------------------------------------------------------------------------------------------- boxes alone


def test_boxes_alone_give_no_row_of_masks():
    truth = Instance(box=(20.5, 20, 100, 100), area=9000.0)
    metrics = one_image([prediction(*OBJECT)], [truth])
    assert metrics.mask is None
    assert metrics.box.mean_best_iou == pytest.approx(99.5 / 100.5)
    assert one_image([Prediction(box=(20, 20, 100, 100))], [instance(*OBJECT)]).mask is None


# ---------------------------------------------------------------------------------------------- order

places = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4), st.integers(1, 4)).map(
    lambda item: (item[0] * 20, item[1] * 15, item[2] * 25, item[3] * 25)
)
predictions_of_image = st.lists(
    st.builds(lambda place, score: prediction(*place, score=score), places, st.sampled_from([1.0, 0.75, 0.5])),
    max_size=6,
)
instances_of_image = st.lists(
    st.builds(lambda place, crowd: instance(*place, crowd=crowd), places, st.sampled_from([False, False, True])),
    max_size=6,
)
images = st.lists(st.tuples(predictions_of_image, instances_of_image), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(images, st.randoms(use_true_random=False))
def test_no_order_of_anything_matters(drawn: list[tuple[list[Prediction], list[Instance]]], random: object):
    numbers = list(range(1, len(drawn) + 1))
    predictions = {number: drawn[number - 1][0] for number in numbers}
    truth = {number: drawn[number - 1][1] for number in numbers}
    expected = evaluate(predictions, truth)
    for _ in range(3):
        random.shuffle(numbers)  # type: ignore[attr-defined]
        shuffled = [
            {number: random.sample(items[number], len(items[number])) for number in numbers}  # type: ignore[attr-defined]
            for items in (predictions, truth)
        ]
        assert evaluate(shuffled[0], shuffled[1]) == expected


def test_of_equal_scores_the_largest_mask_comes_first():
    large, small = prediction(*OBJECT), prediction(180, 50, 50, 50)
    for predictions in ([large, small], [small, large]):
        assert one_image(predictions, [instance(*OBJECT)]).box.ar1 == 1
        assert one_image(predictions, [instance(180, 50, 50, 50)]).box.ar1 == 0


def test_of_instances_that_overlap_a_prediction_equally_always_the_same_is_taken():
    left, right = instance(50, 20, 100, 100), instance(150, 20, 100, 100)
    # The first prediction could have either, by an IoU of one half; the second only the left one.
    predictions = [prediction(50, 20, 200, 100, score=0.9), prediction(50, 20, 90, 100, score=0.5)]
    for instances in ([left, right], [right, left]):
        for figures in both(one_image(predictions, instances)):
            assert (figures.ap50, figures.recall50) == near((1, 1))


def test_of_equal_scores_the_image_of_the_smallest_id_comes_first():
    truth = {3: [instance(*OBJECT)], 12: [instance(*OBJECT)]}
    first = evaluate({12: [prediction(*ELSEWHERE)], 3: [prediction(*OBJECT)]}, truth)
    last = evaluate({12: [prediction(*OBJECT)], 3: [prediction(*ELSEWHERE)]}, truth)
    assert first.box.ap == near(51 / RECALLS)
    assert last.box.ap == near(0.5 * 51 / RECALLS)


# ---------------------------------------------------------------------------------------------- the rest


def test_it_is_plain_json_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]):
    metrics = one_image([prediction(*OBJECT)], [instance(*OBJECT), instance(*ELSEWHERE)])
    assert capsys.readouterr() == ("", "")
    stored = json.loads(json.dumps(metrics.to_json()))
    assert stored["mask"]["ap"] == metrics.box.ap
    assert stored["box"]["ap_small"] is None
    assert (stored["images"], stored["instances"], stored["crowds"], stored["predictions"]) == (1, 2, 0, 1)
    assert one_image([], []).to_json()["mask"] is None


def test_the_input_is_left_as_it_was():
    given_predictions, given_instances = [prediction(*ELSEWHERE), prediction(*OBJECT)], [instance(*OBJECT)]
    before = [list(given_predictions), list(given_instances)]
    one_image(given_predictions, given_instances)
    assert [given_predictions, given_instances] == before


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="1 images have predictions and no ground truth, the first of them 2"):
        evaluate({2: [prediction(*OBJECT)]}, {1: []})
    with pytest.raises(ValueError, match="image 1: a prediction has the score nan"):
        one_image([prediction(*OBJECT, score=float("nan"))], [])
    with pytest.raises(ValueError, match="image 1: its masks differ in size"):
        one_image([Prediction.of_mask(rectangle(1, 1, 5, 5, size=(300, 200)))], [instance(*OBJECT)])
