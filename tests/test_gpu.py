"""Commands on a GPU, or on a pretended one, against the CPU: the same results, where both compute in float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.features import read_features
from tests.support import depth_networks
from tests.support.photos import pack_photos, records
from tests.support.pretended_cuda import Device, pretended_cuda
from tests.support.running import Ran

Command = Callable[..., Ran]


def done(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def backbone(weights: Path) -> tuple[object, ...]:
    return ("--backbone", "dino-vits16", "--size", 224, "--weights", weights)


def features_of(base: Path) -> np.ndarray:
    found = [read_features(sample, None) for sample in read_shard(sidecar(base, "features"))]
    return np.stack(found).astype(np.float32)


def info(base: Path, stage: str) -> Mapping[str, Any]:
    return load_manifest(manifest_path(sidecar(base, stage))).info


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_features(cuts3d: Command, alone: Path, weights: Path, gpu: Device | None, precision: str):
    (base,) = pack_photos(alone, 3, with_depth=False)
    line = ("features", "--shards", base, *backbone(weights), "--if-exists", "overwrite", "-j", 0)
    done(cuts3d(*line, "--device", "cpu"))
    expected = features_of(base)
    done(cuts3d(*line, "--device", "cuda", "--precision", precision))
    found = features_of(base)
    assert info(base, "features")["device"] == "cuda"
    if precision == "float32":
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99


def test_batches_that_are_too_large_are_halved(cuts3d: Command, alone: Path, weights: Path, gpu: Device | None):
    if gpu is None:
        pytest.skip("the device is a real one: its memory cannot be lowered")
    (base,) = pack_photos(alone, 10, with_depth=False)
    line = ("features", "--shards", base, *backbone(weights), "--if-exists", "overwrite", "-j", 0)
    done(cuts3d(*line, "--device", "cpu"))
    expected = features_of(base)
    gpu.largest = 3 * 1536 * 197 * 4  # of three photos
    ran = done(cuts3d(*line, "--device", "cuda", "--precision", "float32", "--batch-size", "auto"))
    assert "4 images at once are more than the memory of the device holds: going on with 2" in ran.err
    assert gpu.emptied
    np.testing.assert_allclose(features_of(base), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "choices",
    [
        ("--preset", "paper"),
        ("--preset", "best"),
        ("--preset", "objects"),
        ("--method", "maskcut"),
        ("--set", "eigensolver=dense", "--set", "sharpen=false"),
    ],
    ids=lambda choices: choices[1],
)
def test_masks(cuts3d: Command, alone: Path, weights: Path, gpu: Device | None, choices: tuple[str, ...]):
    """From the same features the same masks, CRF and confidence; from the device's own features almost the same."""
    bases = pack_photos(alone, 5, shard_size=3)
    own = ("--shards", *bases, *backbone(weights), "--if-exists", "overwrite", "-j", 0)
    line = ("pseudo", *own, *choices, "--crf-size", 160)
    done(cuts3d("features", *own, "--device", "cpu"))
    done(cuts3d(*line, "--device", "cpu", "--set", "graphs=workers"))
    expected = [sidecar(base, "pseudo").read_bytes() for base in bases]
    counts = [
        len(record["instances"])
        for base in bases
        for record in records(sidecar(base, "pseudo"), "pseudo.json").values()
    ]
    assert sum(counts) >= 5
    done(cuts3d(*line, "--device", "cuda", "--precision", "float32", "--batch-size", 2))
    assert info(bases[0], "pseudo")["graphs"] == "cuda"
    assert [sidecar(base, "pseudo").read_bytes() for base in bases] == expected
    for base in bases:
        sidecar(base, "features").unlink()
        manifest_path(sidecar(base, "features")).unlink()
    done(cuts3d(*line, "--device", "cuda", "--batch-size", "auto"))
    again = [
        len(record["instances"])
        for base in bases
        for record in records(sidecar(base, "pseudo"), "pseudo.json").values()
    ]
    assert np.abs(np.array(again) - counts).max() <= 1


@pytest.fixture(scope="module")
def midas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiDaS small with random weights."""
    return depth_networks.midas(tmp_path_factory.mktemp("midas") / "midas.pt")


def test_depth(cuts3d: Command, alone: Path, midas: Path, gpu: Device | None):
    (base,) = pack_photos(alone, 3, with_depth=False)
    line = (
        "depth",
        "--shards",
        base,
        "--backend",
        "midas-small",
        "--weights",
        midas,
        "--if-exists",
        "overwrite",
        "-j",
        0,
    )
    found = {}
    for device in ("cpu", "cuda"):
        done(cuts3d(*line, "--device", device, "--precision", "float32"))
        found[device] = records(sidecar(base, "depth"), "depth.json")
    assert list(found["cuda"]) == ["p0", "p1", "p2"]
    for key, facts in found["cpu"].items():
        assert found["cuda"][key]["min"] == pytest.approx(facts["min"], rel=1e-3)
        assert found["cuda"][key]["max"] == pytest.approx(facts["max"], rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_detections(cuts3d: Command, alone: Path, tiny_detector: Path, gpu: Device | None, precision: str):
    (base,) = pack_photos(alone, 3, with_depth=False)
    line = (
        "predict",
        "--checkpoint",
        tiny_detector,
        "--shards",
        base,
        "--if-exists",
        "overwrite",
        "-j",
        0,
        "--score",
        0,
    )
    done(cuts3d(*line, "--device", "cpu"))
    expected = records(sidecar(base, "predict"), "predict.json")
    done(cuts3d(*line, "--device", "cuda", "--precision", precision))
    found = records(sidecar(base, "predict"), "predict.json")
    assert sum(len(record["instances"]) for record in expected.values()) > 3
    if precision == "float32":
        for key, record in expected.items():
            scores = [item["score"] for item in record["instances"]]
            np.testing.assert_allclose([item["score"] for item in found[key]["instances"]], scores, atol=1e-3)
    else:
        assert all(record["instances"] for record in found.values())


def test_an_evaluation(cuts3d: Command, alone: Path, tiny_detector: Path, gpu: Device | None):
    from tests.support.training_data import make_shards
    from tests.support.trainings import ground_truth

    make_shards(alone / "made", images=8, shard_size=8)
    truth = ground_truth(alone)
    line = ("eval", "-c", tiny_detector, "-d", truth, "--images", alone / "made" / "photos", "--json")
    found = {}
    for device in ("cpu", "cuda"):
        ran = done(cuts3d(*line, "--device", device, "--precision", "float32"))
        (found[device],) = json.loads(ran.out)["datasets"]
        del found[device]["seconds"]
    assert found["cpu"] == found["cuda"]


@pytest.mark.parametrize(
    "changes",
    [
        {"amp": True, "accumulate": "auto"},
        {"amp": False, "alpha": "spatial", "copy_paste_select": "confident", "soft_loss": True, "clip": "model"},
        {
            "amp": True,
            "alpha": "scalar",
            "clip": "parameter",
            "drop_loss": True,
            "images_per_batch": 4,
            "accumulate": 2,
        },
        {"norm": "SyncBN", "alpha": "none", "copy_paste_select": "random"},
        {"copy_paste": False},
    ],
)
def test_a_training(tmp_path: Path, gpu: Device | None, changes: dict[str, Any]):
    """Forward, losses, copy-paste, update, checkpoint, batch norm, evaluation, and what goes on from a checkpoint."""
    from cuts3d_cli.detector.training import train
    from tests.support.training_data import make_shards
    from tests.support.trainings import Noted, task

    bases = make_shards(tmp_path / "made", images=8, shard_size=5)
    changes = {"copy_paste": True, "copy_paste_rate": 1.0, "loader_workers": 0, **changes}
    work = replace(task(bases, tmp_path / "out", max_iter=2, **changes), device="cuda")
    noted = Noted()
    final = train(work, noted)
    assert final.is_file()
    assert len(noted.steps) == 2
    assert all(np.isfinite(value) for step in noted.steps for value in step.losses.values())
    more = replace(task(bases, tmp_path / "out", max_iter=3, resume=True, **changes), device="cuda")
    again = Noted()
    train(more, again)
    assert again.begun == (2, 3)


def test_the_first_losses_of_a_training_are_those_of_the_cpu(tmp_path: Path, gpu: Device | None):
    from cuts3d_cli.detector.training import train
    from tests.support.training_data import make_shards
    from tests.support.trainings import Noted, task

    bases = make_shards(tmp_path / "made", images=8, shard_size=5)
    changes: dict[str, Any] = {
        "amp": False,
        "copy_paste_rate": 1.0,
        "max_iter": 1,
        "precise_bn": 0,
        "loader_workers": 0,
    }
    losses = []
    for device in ("cpu", "cuda"):
        noted = Noted()
        train(replace(task(bases, tmp_path / device, **changes), device=device), noted)
        losses.append(noted.steps[0].losses)
    if gpu is None:  # a GPU draws other boxes
        assert losses[0].keys() == losses[1].keys()
        return
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_photo_without_instances_has_weights_on_its_device(gpu: Device | None):
    from cuts3d_cli.detector.losses import drop_weights

    boxes = torch.ones(2, 4, device="cuda")
    found = drop_weights(boxes, boxes[:0], iou=0.01)
    assert found.device == boxes.device
    assert found.tolist() == [0.0, 0.0]


def test_the_current_device_is_the_one_that_was_asked_for(cuts3d: Command, alone: Path, weights: Path):
    if torch.cuda.is_available():
        pytest.skip("the device is a real one, and may be the only one")
    (base,) = pack_photos(alone, 2)
    with pretended_cuda(count=2) as device:
        done(cuts3d("pseudo", "--shards", base, *backbone(weights), "-j", 0, "--device", "cuda:1", "--crf-size", 160))
        assert device.current == 0
    assert info(base, "pseudo")["graphs"] == "cuda:1"


def test_the_cpu_waits_a_few_times_for_each_photo(cuts3d: Command, alone: Path, weights: Path, gpu: Device | None):
    """Not in each step of Lanczos, nor in each iteration or mask of the CRF."""
    if gpu is None:
        pytest.skip("the device is a real one: waits are counted on the pretended one")
    (base,) = pack_photos(alone, 4)
    line = ("pseudo", "--shards", base, *backbone(weights), "-j", 0, "--device", "cuda", "--crf-size", 160)
    done(cuts3d(*line, "--batch-size", 4))
    waits = {where.partition(":")[0]: 0 for _, where in gpu.waits}
    for (_, where), number in gpu.waits.items():
        waits[where.partition(":")[0]] += number
    masks = sum(len(record["instances"]) for record in records(sidecar(base, "pseudo"), "pseudo.json").values())
    assert masks >= 4
    assert waits["cut/batched_graph.py"] == 2  # for the batch
    assert 0 < waits["cut/batched_ncut.py"] <= 12 * 4 + 12  # for each cut, and every few steps
    assert 0 < waits["cut/batched_crf.py"] <= 5 * 4
