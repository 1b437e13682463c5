from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.journal import DetectionJournal, PhotoState, journal_path
from cuts3d_cli.sidecars.detections import Detections
from tests.support.shapes import HEIGHT, WIDTH, rectangle


def state(name: str = "a.jpg", *, masks: bool = True, size: int = 10) -> PhotoState:
    return PhotoState(file=name, size=size, mtime_ns=20, width=WIDTH, height=HEIGHT, masks=masks)


def found(seed: int = 0, *, count: int = 3) -> Detections:
    rng = np.random.default_rng(seed)
    boxes, scores = (rng.normal(0, 200, (count, 4)), rng.random(count))
    masks = [rectangle(*rng.integers(1, 90, 4).tolist()) for _ in range(count)]
    return Detections(boxes=boxes.astype(np.float32), scores=scores.astype(np.float32), masks=masks)


def same(one: Detections | None, other: Detections) -> bool:
    assert one is not None
    assert one.boxes.dtype == one.scores.dtype == np.float32
    assert one.boxes.shape == other.boxes.shape
    equal = one.boxes.tobytes() == other.boxes.tobytes() and one.scores.tobytes() == other.scores.tobytes()
    return equal and list(one.masks) == list(other.masks)


def test_what_is_read_is_what_was_written(tmp_path: Path):
    path = tmp_path / "new/folder/a.jsonl"
    many = {f"{number}.jpg": found(number, count=number) for number in range(6)}
    with DetectionJournal(path) as journal:
        for name, item in many.items():
            assert not journal.has(state(name))
            assert journal.get(state(name)) is None
            journal.add(state(name), item)
    with DetectionJournal(path) as journal:
        for name, item in reversed(many.items()):
            assert journal.has(state(name))
            assert same(journal.get(state(name)), item)
        assert not journal.has(state("1.jpg", size=11))
        assert journal.get(state("1.jpg", masks=False)) is None


def test_without_masks_none_are_stored(tmp_path: Path):
    item = found()
    with DetectionJournal(tmp_path / "a.jsonl") as journal:
        journal.add(state(masks=False), item)
    with DetectionJournal(tmp_path / "a.jsonl") as journal:
        assert same(journal.get(state(masks=False)), Detections(boxes=item.boxes, scores=item.scores, masks=[]))
        assert not journal.has(state(masks=True))


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path, cut: int):
    path = tmp_path / "a.jsonl"
    with DetectionJournal(path) as journal:
        journal.add(state("a"), found(1))
        journal.add(state("b"), found(2))
    path.write_bytes(path.read_bytes()[:-cut])
    with DetectionJournal(path) as journal:
        assert same(journal.get(state("a")), found(1))
        assert journal.has(state("b")) == (cut == 1)  # only its line end is missing
        journal.add(state("c"), found(3))
    with DetectionJournal(path) as journal:
        assert same(journal.get(state("a")), found(1))
        assert same(journal.get(state("c")), found(3))


def test_two_runs_may_share_a_file(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    with DetectionJournal(path) as one, DetectionJournal(path) as other:
        for number in range(5):
            one.add(state(f"one{number}"), found(number))
            other.add(state(f"other{number}"), found(number))
        other.add(state("one0"), found(0))
    with DetectionJournal(path) as journal:
        assert all(same(journal.get(state(f"{who}{n}")), found(n)) for who in ("one", "other") for n in range(5))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    words = r"file/a\.jsonl cannot be written: .*: choose another folder for it \(detections\)"
    with pytest.raises(DatasetError, match=words), DetectionJournal(tmp_path / "file/a.jsonl"):
        pass


def test_the_name_of_a_journal(tmp_path: Path):
    assert journal_path(tmp_path, dataset="coco", detector="0123456789abcdef") == tmp_path / "coco-0123456789ab.jsonl"
    assert journal_path(tmp_path, dataset="a b/c", detector="f" * 64).name == f"a_b_c-{'f' * 12}.jsonl"
