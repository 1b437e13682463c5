"""Detections as they are stored."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.detections import Detections, decode, encode, from_detections

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


def test_empty_masks_are_left_out():
    stored = from_detections(detections(), size=SIZE)
    assert [item.score for item in stored.instances] == [0.9, 0.8, 0.123457]
    assert [item.area for item in stored.instances] == [18, 24, 36]
    assert {item.class_id for item in stored.instances} == {None}


def test_the_record_of_a_photo():
    found = detections()
    content = json.loads(encode(from_detections(found, size=SIZE))["predict.json"])
    first = {"score": 0.9, "bbox": [3.12, 2.46, 6.67, 2.64], "segmentation": found.masks[0], "area": 18}
    assert (content["height"], content["width"], content["instances"][0]) == (20, 30, first)


def test_the_classes_of_a_detector_that_knows_several_are_kept():
    found = replace(detections(), classes=np.array([7, 0, 3, 79]))
    members = encode(from_detections(found, size=SIZE))
    assert [item["class_id"] for item in json.loads(members["predict.json"])["instances"]] == [7, 0, 79]
    read = decode(Sample(key="a", members=members))
    assert [item.class_id for item in read.instances] == [7, 0, 79]
    record = json.loads(members["predict.json"])
    record["instances"][2]["class_id"] = -1
    damaged = json.dumps(record).encode()
    with pytest.raises(ShardError, match="instance 2: its class_id is -1"):
        decode(Sample(key="a", members={"predict.json": damaged}))
