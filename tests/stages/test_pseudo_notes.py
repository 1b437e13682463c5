"""What cutting says of settings that may not suit the photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cuts3d_cli.config import PAPER, PRESETS, in_2d
from cuts3d_cli.engine.results import ShardResult, StageResult
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.stages.loading import ImageCut
from cuts3d_cli.stages.pseudo_notes import cut_notes, depth_counts, sensor_note
from tests.support.photos import pack_photos
from tests.support.running import Ran
from tests.support.stored import store_depth

SENSOR = "measured depth is cut at the paper's threshold 0.115, which suits whole scenes"


def result(*, photos: int, stopped_early: int, status: str = "done") -> StageResult:
    counts = {"samples_out": photos, "stopped_early": stopped_early}
    shard = ShardResult(shard=Path("none.tar"), status=status, counts=counts)  # type: ignore[arg-type]
    return StageResult(stage="pseudo", shards=[shard], seconds=1.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (PAPER.pseudo, True),
        (PRESETS["objects"].pseudo, False),
        (replace(PAPER.pseudo, tau_knn=0.05), False),
        (in_2d(PAPER.pseudo), False),
        (PRESETS["maskcut"].pseudo, False),
    ],
)
def test_measured_depth_at_the_papers_threshold(settings, said: bool):
    assert (sensor_note(settings) is not None) == said


@pytest.mark.parametrize(
    ("photos", "stopped_early", "said"), [(6, 1, True), (6, 2, True), (6, 3, False), (6, 6, False), (0, 0, False)]
)
def test_all_cuts_were_made_in_most_photos(photos: int, stopped_early: int, said: bool):
    notes = [str(note) for note in cut_notes(result(photos=photos, stopped_early=stopped_early), settings=PAPER.pseudo)]
    assert len(notes) == said
    if said:
        begin = f"in {photos - stopped_early} of {photos} photos all 3 cuts were made"
        assert notes == [f"{begin}: there may be more objects, which a larger pseudo.instances finds"]


@pytest.mark.parametrize(
    ("photos", "instances", "said"),
    [
        (4, 1, "in 4 of 4 photos the one cut was made: "),
        (4, 2, "in 4 of 4 photos both cuts were made: "),
        (1, 5, "in 1 of 1 photo all 5 cuts were made: "),
    ],
)
def test_numbers_of_cuts_and_photos_agree_with_their_words(photos: int, instances: int, said: str):
    (note,) = cut_notes(result(photos=photos, stopped_early=0), settings=replace(PAPER.pseudo, instances=instances))
    assert str(note).startswith(said)


RELATIVE = "is relative: cut in the paper's point cloud, since pseudo.cloud='perspective' needs metres"
NOISY = "is noisy: it is taken as less steep than the focal length says, so that surfaces stay whole"


@pytest.mark.parametrize(("count", "said"), [("relative_depth", RELATIVE), ("noisy_depth", NOISY)])
def test_depth_that_does_not_suit_perspective_is_told_once_for_all_shards(count: str, said: str):
    shards = [
        ShardResult(shard=Path("none.tar"), status="done", counts={"samples_out": 3, count: photos})
        for photos in (1, 0, 3)
    ]
    (note,) = cut_notes(StageResult(stage="pseudo", shards=shards, seconds=1.0), settings=PRESETS["objects"].pseudo)
    assert str(note) == f"the depth of 4 photos {said}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"relative_depth": 0, "noisy_depth": 1}),
        ({"cut": "component"}, {"relative_depth": 0}),
        ({"cloud": "paper"}, {}),
    ],
)
def test_noise_is_counted_where_it_matters(changes: dict[str, str], expected: dict[str, int]):
    settings = replace(PRESETS["objects"].pseudo, **changes)
    image = ImageCut(key="a", size=(1, 1), result=None, failure=None, seconds={}, is_flattened=True)
    assert depth_counts(image, settings=settings) == expected


def test_relative_depth_is_counted_and_told(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    (base,) = pack_photos(alone, 2)
    store_depth(base, np.linspace(0, 1, 80 * 60, dtype=np.float32).reshape(60, 80))
    network = ("--backbone", "dino-vits16", "--size", "224", "--weights", weights, "--no-crf", "-j", "0")
    ran = cuts3d("pseudo", "--shards", ".", *network, "--cloud", "perspective", "--tau-knn", "auto")
    assert ran.code == 0, ran.err
    said = "the depth of 2 photos is relative: cut in the paper's point cloud, since --cloud perspective needs metres"
    assert said in ran.err
    assert load_manifest(manifest_path(sidecar(base, "pseudo"))).counts["relative_depth"] == 2


def test_nothing_is_said_of_what_was_finished_before_or_is_unlimited():
    assert cut_notes(result(photos=6, stopped_early=0, status="skipped"), settings=PAPER.pseudo) == []
    everything = replace(PAPER.pseudo, instances="all")
    assert cut_notes(result(photos=6, stopped_early=0), settings=everything) == []


def test_the_command_says_it_once_with_its_options(cuts3d: Callable[..., Ran], alone: Path, weights: Path):
    pack_photos(alone, 2)
    network = ("--backbone", "dino-vits16", "--size", "224", "--weights", weights, "--no-crf", "-j", "0")
    ran = cuts3d("pseudo", "--shards", ".", *network)
    assert ran.code == 0
    assert ran.err.count(SENSOR) == 1
    assert "for objects close together, lower --tau-knn, or take --preset objects" in ran.err
    ran = cuts3d("pseudo", "--shards", ".", *network, "--preset", "objects", "--if-exists", "replace")
    assert (ran.code, SENSOR in ran.err) == (0, False)
