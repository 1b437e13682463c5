"""Masks as they are stored, from a cut and from a round of self-training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.cut.image import CutResult, Instance
from cuts3d_cli.cut.masks import decode_rle, encode_rle, rle_area, rle_box
from cuts3d_cli.cut.types import Candidate, Extraction
from cuts3d_cli.shards.reader import Sample
from cuts3d_cli.sidecars.masks import (
    StoredMask,
    StoredMasks,
    decode,
    encode,
    flaws,
    from_cut,
    node_index,
    node_position,
)
from tests.support.clouds import GRID, touching_blobs

SIZE = (90, 60)
"""Height and width of the photo: not square, so that an exchange of the two is seen."""


def result(*, core: bool = False, crf_iou: float | None = None, sink: int | None = 100) -> CutResult:
    """Two blobs that were cut, the second at iteration 2, after one that was dropped."""
    left, right = touching_blobs()
    found = [
        Candidate(
            iteration=iteration,
            bipartition=left | right,
            mask=mask,
            source=int(np.flatnonzero(mask)[3]),
            sink=sink,
            vector=np.zeros(GRID),
            core=mask if core else None,
        )
        for iteration, mask in ((0, left), (2, right))
    ]
    photo = np.zeros(SIZE, dtype=bool)
    photo[10:20, 5:30] = True
    instances = [
        Instance(candidate=item, patch_mask=item.mask, segmentation=encode_rle(photo), crf_iou=crf_iou)
        for item in found
    ]
    return CutResult(
        extraction=Extraction(candidates=found, stopped="nothing is left"),
        instances=instances,
        dropped=[{"iteration": 1, "reason": "too small"}],
        seconds={},
    )


def record(stored: StoredMasks) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(encode(stored)["pseudo.json"])
    return content


@pytest.mark.parametrize("sink", [100, None])
def test_a_record_says_what_confidence_needs(sink: int | None):
    cut = result(sink=sink)
    content = record(from_cut(cut, size=SIZE, method="cuts3d"))
    assert (content["height"], content["width"], content["grid"], content["method"]) == (90, 60, [12, 12], "cuts3d")
    assert content["stopped"] == "nothing is left"
    assert content["dropped"] == [{"iteration": 1, "reason": "too small"}]
    assert [instance["iteration"] for instance in content["instances"]] == [0, 2]
    for instance, item in zip(content["instances"], cut.instances, strict=True):
        row, column = instance["source"]
        assert row * 12 + column == item.candidate.source
        assert decode_rle(instance["patch_mask"])[row, column]
        if sink is None:
            assert instance["sink"] is None
        else:
            row, column = instance["sink"]
            assert row * 12 + column == item.candidate.sink
            assert not decode_rle(instance["patch_mask"])[row, column]
        np.testing.assert_array_equal(decode_rle(instance["bipartition"]), item.candidate.bipartition)
        assert instance["area"] == decode_rle(instance["segmentation"]).sum() == 250
        assert instance["bbox"] == [5, 10, 25, 10]
        assert instance["crf_iou"] is None
        assert not {"core", "score", "origin"} & set(instance)


def test_a_record_has_all_sources_where_there_are_several():
    cut = result(core=True, crf_iou=1 / 3)
    content = record(from_cut(cut, size=SIZE, method="cuts3d"))
    for instance, item in zip(content["instances"], cut.instances, strict=True):
        np.testing.assert_array_equal(decode_rle(instance["core"]), item.candidate.core)
        assert decode_rle(instance["core"])[tuple(instance["source"])]
        assert instance["crf_iou"] == 0.333333


def test_an_image_without_a_mask_has_a_record_too():
    nothing = CutResult(
        extraction=Extraction(candidates=[], stopped="no structure"), instances=[], dropped=[], seconds={}
    )
    content = record(from_cut(nothing, size=SIZE, method="cuts3d"))
    assert content == {
        "method": "cuts3d",
        "height": 90,
        "width": 60,
        "grid": None,
        "stopped": "no structure",
        "instances": [],
        "dropped": [],
    }


def test_a_round_of_self_training_stores_scores_and_origins():
    code = encode_rle(np.ones(SIZE, dtype=bool))
    plain = {"segmentation": code, "bbox": rle_box(code), "area": rle_area(code)}
    x, y, width, height = rle_box(code)
    masks = [
        StoredMask(segmentation=code, box=(x, y, width, height), area=5400, score=score, origin=origin)
        for score, origin in ((0.9, "prediction"), (None, "previous"))
    ]
    stored = StoredMasks(size=SIZE, method="st1", instances=masks)
    assert record(stored) == {
        "method": "st1",
        "height": 90,
        "width": 60,
        "instances": [
            {**plain, "score": 0.9, "origin": "prediction"},
            {**plain, "score": None, "origin": "previous"},
        ],
    }
    assert decode(Sample(key="a", members=encode(stored))) == stored
    cut = from_cut(result(), size=SIZE, method="cuts3d").instances[0].cut
    both = StoredMask(segmentation=code, box=(x, y, width, height), area=5400, score=0.5, cut=cut)
    with pytest.raises(ValueError, match="no score and no origin"):
        encode(StoredMasks(size=SIZE, method="st1", instances=[both]))


def test_nodes_are_row_major():
    assert node_position(17, (3, 7)) == (2, 3)
    assert [node_index(node_position(node, (3, 7)), (3, 7)) for node in range(21)] == list(range(21))


def test_a_focal_length_is_stored_exactly_and_only_where_it_was_used():
    plain = from_cut(result(), size=SIZE, method="cuts3d")
    assert "focal" not in json.loads(encode(plain)["pseudo.json"])
    focal = Focal(x=1 / 3, y=2 / 7, source="exif")
    stored = from_cut(result(), size=SIZE, method="cuts3d", focal=focal)
    found = decode(Sample(key="a", members=encode(stored)))
    assert found.cut is not None
    assert found.cut.focal == focal


@pytest.mark.parametrize(
    ("focal", "reason"),
    [
        ({"x": 1, "y": 1, "source": "guess"}, 'its source is "guess"'),
        ({"x": 0, "y": 1, "source": "exif"}, "it has a focal length of 0"),
        ({"x": 1, "source": "exif"}, "it has no y"),
        (1.5, "its focal is 1.5"),
    ],
)
def test_an_impossible_focal_length_is_a_flaw(focal: Any, reason: str):
    members = encode(from_cut(result(), size=SIZE, method="cuts3d"))
    record = json.loads(members["pseudo.json"]) | {"focal": focal}
    (flaw,) = flaws(Sample(key="a", members={"pseudo.json": json.dumps(record).encode()}))
    assert reason in flaw.reason
