"""`cuts3d report`: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.found import PLAIN, with_masks
from tests.support.galleries import photos_in, write_truth
from tests.support.running import Ran


def test_it_prints_where_the_page_is_and_what_is_on_it(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone)
    ran = cuts3d("report", "shards", "--out", "out", "-j", "0", "--steps", "2")
    assert ran.code == 0
    assert ran.out.splitlines()[0].strip() == "out/index.html"
    assert "failed: s-000.tar: failed: it is broken" in ran.err
    assert "every step is drawn of the first 2 photos; of all of them with --steps 4" in ran.err
    assert (alone / "out/index.html").is_file()


def test_json(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone, {"a.jpg": [PLAIN]})
    truth = write_truth(alone / "gt.json", {"a.jpg": [PLAIN]})
    ran = cuts3d("report", "--shards", "shards", "-o", "out", "--gt", truth, "-j", "0", "--json")
    expected = {"page": "out/index.html", "photos": 1, "masks": 1, "without": 0, "failed": [], "steps": 1}
    assert (ran.code, json.loads(ran.out)) == (0, expected)
    assert photos_in(alone / "out")["a.jpg"]["truth"] == [1, 0, 1.0, 1.0]


def test_a_photo_that_cannot_be_drawn_is_a_failed_sample(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone, {"a.jpg": [PLAIN]})
    ran = cuts3d("report", "shards", "--out", "out", "-j", "0", "--max-image-pixels", "256")
    assert ran.code == 3
    assert "a: the image has 40x30 pixels, more than 256" in ran.err


def test_a_folder_of_others_is_refused(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone, {"a.jpg": [PLAIN]})
    ran = cuts3d("report", "shards", "--out", ".", "-j", "0")
    assert ran.code == 2
    assert ran.line == "cuts3d: --out is ., a folder with files that are no report: name a new one"


def test_min_score_without_scores_names_the_option(cuts3d: Callable[..., Ran], alone: Path):
    with_masks(alone, {"a.jpg": [PLAIN]})
    ran = cuts3d("report", "shards", "--out", "out", "--min-score", "0.5")
    assert ran.code == 2
    assert ran.line.startswith("cuts3d: --min-score has no effect on masks without scores")
