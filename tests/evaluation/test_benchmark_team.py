"""A detector on datasets in several processes: the same figures, and each photo is seen once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.evaluation import benchmark_team
from cuts3d_cli.evaluation.benchmark_photos import PhotoResult
from tests.evaluation.test_benchmark import painted
from tests.support.running import Ran
from tests.support.shapes import annotation, coco_file, image

PHOTOS = 7


@pytest.fixture
def photos(alone: Path) -> Path:
    """A user's own JSON with seven photos in photos/, of which the third is none."""
    boxes = {number: (5 * number, 10, 20, 20 + number) for number in range(1, PHOTOS + 1)}
    for number, box in boxes.items():
        painted(alone / f"photos/{number}.png", box)
    images = [image(number, f"{number}.png", width=80, height=60) for number in boxes]
    path = coco_file(alone / "own.json", images, [annotation(number, number, box) for number, box in boxes.items()])
    broken = alone / "photos/3.png"
    broken.write_bytes(broken.read_bytes()[:100])  # its head can be read
    return path


def test_two_processes_find_what_one_finds(photos: Path, cuts3d: Callable[..., Ran], tiny_detector: Path):
    line = ("eval", "-c", tiny_detector, "-d", photos, "--images", photos.parent / "photos", "--device", "cpu")
    line += ("--batch-size", 2, "--score", 0.0, "--json")
    found = []
    for name, gpus in (("one", 1), ("two", 2), ("again", 2)):
        kept = photos.parent / ("one" if name == "one" else "two")
        ran = cuts3d(*line, "--gpus", gpus, "--detections", kept, "--export-coco", photos.parent / f"out-{name}")
        assert ran.out, ran.err
        (result,) = json.loads(ran.out)["datasets"]
        result.pop("seconds")
        (journal,) = kept.iterdir()
        lines = sorted(journal.read_text().splitlines())
        found.append((ran.code, result, (photos.parent / f"out-{name}/own.json").read_bytes(), lines))
        assert ran.err.count("2 processes share the photos, on the cores of this machine") == (name == "two")
        if name == "two":
            assert f"own.json: {PHOTOS} images, " in ran.err
    code, result, exported, lines = found[0]
    assert code == 3
    assert [Path(item["file"]).name for item in result["failed"]] == ["3.png"]
    assert json.loads(exported)
    assert len(lines) == len(set(lines)) == PHOTOS - 1
    assert found[1] == found[0]
    # What failed is tried again, with its batch, by one process: there is but one batch.
    assert found[2][:3] == found[0][:3]


def test_what_a_process_leaves_is_done_at_the_end(
    photos: Path, cuts3d: Callable[..., Ran], tiny_detector: Path, monkeypatch: pytest.MonkeyPatch
):
    line = ("eval", "-c", tiny_detector, "-d", photos, "--images", photos.parent / "photos", "--device", "cpu")
    line += ("--batch-size", 1, "--score", 0.0, "--json")
    expected = json.loads(cuts3d(*line, "--detections", photos.parent / "one").out)["datasets"][0]

    def half_dead(function: Any, arguments: Any, *, devices: Any, heard: Any, died: Callable[[int, str], None]) -> None:
        """The second process dies after a photo, the first before any."""
        _, _, numbers = arguments[1]

        def tell(told: Sequence[PhotoResult]) -> None:
            if told[0].number == numbers[0]:
                heard(1, told)

        function(tell, *arguments[1])
        died(0, "killed by SIGKILL")
        died(1, "killed by SIGKILL")

    monkeypatch.setattr(benchmark_team, "run_processes", half_dead)
    ran = cuts3d(*line, "--gpus", 2, "--detections", photos.parent / "two")
    result = json.loads(ran.out)["datasets"][0]
    assert "warning: a process on cpu has ended (killed by SIGKILL): what it has left is done at the end" in ran.err
    for each in (result, expected):
        each.pop("seconds")
    assert (ran.code, result) == (3, expected)
    assert f"own.json: {PHOTOS} images, " in ran.err
