from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cuts3d_cli.cut.masks import rle_area
from cuts3d_cli.detector.checkpoints import read_trained
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.recipes import selftrain
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import generation_of, manifest_path, masks_of, sidecar
from cuts3d_cli.stages.merge import min_score_of
from tests.support.photos import records, settings
from tests.support.running import Ran
from tests.support.training_data import make_shards
from tests.support.trainings import Noted

TRAINING = {
    "max_iter": 2,
    "images_per_batch": 2,
    "min_sizes": "48,64",
    "max_size": 96,
    "precise_bn": 0,
    "fpn_channels": 16,
    "box_head_width": 16,
    "mask_head_width": 16,
    "roi_batch": 16,
    "test_min_size": 64,
    "rpn_post_nms": 20,
    "rpn_test_proposals": 20,
    "checkpoint_every": 1,
}
SMALL = ["--preset", "tiny", *(f"--set={name}={value}" for name, value in TRAINING.items())]
ROUNDS = [word.replace("--set=test_", "--set=selftrain.test_") for word in SMALL]
"""The same for `selftrain`, which has settings of these names for the detector that it learns from, too."""


def test_rounds_have_names():
    assert [generation_of(number) for number in range(3)] == ["initial", "st1", "st2"]
    assert [masks_of(number) for number in range(3)] == ["pseudo", "pseudo.st1", "pseudo.st2"]
    config = settings({"selftrain": {"score_thresholds": (0.7, 0.65)}}).selftrain
    assert [min_score_of(config, number) for number in (1, 2, 3, 4)] == [0.7, 0.65, 0.65, 0.65]


def test_two_rounds_and_again(alone: Path, cuts3d: Callable[..., Ran]):
    (base,) = make_shards(alone / "data", images=6, shard_size=6)
    shards = ("--shards", base)
    before = cuts3d("selftrain", *shards, *ROUNDS)
    assert before.code == 1
    assert "does not exist: name a detector, from `cuts3d train`" in before.line
    lacking = cuts3d("train", *shards, *SMALL, "--round", "1")
    assert "a-000.pseudo.st1.tar is missing or unfinished: run `cuts3d selftrain" in lacking.err
    assert cuts3d("train", *shards, *SMALL, "--round", "0").code == 0

    refused = cuts3d("selftrain", *shards, *ROUNDS, "--gpus", "4").line  # before it predicts
    assert "--images-per-batch is 2, which 4 processes cannot share equally" in refused

    # A detector that has learned nothing is sure of nothing: every prediction counts in the first round, none later.
    line = ("selftrain", *shards, *ROUNDS, "--rounds", "2", "--score-thresholds", "0,1", "--json")
    ran = cuts3d(*line)
    assert ran.code == 0, ran.err
    first, second = json.loads(ran.out)
    assert (first["name"], second["name"]) == ("st1", "st2")
    assert first["predicted"] > 0
    assert second["predicted"] == 0
    assert second["masks"] == first["masks"] >= first["predicted"]
    found = records(sidecar(base, "pseudo.st1"), "pseudo.json")
    assert list(found) == [f"{number:03d}" for number in range(6)]
    for record in found.values():
        scores = [item["score"] for item in record["instances"] if item["origin"] == "prediction"]
        assert scores == sorted(scores, reverse=True)
        assert all(item["area"] == rle_area(item["segmentation"]) > 0 for item in record["instances"])
    manifest = load_manifest(manifest_path(sidecar(base, "pseudo.st2")))
    assert set(manifest.inputs) == {"pseudo.st1", "predict.st1"}
    for name in ("initial", "st1", "st2"):
        assert (alone / f"detector-{name}" / "model-final.safetensors").is_file()

    bytes_before = (alone / "detector-st2" / "model-final.safetensors").read_bytes()
    (alone / "detector-st2" / "model-final.safetensors").unlink()
    again = cuts3d(*line)
    assert json.loads(again.out) == [first, second]
    assert "detector-st1/model-final.safetensors already exists" in again.err
    assert "resuming from detector-st2/checkpoint-0000002.pth" in again.err
    assert (alone / "detector-st2" / "model-final.safetensors").read_bytes() == bytes_before
    # By hand it is the same round.
    by_hand = cuts3d("train", *shards, *SMALL, "--round", "1", "--out", "mine")
    assert by_hand.code == 0, by_hand.err
    mine, theirs = (read_trained(Path(folder, "model-final.safetensors"))[0] for folder in ("mine", "detector-st1"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_round_predicts_on_all_gpus(alone: Path, tiny_detector: Path, monkeypatch: pytest.MonkeyPatch):
    """The predictions of a round are shared as those of `cuts3d predict`; training has processes of its own."""
    bases = make_shards(alone / "data", images=4, shard_size=2)
    trained: list[int] = []

    def train(*_: Any, gpus: int, **__: Any) -> SimpleNamespace:
        trained.append(gpus)
        return SimpleNamespace(weights=tiny_detector, images=4)

    monkeypatch.setattr(selftrain.train, "run", train)
    config = settings({"run": {"device": "cpu", "if_exists": "overwrite"}, "selftrain": {"score_thresholds": (0.0,)}})
    found, said = [], Noted()
    for gpus in (1, 2):
        done = selftrain.run_round(
            bases,
            number=1,
            checkpoint=tiny_detector,
            out=alone,
            config=config,
            gpus=gpus,
            events=said,
            evaluation=None,
            progress=lambda name: nullcontext(Progress()),
        )
        tars = [sidecar(base, stage).read_bytes() for base in bases for stage in ("predict.initial", "pseudo.st1")]
        found.append((done, tars))
    assert found[0] == found[1]
    assert trained == [1, 2]
    assert said.said.count("2 processes share the shards, on the cores of this machine") == 1
