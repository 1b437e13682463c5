"""Evaluation while a detector is trained: several processes share the photos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.detector.evaluating import Share
from cuts3d_cli.errors import SettingError
from cuts3d_cli.evaluation.selection import Selection
from cuts3d_cli.evaluation.training import TrainingEvaluation, evaluation_of
from cuts3d_cli.sidecars.detections import Detections

SIZE = (20, 30)


def mask_of(number: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[number : number + 10, 3:20] = True
    return mask


class Finder:
    """Finds the square of a photo by its brightness, in odd photos a little too large."""

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        return [self._one(image) for image in images]

    def _one(self, image: NDArray[np.uint8]) -> Detections:
        self.seen += 1
        mask = image[..., 0] > 100
        rows, columns = np.nonzero(mask)
        if int(image.max()) % 2:
            mask = np.roll(mask, 2, axis=0) | mask
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes, scores = np.array([box], dtype=np.float32), np.array([0.5], dtype=np.float32)
        return Detections(boxes=boxes, scores=scores, masks=[encode_rle(mask)])


@pytest.fixture
def own(tmp_path: Path) -> Selection:
    """Seven photos of a square each, one of which cannot be read."""
    images, annotations = [], []
    for number in range(7):
        pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
        pixels[mask_of(number)] = 200 + number
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]})
        facts = {"segmentation": encode_rle(mask_of(number)), "bbox": [3, number, 17, 10], "area": 170, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, **facts})
    (tmp_path / "3.png").write_bytes(b"no photo")
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}))
    return Selection(dataset=[str(path)], images=tmp_path)


def shared(evaluation: TrainingEvaluation, world: int) -> tuple[dict[str, Any], list[str], list[int]]:
    """The results of so many processes, one after the other here, the first one last."""
    said: list[str] = []
    handed: list[Any] = []
    seen = []

    def gather(thing: Any) -> list[Any]:
        handed.append(thing)
        return handed if len(handed) == world else []

    results: dict[str, Any] = {}
    for rank in reversed(range(world)):
        finder = Finder()
        share = Share(rank=rank, world=world, gather=gather, stopped=lambda: False)
        results = evaluation(finder, share=share, say=lambda line: said.append(str(line)))  # type: ignore[arg-type]
        assert bool(results) == (rank == 0)
        seen.append(finder.seen)
    return results, said, seen


@pytest.mark.parametrize("world", [2, 3, 9])
def test_processes_share_the_photos_and_agree_with_one(own: Selection, world: int):
    evaluation = TrainingEvaluation(selections={"squares": own})
    evaluation.check(say=lambda line: None)
    alone, said, seen = shared(evaluation, 1)
    assert seen == [6]
    assert (alone["squares"]["images"], alone["squares"]["failed"]) == (7, 1)
    assert 0.3 < alone["squares"]["mask"]["ap"] < 1
    assert len(said) == 1
    assert said[0].startswith(f"warning: squares: 1 photo failed: {own.images}/3.png (")
    together, _, seen = shared(evaluation, world)
    assert together == alone
    assert sum(seen) == 6
    assert max(seen) <= -(-7 // world)


def test_a_stopped_process_gives_up_soon(own: Selection):
    finder = Finder()
    share = Share(rank=0, world=1, gather=lambda thing: [thing], stopped=lambda: True)
    found = TrainingEvaluation(selections={"squares": own})(finder, share=share, say=lambda line: None)  # type: ignore[arg-type]
    assert (found, finder.seen) == ({}, 1)


def config(**changes: Any) -> TrainConfig:
    return replace(PRESETS["paper"].train, **{"eval_every": 5, **changes})


def test_data_sets_are_named_or_those_of_the_recipe(own: Selection, tmp_path: Path):
    def names(wanted: TrainingEvaluation | None) -> dict[str, tuple[list[str], Path | None, int | None]]:
        assert wanted is not None
        return {
            label: (list(selection.dataset), selection.images, selection.limit)
            for label, selection in wanted.selections.items()
        }

    (path,) = own.dataset
    sets = {"val": own, "test": own}
    assert list(names(evaluation_of(config(), root=None, own=sets))) == ["val", "test"]
    assert list(names(evaluation_of(config(eval_dataset=("test",)), root=None, own=sets))) == ["test"]
    wanted = config(eval_dataset=("coco", path), eval_images=tmp_path, eval_limit=9)
    assert names(evaluation_of(wanted, root=tmp_path)) == {
        "coco": (["coco"], None, 9),
        "own": ([path], tmp_path, 9),
    }
    assert evaluation_of(config(eval_every=0), root=None, own=sets) is None
    with pytest.raises(SettingError, match=r"train.eval_every needs a data set"):
        evaluation_of(config(), root=None)
    with pytest.raises(SettingError, match=r"selftrain.eval_images has no effect: also set selftrain.eval_every"):
        evaluation_of(replace(PRESETS["paper"].selftrain, eval_images=tmp_path), root=None)
