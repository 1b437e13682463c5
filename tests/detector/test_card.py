from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")

from cuts3d_cli.config import PRESETS
from cuts3d_cli.detector import card as cards
from cuts3d_cli.detector.data import training_shards
from cuts3d_cli.detector.task import Task
from cuts3d_cli.errors import ShardError
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from tests.recipes.test_selftrain import ROUNDS, SMALL
from tests.support.running import Ran
from tests.support.training_data import make_shards


def finished(folder: Path, *, init: Path | None = None, images: int = 3) -> Task:
    """A training as it looks when it is done: weights and a log, made by hand."""
    bases = make_shards(folder, images=images, shard_size=1)
    out = folder / "detector"
    out.mkdir()
    (out / "model-final.safetensors").write_bytes(b"weights")
    lines = [{"iteration": number, "losses": {"total": 1.0 / number}, "images_per_second": 7.5} for number in (1, 2)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shards = training_shards(bases, with_confidence=True)
    return Task(config=replace(PRESETS["tiny"].train, max_iter=2), shards=shards, out=out, device="cpu", init=init)


def test_a_card_holds_what_the_files_say(tmp_path: Path):
    task = finished(tmp_path)
    path = cards.write_card(task, round=0)
    card = json.loads(path.read_text())
    assert card["weights"]["size"] == 7
    assert card["training"] == {"iterations": 2, "device": "cpu", "losses": {"total": 0.5}}
    first = card["learned_from"]["shards"][0]
    base = task.shards[0].base
    assert first["sha256"] == load_manifest(manifest_path(base)).sha256
    assert first["masks_sha256"] == load_manifest(manifest_path(sidecar(base, "pseudo"))).sha256
    assert first["confidence_sha256"] == load_manifest(manifest_path(sidecar(base, "confidence"))).sha256
    assert first["masks"] is None  # these shards do not count them
    assert card["learned_from"]["images"] == 3
    assert str(tmp_path) not in path.read_text()
    text = path.with_suffix(".md").read_text()
    assert "an unknown number of masks (`pseudo`) of 3 images in 3 shards" in text
    assert "None on record" in text
    assert path.read_bytes() == cards.write_card(task, round=0).read_bytes()


def test_many_shards_are_not_all_in_the_readable_card(tmp_path: Path):
    text = cards.write_card(finished(tmp_path, images=12), round=0).with_suffix(".md").read_text()
    assert "| a-009.tar |" in text
    assert "| a-010.tar |" not in text
    assert "... and 2 more: see `model-card.json`" in text


def test_results_are_of_the_weights_that_the_card_describes(tmp_path: Path):
    task = finished(tmp_path)
    weights = task.out / "model-final.safetensors"
    result: dict[str, Any] = {"images": 9, "box": {"ap": 0.123, "ap50": 0.5, "ap75": None, "ar100": 1.0}, "mask": None}
    with pytest.raises(ShardError, match=r"model-card.json is missing, or of other weights"):
        cards.record_results(weights, {"val": result})
    path = cards.write_card(task, round=0)
    cards.record_results(weights, {"val": result})
    cards.record_results(weights, {"other": {**result, "images": 4}})
    assert list(json.loads(path.read_text())["results"]) == ["other", "val"]
    assert "| val | 9 | box | 12.3 | 50.0 | - | 100.0 |" in path.with_suffix(".md").read_text()
    assert cards.describes(weights)
    weights.write_bytes(b"trained again")
    assert not cards.describes(weights)
    with pytest.raises(ShardError, match="of other weights"):
        cards.record_results(weights, {"val": result})
    path.write_text("{")
    assert not cards.describes(weights)


def test_train_writes_a_card_and_either_file_of_weights_is_read(alone: Path, cuts3d: Callable[..., Ran]):
    (base,) = make_shards(alone / "data", images=4, shard_size=4)
    assert cuts3d("train", "--shards", base, *SMALL).code == 0
    folder = alone / "detector-initial"
    assert cards.describes(folder / "model-final.safetensors")
    found = []
    for name in ("model-final.safetensors", "checkpoint-0000002.pth"):
        ran = cuts3d("predict", "--shards", base, "--checkpoint", folder / name, "--if-exists", "overwrite")
        assert ran.code == 0, ran.err
        found.append(sidecar(base, "predict").read_bytes())
        (alone / "photo.png").write_bytes((base.parent.parent / "photos" / "001.png").read_bytes())
        drawn = cuts3d("viz", "photo.png", "--checkpoint", folder / name, "--json")
        assert drawn.code == 0, drawn.err
        assert json.loads(drawn.out)["masks"] >= 1
    assert found[0] == found[1]  # without precise batch norm both hold the same weights
    ran = cuts3d("selftrain", "--shards", base, *ROUNDS, "--score-thresholds", "0")
    assert ran.code == 0, ran.err
    st1 = alone / "detector-st1"
    (st1 / "model-card.md").unlink()  # as if it was stopped between the weights and the card
    again = cuts3d("selftrain", "--shards", base, *ROUNDS, "--score-thresholds", "0")
    assert "already exists" in again.err
    assert cards.describes(st1 / "model-final.safetensors")
    # A round that began with another detector is not taken for one that began with this one.
    assert cuts3d("train", "--shards", base, *SMALL, "--overwrite", "--seed", "5").code == 0
    line = (
        "selftrain",
        "--shards",
        base,
        *ROUNDS,
        "--score-thresholds",
        "0.99",
        "--out",
        "mine",
        "--if-exists",
        "replace",
    )
    assert cuts3d(*line).code == 0
    other = cuts3d("train", "--shards", base, *SMALL, "--overwrite", "--seed", "6")
    assert other.code == 0
    refused = cuts3d(*line)
    assert refused.code == 2
    assert "was started from another detector: train into another folder" in refused.err
