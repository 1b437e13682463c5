"""Detections as they are stored."""

from __future__ import annotations

import json

import numpy as np

from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.sidecars.detections import Detections, encode, from_detections

SIZE = (20, 30)


def detections() -> Detections:
    masks = np.zeros((4, *SIZE), dtype=bool)
    for number in (0, 1, 3):
        masks[number, 2 : 5 + number, 3:9] = True
    return Detections(
        boxes=np.array([[3.123, 2.456, 9.789, 5.1]] * 4, dtype=np.float32),
        scores=np.array([0.9, 0.8, 0.7, 0.1234567], dtype=np.float32),
        masks=[encode_rle(mask) for mask in masks],
    )


def test_the_best_are_kept_and_empty_masks_are_not():
    stored = from_detections(detections(), size=SIZE, min_score=0.1, max_detections=9)
    assert [item.score for item in stored.instances] == [0.9, 0.8, 0.123457]
    assert [item.area for item in stored.instances] == [18, 24, 36]
    assert [
        item.score for item in from_detections(detections(), size=SIZE, min_score=0.5, max_detections=9).instances
    ] == [
        0.9,
        0.8,
    ]
    assert len(from_detections(detections(), size=SIZE, min_score=0.0, max_detections=1).instances) == 1


def test_the_record_of_a_photo():
    found = detections()
    content = json.loads(encode(from_detections(found, size=SIZE, min_score=0.85, max_detections=9))["predict.json"])
    assert content == {
        "height": 20,
        "width": 30,
        "instances": [
            {"score": 0.9, "bbox": [3.12, 2.46, 6.67, 2.64], "segmentation": found.masks[0], "area": 18},
        ],
    }
