"""The demo's table and picture, from masks that are known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from cuts3d_cli.cli.app import app
from demo import comparison, heap
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


def test_heaps_are_counted_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scene = two_boxes()
    left, right = scene.boxes
    (tmp_path / "images").mkdir()
    Image.fromarray(scene.image).save(tmp_path / "images" / "heap-0.png")
    truth = tmp_path / "annotations.json"
    write_coco(truth, [("heap-0.png", left.shape, [coco_instance(left), coco_instance(right)])])
    found = {"maskcut": {"heap-0": [left | right]}, "paper": {"heap-0": []}, "objects": {"heap-0": [left, right]}}
    heap.print_heaps(truth, found)
    rows = [line.split("│")[1:6] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["MaskCut", "2", "1", "1", "0.500"],
        ["the paper's cut", "2", "0", "0", "0.000"],
        ["preset objects", "2", "2", "2", "1.000"],
    ]
    heap.draw_heaps(tmp_path / "heap.jpg", tmp_path / "images", ["heap-0"], found)
    assert Image.open(tmp_path / "heap.jpg").width > 1000


def test_each_way_to_cut_a_heap_is_a_command_that_exists(tmp_path: Path):
    commands: list[tuple[str, ...]] = []
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    def cuts3d(*arguments: object) -> str:
        words = tuple(map(str, arguments))
        commands.append(words)
        known[words[0]].make_context(words[0], list(words[1:]))  # reads and checks all options
        if words[0] == "pseudo":
            write_coco(Path(words[words.index("--export-coco") + 1]), [("heap-1.png", (480, 640), [])])
        return ""

    heap.cut_heaps(tmp_path, cuts3d=cuts3d, seeds=[1])
    assert [words[0] for words in commands] == ["pack", "depth", "features", *["pseudo"] * len(heap.WAYS)]
    assert (tmp_path / "heap.jpg").is_file()
