"""The demo's table and picture, from masks that are known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import comparison
from scenes.files import coco_instance, write_coco, write_photo
from tests.support.photos import two_boxes


def test_each_mask_is_matched_once_and_the_best_pairs_first():
    ious = np.array([[0.9, 0.6], [0.8, 0.4], [0.0, 0.0]])
    assert comparison.matched(ious) == 1  # the first mask takes the first object, the second is under 0.5 in the other
    assert comparison.matched(ious, threshold=0.4) == 2
    assert comparison.matched(np.zeros((0, 2))) == 0


def test_masks_are_compared_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scene = two_boxes()
    left, right = scene.boxes
    for part in ("images", "depth"):
        (tmp_path / part).mkdir()
    write_photo(tmp_path, "tote.png", scene.image, scene.depth / 1000)
    truth = tmp_path / "annotations.json"
    write_coco(truth, [("tote.png", left.shape, [coco_instance(left), coco_instance(right)])])
    masks = comparison.masks_by_name(truth)
    assert np.array_equal(masks["tote"], [left, right])
    assert comparison.overlaps([left], [left, right]).tolist() == [[1.0, 0.0]]

    found = {"maskcut": {"tote": [left | right]}, "cuts3d": masks}
    comparison.print_figures(truth, {"tote": ["tote"]}, found, cuts=3)
    rows = [line.split("│")[3:7] for line in capsys.readouterr().out.splitlines() if "RGB-D photo" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [["2", "1", "1", "0.500"], ["2", "2", "2", "1.000"]]
    comparison.draw_comparison(tmp_path / "picture.jpg", tmp_path, {"tote": ["tote"]}, found)
    assert Image.open(tmp_path / "picture.jpg").width > 4 * scene.image.shape[1]
