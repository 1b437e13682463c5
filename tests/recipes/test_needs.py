"""What a recipe lacks is told before its first step, by a dry run as by a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.recipes import plan
from tests.recipes.test_run import write_recipe
from tests.support.running import Ran

pytest.importorskip("detectron2")


def changed(folder: Path, weights: Path, *changes: tuple[str, str]) -> None:
    path = write_recipe(folder, weights)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


BACKBONE_RANDOM = ("[train]", '[train]\nbackbone_weights = "dino-resnet50"')
CASES: dict[str, tuple[list[tuple[str, str]], int, str]] = {
    "weights of the backbone": ([("weights = ", "# ")], 1, "weights of dino-vits16 are not in the cache"),
    "a file of weights": ([("dino-vits16.pth", "none.pth")], 1, "none.pth does not exist"),
    "a depth network": (
        [('backend = "sensor"', 'backend = "midas-small"')],
        1,
        "weights of midas-small are not here",
    ),
    "weights of the hub": (
        [('backend = "sensor"', 'backend = "zoedepth"')],
        1,
        "weights of zoedepth are not in the cache and the hub is switched off",
    ),
    "the detector's backbone": ([BACKBONE_RANDOM], 1, "weights of dino-resnet50 are not in the cache"),
    "the detector's file": (
        [("[train]", '[train]\nbackbone_weights = "none.pth"')],
        1,
        "none.pth does not exist",
    ),
}


@pytest.mark.parametrize(("changes", "code", "said"), CASES.values(), ids=CASES)
def test_what_is_missing_is_told_by_a_dry_run(
    alone: Path,
    weights: Path,
    cuts3d: Callable[..., Ran],
    changes: list[tuple[str, str]],
    code: int,
    said: str,
):
    changed(alone, weights, *changes)
    ran = cuts3d("run", "recipe.toml", "--dry-run")
    assert ran.code == code
    assert "not there yet" in ran.out  # the plan is printed nevertheless
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_run_names_all_that_it_lacks_and_does_nothing(
    alone: Path, weights: Path, cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    usage: Any = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: usage)
    changed(alone, weights, BACKBONE_RANDOM, ("tau_knn_min = 0.11", "tau_knn_min = 0.16"))
    ran = cuts3d("run", "recipe.toml")
    assert ran.code == 2
    line = ran.err.splitlines()[-1]
    assert line.startswith("cuts3d: 3 things stand in the way: ")
    for said in (
        "0.0 MB are free and about",
        "confidence.tau_knn_min 0.16 must lie between",
        "dino-resnet50 are not in the cache",
    ):
        assert said in line
    assert not (alone / "out").exists()


def test_gpus_must_share_a_batch(
    alone: Path, weights: Path, cuts3d: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cuts3d_cli.recipes.run.choose_device", lambda name: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    changed(alone, weights, ('out = "out"', 'out = "out"\ngpus = 4'))
    ran = cuts3d("run", "recipe.toml", "--dry-run")
    assert ran.code == 2
    assert ran.line.startswith("cuts3d: recipe.toml: 2 things stand in the way: train.images_per_batch is 2, which 4 ")
    assert "selftrain.images_per_batch is 2" in ran.err


def test_a_folder_is_no_recipe(alone: Path, cuts3d: Callable[..., Ran]):
    (alone / "folder").mkdir()
    assert "folder is a folder: name a recipe" in cuts3d("run", "folder").line
