"""Detectors that others publish, against detectron2's own predictor."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cuts3d_cli import Detector as PhotoDetector
from cuts3d_cli import SettingError, WeightsError
from cuts3d_cli.config import PRESETS, PredictConfig
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector.architecture import Architecture, read_architecture
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.loading import load_detector, load_start
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.errors import FileError
from tests.support.photos import scene_of
from tests.support.released import (
    AUTHORS,
    CASCADE,
    FAMILIES,
    MANY,
    PLAIN,
    ZOO,
    Family,
    official_config,
    official_network,
    official_predictions,
    write_config,
)
from tests.support.running import Ran

IMAGES = [scene_of(number).image for number in range(2)]
SMALLER = PredictConfig(test_min_size=96)


def quiet(line: object) -> None:
    pass


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], Path]:
    """A file of each family, made once; a folder for each."""
    made: dict[str, Path] = {}

    def of(family: Family) -> Path:
        if family.name not in made:
            path = tmp_path_factory.mktemp("released") / "final.pth"
            network = official_network(official_config(family.tree()))
            torch.save({"model": network.state_dict(), "iteration": 159_999}, path)
            made[family.name] = path
        return made[family.name]

    return of


def equal(found: Any, theirs: Any) -> None:
    """All of it, to the bit."""
    assert np.array_equal(found.boxes, theirs.pred_boxes.tensor.numpy())
    assert np.array_equal(found.scores, theirs.scores.numpy())
    masks = [decode_rle(code) for code in found.masks]
    assert all(np.array_equal(mask, other) for mask, other in zip(masks, theirs.pred_masks.numpy(), strict=True))
    if found.classes is not None:
        assert np.array_equal(found.classes, theirs.pred_classes.numpy())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_it_finds_what_the_official_predictor_finds(family: Family, weights: Callable[[Family], Path], tmp_path: Path):
    path = weights(family)
    config = write_config(tmp_path / "theirs.yaml", family.tree())
    said: list[str] = []
    wanted = PredictConfig(detectron2_config=config)
    detector = Detector.load(path, device="cpu", wanted=wanted, say=lambda line: said.append(str(line)))
    every = official_predictions(official_config(family.tree()), path, IMAGES)
    for image, theirs in zip(IMAGES, every, strict=True):
        (found,) = detector.detect([image])
        equal(found, theirs)
        assert len(found.scores) == 10 if family is AUTHORS else len(found.scores) > 10
        assert (found.classes is None) == (family not in (MANY, ZOO))
    if found.classes is not None:
        assert len(set(found.classes.tolist())) > 3
    assert said[0] == "theirs.yaml is based on ../Base-RCNN-FPN.yaml, which is missing: detectron2's own is taken"
    sizes = f"photos at {family.photos['MIN_SIZE_TEST']} pixels (at most 1333)"
    assert sizes in said[1]
    assert f"({config})" in said[1]


def test_a_configuration_beside_the_file_is_taken(weights: Callable[[Family], Path]):
    path = weights(AUTHORS)
    assert load_detector(path, PredictConfig(), say=quiet).origin == "as CutLER's, which it is like"
    for name in ("config.yaml", "final.yaml"):
        config = write_config(path.with_name(name), AUTHORS.tree())
        stored = load_detector(path, PredictConfig(), say=quiet)
        assert (stored.origin, stored.inference.min_size, stored.inference.detections) == (str(config), 360, 10)
        named = load_detector(path, PredictConfig(test_settings="cutler"), say=quiet)
        assert (named.origin, named.inference.min_size, named.inference.detections) == ("cutler", 800, 100)
        own = load_detector(path, PredictConfig(test_min_size=200, max_detections=5, min_score=0.1, nms=0.3), say=quiet)
        assert own.origin == f"{config}, changed as asked for"
        settings = own.inference
        assert (settings.min_size, settings.detections, settings.score, settings.nms) == (200, 5, 0.1, 0.3)
    for name in ("config.yaml", "final.yaml"):
        path.with_name(name).unlink()


@pytest.mark.parametrize(
    ("name", "family", "changes"),
    [
        ("cutler", CASCADE, {}),
        ("cutler", PLAIN, {}),
        ("cuts3d-authors", AUTHORS, {}),
        ("cutler-supervised", MANY, {"ROI_HEADS": {"SCORE_THRESH_TEST": 0.05}}),
        ("detectron2-zoo", ZOO, {"ROI_HEADS": {"SCORE_THRESH_TEST": 0.05}}),
    ],
)
def test_named_settings_are_the_authors(
    name: Any, family: Family, changes: dict[str, Any], weights: Callable[[Family], Path]
):
    path = weights(family)
    config = official_config(family.tree(**changes))
    config.INPUT.MIN_SIZE_TEST = 360 if family is AUTHORS else 96
    config.MODEL.RPN.PRE_NMS_TOPK_TEST = config.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    wanted = PredictConfig(test_settings=name, test_min_size=None if family is AUTHORS else 96)
    (theirs,) = official_predictions(config, path, IMAGES[:1])
    (found,) = Detector.load(path, device="cpu", wanted=wanted).detect(IMAGES[:1])
    equal(found, theirs)


def test_single_settings_act_as_in_detectron2(weights: Callable[[Family], Path]):
    path = weights(MANY)
    config = official_config(MANY.tree())
    config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST = 0, 100
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST, config.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.01, 0.2
    config.TEST.DETECTIONS_PER_IMAGE = 300
    config.MODEL.RPN.PRE_NMS_TOPK_TEST = config.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    (theirs,) = official_predictions(config, path, IMAGES[:1])
    settings: dict[str, Any] = {"test_min_size": 0, "min_score": 0.01, "nms": 0.2, "max_detections": 300}
    found = PhotoDetector(path, device="cpu", test_settings="cutler-supervised", **settings)(IMAGES[0])
    assert 10 < len(found) == len(theirs)
    assert np.array_equal(found.scores, theirs.scores.numpy())
    assert found.classes is not None
    assert np.array_equal(found.classes, theirs.pred_classes.numpy())
    best = found[0]
    assert best.class_id == found.classes[0]
    assert np.array_equal(found[found.scores > 0.02].classes, found.classes[found.scores > 0.02])


def test_what_cannot_take_effect_is_refused(weights: Callable[[Family], Path], tiny_detector: Path, tmp_path: Path):
    path = weights(CASCADE)
    config = write_config(tmp_path / "a.yaml", CASCADE.tree())
    refused = {
        "test_settings does not go with predict.detectron2_config": {
            "detectron2_config": config,
            "test_settings": "cutler",
        },
        "test_min_size 2000 has no effect, since no side is over 1333: raise predict.test_max_size": {
            "test_min_size": 2000
        },
        "test_max_size 100 has no effect: photos keep their size": {"test_min_size": 0, "test_max_size": 100},
        "max_detections 3000 has no effect: this detector has at most 1000 detections": {"max_detections": 3000},
    }
    for line, settings in refused.items():
        with pytest.raises(SettingError, match=line):
            load_detector(path, PredictConfig(**settings), say=quiet)  # type: ignore[arg-type]
    # Our own detector takes settings, and keeps its network.
    stored = load_detector(tiny_detector, PredictConfig(test_settings="cuts3d-authors"), say=quiet)
    assert (stored.inference.min_size, stored.conventions.anchor_sizes) == (360, (16, 32, 64, 96, 128))
    with pytest.raises(FileError, match=r"does not describe the detector in .*ANCHOR_GENERATOR.SIZES \[\[32\]"):
        load_detector(tiny_detector, PredictConfig(detectron2_config=config), say=quiet)


def test_a_network_that_nothing_is_known_of_is_refused(weights: Callable[[Family], Path]):
    with pytest.raises(
        WeightsError, match=r"holds a Mask R-CNN, ResNet-50, 80 classes, and nothing beside it says how"
    ):
        load_detector(weights(ZOO), PredictConfig(), say=quiet)
    stored = torch.load(weights(CASCADE), weights_only=True)["model"]
    path = weights(CASCADE).with_name("older.pth")
    older = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    cells = {f"proposal_generator.anchor_generator.cell_anchors.{level}": torch.zeros(3, 4) for level in range(5)}
    torch.save({"model": {**stored, **older, **cells}}, path)
    with pytest.raises(WeightsError, match=r"its pixel_mean is \[103\.\d+, 116\.\d+, 123\.\d+\], not \[123\.675"):
        load_detector(path, SMALLER, say=quiet)
    older["pixel_mean"], older["pixel_std"] = (
        torch.tensor([123.675, 116.28, 103.53]),
        torch.tensor([58.395, 57.12, 57.375]),
    )
    torch.save({"model": {**stored, **older, **cells}}, path)
    assert load_detector(path, SMALLER, say=quiet).weights.keys() == stored.keys()


@pytest.mark.parametrize("wrapped", ["bare", "module", "trainer", "safetensors", "pickle"])
def test_the_nesting_of_a_file_does_not_matter(wrapped: str, weights: Callable[[Family], Path], tmp_path: Path):
    model = torch.load(weights(CASCADE), weights_only=True)["model"]
    path = tmp_path / "detector"
    if wrapped == "safetensors":
        save_file(model, path)
    elif wrapped == "pickle":
        arrays = {name: tensor.numpy() for name, tensor in model.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}))
    else:
        content: Any = {
            "bare": model,
            "module": {"model": {f"module.{name}": tensor for name, tensor in model.items()}},
            "trainer": {"model": model, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 9}, "iteration": 9},
        }[wrapped]
        torch.save(content, path)
    (expected,), (found,) = (
        Detector.load(file, device="cpu", wanted=SMALLER).detect(IMAGES[:1]) for file in (weights(CASCADE), path)
    )
    assert np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("head", ["cascade", "standard"])
def test_the_network_is_read_from_the_tensors(head: Any, depth: Any):
    config = replace(PRESETS["tiny"].train, head=head, resnet_depth=depth, mask_head_layers=3)
    with torch.device("meta"):
        tensors = build_model(config, device="meta").state_dict()
    assert read_architecture(tensors, path=Path("x")) == Architecture.of_training(config)


def test_other_networks_are_refused_by_what_they_lack(weights: Callable[[Family], Path], tmp_path: Path):
    model = torch.load(weights(CASCADE), weights_only=True)["model"]
    path = tmp_path / "other.pth"

    def refusal(change: Callable[[dict[str, torch.Tensor]], Any]) -> str:
        changed = dict(model)
        change(changed)
        torch.save(changed, path)
        with pytest.raises(WeightsError) as told:
            load_detector(path, SMALLER, say=quiet).build()
        return str(told.value).removeprefix(f"{path} does not fit ")

    boxes_only = refusal(lambda state: [state.pop(name) for name in list(state) if "mask_head" in name])
    assert boxes_only.startswith(
        "a Mask R-CNN of detectron2 with an FPN: it holds no roi_heads.mask_head.predictor.weight"
    )
    assert "it lacks roi_heads.box_head.0.fc1.weight" in refusal(
        lambda state: state.pop("roi_heads.box_head.0.fc1.weight")
    )
    blocks = refusal(lambda state: state.update({"backbone.bottom_up.res2.2.conv1.weight": torch.zeros(1)}))
    assert "its stages have 3, 2, 2, 2 blocks, as no ResNet of 18, 34, 50, 101, 152 layers has" in blocks
    groups = "backbone.bottom_up.res2.0.conv2.weight"
    assert f"1 tensor of another shape ({groups} 64x2x3x3" in refusal(
        lambda s: s.update({groups: torch.zeros(64, 2, 3, 3)})
    )
    many = torch.zeros(1).expand(30_000, 32)
    assert "it claims 29999 classes" in refusal(
        lambda state: state.update({"roi_heads.box_predictor.0.cls_score.weight": many})
    )


# ---------------------------------------------------------------------------------------------- training on them


def test_a_training_starts_from_them(weights: Callable[[Family], Path], tmp_path: Path):
    small: dict[str, Any] = dict(fpn_channels=16, box_head_width=32, mask_head_width=16, mask_head_layers=4)
    config = replace(PRESETS["tiny"].train, anchor_sizes=(32, 64, 128, 256, 512), **small)
    for family, head in ((CASCADE, "cascade"), (PLAIN, "standard")):
        model = build_model(replace(config, head=head), device="cpu")  # type: ignore[arg-type]
        load_start(model, weights(family), config=replace(config, head=head), say=quiet)  # type: ignore[arg-type]
        stored = torch.load(weights(family), weights_only=True)["model"]
        assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    # Of 80 classes all but the last layers.
    said: list[str] = []
    model = build_model(config, device="cpu")
    load_start(model, weights(MANY), config=config, say=lambda line: said.append(str(line)))
    stored = torch.load(weights(MANY), weights_only=True)["model"]
    anew = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, stored[name][:1].expand_as(tensor) if tensor.shape != stored[name].shape else stored[name])}  # fmt: skip  # noqa: E501
    # Their biases begin at 0, as those of the file do.
    assert len(anew) == 4
    assert all("cls_score.weight" in name or "mask_head.predictor.weight" in name for name in anew)
    assert said == ["final.pth: its 80 classes become one, so 8 tensors start anew"]


def test_a_training_of_another_network_cannot(weights: Callable[[Family], Path], tmp_path: Path):
    config = PRESETS["tiny"].train
    model = build_model(config, device="cpu")
    with pytest.raises(
        SettingError, match=r"train.head is cascade, which does not fit .*final.pth, a Mask R-CNN, ResN"
    ):
        load_start(model, weights(PLAIN), config=config, say=quiet)
    with pytest.raises(SettingError, match=r"selftrain.resnet_depth is 50, .*: train with selftrain.resnet_depth=18"):
        load_start(model, weights(CASCADE), config=PRESETS["paper"].selftrain, say=quiet)
    with pytest.raises(WeightsError, match=r"does not fit this detector: 4 tensors unknown .*; 69 tensors of an"):
        load_start(model, weights(CASCADE), config=config, say=quiet)
    folder = tmp_path / "bgr"
    folder.mkdir()
    path = folder / "final.pth"
    path.write_bytes(weights(CASCADE).read_bytes())
    tree = CASCADE.tree()
    tree["INPUT"]["FORMAT"] = "BGR"
    write_config(folder / "config.yaml", tree)
    with pytest.raises(WeightsError, match="does not fit this training: its colours is BGR, here it is RGB"):
        load_start(model, path, config=config, say=quiet)


# ---------------------------------------------------------------------------------------------- commands


def test_the_commands_take_them(
    weights: Callable[[Family], Path], shards: list[Path], cuts3d: Callable[..., Ran], tmp_path: Path
):
    path = weights(MANY)
    named = ("-c", path, "--test-settings", "cutler-supervised", "--test-min-size", "64", "--score", "0.001")
    ran = cuts3d("predict", *named, "--max-detections", "120", "--json")
    assert ran.code == 0, ran.err
    told = (
        "final.pth: Cascade Mask R-CNN, ResNet-18, 80 classes; photos at 64 pixels (at most 1333), score over 0.001, "
        "NMS 0.5, at most 120 detections of 1000 proposals (NMS 0.7) (cutler-supervised, changed as asked for)"
    )
    assert told in ran.err.splitlines()
    assert json.loads(ran.out)["counts"]["masks"] > 4 * 7
    assert {item["status"] for item in json.loads(cuts3d("predict", *named, "--max-detections", "120", "--json").out)["shards"]} == {"skipped"}  # fmt: skip  # noqa: E501
    redone = cuts3d("predict", *named, "--max-detections", "7", "--json", "--if-exists", "replace")
    assert {item["status"] for item in json.loads(redone.out)["shards"]} == {"done"}
    assert json.loads(redone.out)["counts"]["masks"] <= 4 * 7
    over = cuts3d("predict", *named, "--max-detections", "90000")
    assert over.code == 2
    assert (
        "--max-detections 90000 has no effect: this detector has at most 80000 detections" in over.err.splitlines()[-1]
    )


def test_settings_of_a_detector_go_with_a_detector(cuts3d: Callable[..., Ran], alone: Path):
    (alone / "a.jpg").write_bytes(b"")
    line = "cuts3d: --nms has no effect without --checkpoint: leave it out"
    assert cuts3d("viz", "a.jpg", "--nms", "0.3").line == line
    assert cuts3d("eval", "--gt", "a.json", "--shards", ".", "--nms", "0.3").line == line
