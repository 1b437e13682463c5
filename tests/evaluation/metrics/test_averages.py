"""AP and AR against pycocotools: on made-up images here, on real photos in `test_metrics_on_photos`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts3d_cli.evaluation.benchmark_results import predictions_of
from cuts3d_cli.evaluation.metrics import STATS, Evaluator, Instance, Kind, KindMetrics, Prediction, evaluate
from cuts3d_cli.evaluation.metrics.averages import Averages
from tests.support.adversarial import CASES, Case, detections, made_up
from tests.support.coco_oracle import coco_stats
from tests.support.shapes import instance, prediction


def stats_of(figures: KindMetrics | None) -> list[float | None]:
    assert figures is not None
    return [getattr(figures, name) for name in STATS]


def same(ours: list[float | None], theirs: list[float | None]) -> None:
    assert [value is None for value in ours] == [value is None for value in theirs]
    known = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None and other is not None]
    np.testing.assert_allclose(*np.array(known).reshape(-1, 2).T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_agrees_with_pycocotools_on_adversarial_detections(case: Case, seed: int):
    truth = made_up(np.random.default_rng(seed))
    found = {number: predictions_of(item, masks=True) for number, item in detections(case, truth, seed=seed).items()}
    metrics = evaluate(found, truth)
    kinds: dict[Kind, KindMetrics | None] = {"bbox": metrics.box, "segm": metrics.mask}
    for kind, figures in kinds.items():
        assert stats_of(figures) == coco_stats(kind, found, truth)  # to the last bit


boxes = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 5), st.integers(1, 5)).map(
    lambda item: tuple(23.0 * value for value in item)
)
predictions_of_image = st.lists(st.builds(Prediction, box=boxes, score=st.sampled_from([0.9, 0.5, 0.5, 0.1])))
instances_of_image = st.lists(
    st.builds(Instance, box=boxes, area=st.sampled_from([9.0, 1024.0, 5000.0, 9216.0, 2e4]), crowd=st.booleans())
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(predictions_of_image, instances_of_image), max_size=4))
def test_it_agrees_with_pycocotools_on_anything(drawn: list[tuple[list[Prediction], list[Instance]]]):
    found = {number: predictions for number, (predictions, _) in enumerate(drawn)}
    truth = {number: instances for number, (_, instances) in enumerate(drawn)}
    assert stats_of(evaluate(found, truth).box) == coco_stats("bbox", found, truth)


def test_boxes_alone_agree_with_pycocotools_too():
    truth = {1: [Instance(box=(0, 0, 50, 50), area=2500)]}
    found = {1: [Prediction(box=(0, 0, 50, 50), score=0.5)]}
    metrics = evaluate(found, truth)
    assert stats_of(metrics.box) == coco_stats("bbox", found, truth)
    assert metrics.mask is None


def test_an_instance_may_be_of_two_sizes_at_once():
    # Both ends of a range belong to it.
    averages = Averages()
    averages.add(
        0,
        ious=np.ones((1, 1)),
        scores=np.ones(1),
        areas=np.array([1024.0]),
        true_areas=np.array([1024.0]),
        crowds=np.zeros(1, dtype=bool),
    )
    assert averages.stats()[3:6] == pytest.approx([1, 1, None])


def test_an_evaluator_takes_images_in_any_order():
    truth = made_up(np.random.default_rng(5))
    found = {number: predictions_of(item, masks=True) for number, item in detections(CASES[0], truth).items()}
    expected = evaluate(found, truth)
    evaluator = Evaluator(masks=True)
    for number in reversed(list(truth)):
        evaluator.add(number, found[number], truth[number])
    assert evaluator.metrics() == expected
    with pytest.raises(ValueError, match="image 3 is compared for the second time"):
        evaluator.add(3, [], [])


def test_an_evaluator_of_masks_wants_masks():
    thing, bare = instance(10, 10, 50, 50), Prediction(box=(10, 10, 50, 50))
    with pytest.raises(ValueError, match="image 1: a prediction or an instance has no mask"):
        Evaluator(masks=True).add(1, [bare], [thing])
    boxes_only = Evaluator(masks=False)
    boxes_only.add(1, [bare, prediction(10, 10, 50, 50)], [thing])
    assert boxes_only.metrics().mask is None
    assert boxes_only.metrics().box.matched == 1
