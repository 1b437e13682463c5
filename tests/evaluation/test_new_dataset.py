"""A new dataset costs a reader and an entry in the catalogue: one of each, made here, works from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, Benchmark
from cuts3d_cli.evaluation.datasets.files import read_lines
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, ParsedImage, box_instance
from cuts3d_cli.evaluation.metrics import Instance
from cuts3d_cli.evaluation.selection import Selection
from tests.support.datasets import photo, write
from tests.support.running import Ran

LABELS = "a.jpg 16 12 48 36 thing\na.jpg 0 0 8 8 crowd\nb.jpg 10 10 30 40 thing\n"


def read_fake(paths: Sequence[Path]) -> ParsedDataset:
    """Read a format of its own: a line a box, with the photo, the edges and the kind."""
    boxes: dict[str, list[Instance]] = {}
    for line in read_lines(paths[0]):
        file, *edges, kind = line.split()
        boxes.setdefault(file, []).append(box_instance(*map(float, edges), crowd=kind == "crowd"))
    return ParsedDataset(
        images={
            number: ParsedImage(file=file, size=None, instances=boxes[file])
            for number, file in enumerate(sorted(boxes), start=1)
        }
    )


FAKE = Benchmark(
    name="fake",
    title="Fake 2025",
    masks=False,
    images=2,
    page="https://example.org/fake",
    folders=("fake",),
    annotations=(("labels.txt",),),
    photos=(("photos",),),
    rule="what is marked as a crowd becomes a crowd region",
    read=read_fake,
)


@pytest.fixture
def fake(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake dataset in the catalogue, and its files below `sets`."""
    monkeypatch.setitem(BENCHMARKS, FAKE.name, FAKE)
    write(alone / "sets/fake/labels.txt", LABELS)
    for name in ("a", "b"):
        photo(alone / f"sets/fake/photos/{name}.jpg")
    return alone / "sets"


def test_a_detector_is_evaluated_on_a_new_dataset(cuts3d: Callable[..., Ran], fake: Path, tiny_detector: Path):
    line = ("eval", "--checkpoint", tiny_detector, "--dataset", "fake", "--root", "sets", "--detections", "kept")
    ran = cuts3d(*line, "--json")
    assert ran.code == 0, ran.err
    (result,) = json.loads(ran.out)["datasets"]
    assert (result["dataset"], result["title"], result["whole"]) == ("fake", "Fake 2025", True)
    assert (result["images"], result["instances"], result["crowds"]) == (2, 2, 1)
    assert result["predictions"] > 0
    assert result["box"]["ar100"] is not None
    assert result["mask"] is None
    ran = cuts3d(*line, "--compare", "paper")
    assert ran.code == 0, ran.err
    assert " Fake 2025 " in ran.out
    assert ran.err.endswith("there are no published zero-shot figures of Fake 2025\n")
    (fake / "fake/photos/b.jpg").unlink()
    ran = cuts3d(*line)
    assert (ran.code, "fake: 1 of 2 photos are missing in sets/fake/photos (b.jpg)" in ran.err.splitlines()[-1]) == (
        1,
        True,
    )


def test_a_new_dataset_is_listed_and_one_of_all(cuts3d: Callable[..., Ran], fake: Path):
    ran = cuts3d("eval", "--list", "--root", "sets", "--json")
    assert {item["name"]: item["state"] for item in json.loads(ran.out)}["fake"] == "ready"
    assert "fake" in Selection(dataset=["all"]).names()
    assert "fake" in cuts3d("eval", "-c", "x.pth", "-d", "faek").line


def test_a_new_dataset_is_in_the_help():
    code = (
        "import dataclasses, sys\n"
        "from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS\n"
        "BENCHMARKS['fake'] = dataclasses.replace(BENCHMARKS['coco'], name='fake')\n"
        "from cuts3d_cli.cli.app import exit_code\n"
        "sys.exit(exit_code(['eval', '--help']))"
    )
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    words = " ".join(ran.stdout.replace("│", " ").split())
    assert ", ".join(BENCHMARKS) + ", fake; paper" in words
