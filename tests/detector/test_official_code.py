"""Released detectors, and the ResNets that they start from, against the code that made them, on photos.

The weights are random, and the files are written by the official code's own checkpointers and converters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cuts3d_cli.config import PRESETS, PredictConfig
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.loading import load_detector
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.resnet import load_resnet
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD, resize_square
from tests.support.official_code import checkout, run_official

CUTLER = "cutler/model_zoo/configs"


@dataclass(frozen=True, kw_only=True)
class Released:
    """A detector that is released.

    Attributes:
        code: the repository of the code.
        configs: the repository of the configuration, where it is another one.
        config: its configuration in that repository.
        settings: what we call its settings at test time.
        detections: that it makes of a photo with random weights, at least.
    """

    code: str
    configs: str = ""
    config: str
    settings: Any
    detections: int = 100


RELEASED = {
    "CutLER": Released(
        code="CutLER", config=f"{CUTLER}/CutLER-ImageNet/cascade_mask_rcnn_R_50_FPN.yaml", settings="cutler"
    ),
    "CutLER, plain": Released(
        code="CutLER", config=f"{CUTLER}/CutLER-ImageNet/mask_rcnn_R_50_FPN.yaml", settings="cutler"
    ),
    "CutLER, 80 classes": Released(
        code="CutLER",
        config=f"{CUTLER}/COCO-Semisupervised/cascade_mask_rcnn_R_50_FPN_10perc.yaml",
        settings="cutler-supervised",
        detections=50,
    ),
    "UnionCut": Released(
        code="CutLER", configs="UnionCut", config="CutLER/configs/cascade_mask_rcnn_R_50_FPN.yaml", settings="cutler"
    ),
    "CuVLER": Released(
        code="CuVLER",
        config="cad/model_zoo/configs/CutVER-ImageNet/cascade_mask_rcnn_R_50_FPN_votecut_cad.yaml",
        settings="cutler",
    ),
    "CutS3D": Released(
        code="s2d",
        config="model_training/configs/cuts3d/original_cascade_mask_rcnn_R_50_FPN.yaml",
        settings="cuts3d-authors",
        detections=10,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_detections_are_those_of_the_official_code(name: str, test_data: Path, tmp_path: Path):
    released = RELEASED[name]
    code, config = checkout(released.code), checkout(released.configs or released.code) / released.config
    if released.configs:
        # It takes the place of the code's own configuration of that name.
        base = code / CUTLER / "Base-RCNN-FPN.yaml"
        (tmp_path / "configs").mkdir()
        config = Path(copyfile(config, tmp_path / "configs" / config.name))
        copyfile(base, tmp_path / base.name)
    paths = sorted((test_data / "coco" / "images").iterdir())[:2]
    photos = {path.stem: np.array(Image.open(path).convert("RGB")) for path in paths}
    np.savez(tmp_path / "photos.npz", **photos)  # type: ignore[arg-type]
    run_official("official_detector.py", released.code, code, config, tmp_path / "photos.npz", tmp_path)
    theirs = np.load(tmp_path / "found.npz")

    path = tmp_path / "final.pth"
    detector = Detector.load(path, device="cpu", wanted=PredictConfig(detectron2_config=config))
    for photo, image in photos.items():
        (found,) = detector.detect([image])
        assert len(found.scores) >= released.detections
        assert np.array_equal(found.boxes, theirs[f"{photo}.boxes"])
        assert np.array_equal(found.scores, theirs[f"{photo}.scores"])
        masks = np.stack([decode_rle(code) for code in found.masks])
        assert np.array_equal(masks, theirs[f"{photo}.masks"])
        assert masks.any(axis=(1, 2)).mean() > 0.9
        assert len(np.unique(found.scores)) == len(found.scores)
        if found.classes is not None:
            assert np.array_equal(found.classes, theirs[f"{photo}.classes"])
    # The named settings are the configuration's.
    by_name = load_detector(path, PredictConfig(test_settings=released.settings), say=lambda line: None)
    by_config = load_detector(path, PredictConfig(detectron2_config=config), say=lambda line: None)
    assert by_name.inference == by_config.inference


RESNETS = {
    "DINO ResNet-50, training": ("dino", ("checkpoint.pth",)),
    "MoCo": ("moco", ("checkpoint.pth.tar", "moco_d2_format.pkl", "d2_format.pth")),
    "DenseCL": ("DenseCL", ("epoch_200.pth", "densecl_r50_imagenet_200ep.pth", "densecl.pkl")),
}
"""A ResNet-50, the repository of its code, and the files that are written: as trained, or converted for detectron2."""


@pytest.mark.parametrize("name", RESNETS)
def test_features_of_a_resnet_are_those_of_torchvision(name: str, test_data: Path, tmp_path: Path) -> None:
    repository, files = RESNETS[name]
    code = checkout(repository).parent
    image = Image.open(min((test_data / "coco" / "images").iterdir())).convert("RGB")
    np.save(tmp_path / "photo.npy", np.array(image))
    run_official("official_backbones.py", name, code, tmp_path / "photo.npy", tmp_path, 224)
    expected = np.load(tmp_path / "found.npz")["224"]
    assert expected.std() > 0.01 * np.ptp(expected)
    pixels = (resize_square(image, 224) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    for file in files:
        resnet = build_model(PRESETS["paper"].train, device="cpu").backbone.bottom_up.eval()
        load_resnet(resnet, str(tmp_path / file), say=pytest.fail)
        with torch.no_grad():
            (ours,) = resnet(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())["res5"]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6 * np.ptp(expected), err_msg=file)
