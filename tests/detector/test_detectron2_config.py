"""Configurations of detectron2 as they are read, and which detectors they describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cuts3d_cli.detector.architecture import Architecture, Conventions
from cuts3d_cli.detector.detectron2_config import (
    check_describes,
    config_tree,
    conventions_of,
    inference_of,
    read_config,
    to_yaml,
)
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.errors import FileError
from tests.support.released import CASCADE, MANY, PLAIN, ZOO, Family, merged, write_config

ARCHITECTURE = Architecture(
    head="cascade",
    stages=3,
    resnet_depth=18,
    fpn_channels=16,
    fpn_norm=True,
    anchors=3,
    classes=1,
    box_per_class=False,
    mask_per_class=False,
    box_layers=2,
    box_width=32,
    box_pool=7,
    mask_layers=4,
    mask_width=16,
)
"""Of `CASCADE`."""


def quiet(line: object) -> None:
    pass


def described(path: Path, architecture: Architecture = ARCHITECTURE) -> tuple[Conventions, InferenceSettings]:
    """What a configuration says of a detector, which it must describe."""
    config = read_config(path, say=quiet)
    conventions, inference = conventions_of(config, path=path), inference_of(config, path=path)
    check_describes(config, config_tree(architecture, conventions, inference), path=path, weights=Path("final.pth"))
    return conventions, inference


def test_what_is_written_is_read_back(tmp_path: Path):
    path = tmp_path / "config.yaml"
    inference = InferenceSettings(min_size=0, max_size=900, score=0.1, nms=0.3, detections=7, proposals=50)
    for conventions in (Conventions(), Conventions(colours="BGR", pixel_std=(1.0, 1.0, 1.0), anchor_sizes=(8,) * 5)):
        path.write_bytes(to_yaml(config_tree(ARCHITECTURE, conventions, inference)))
        assert described(path) == (conventions, inference)


@pytest.mark.parametrize("family", [CASCADE, PLAIN, MANY, ZOO], ids=lambda family: family.name)
def test_what_detectron2_dumps_is_read(family: Family, tmp_path: Path):
    """The whole of it, as its trainer writes it beside its checkpoints, with references."""
    from tests.support.released import official_config

    config = official_config(family.tree())
    path = tmp_path / "config.yaml"
    path.write_text(config.dump())
    read = read_config(path, say=quiet)
    # Lists and tuples are one in YAML.
    assert json.dumps(read.MODEL, sort_keys=True) == json.dumps(config.MODEL, sort_keys=True)
    assert inference_of(read, path=path).min_size == family.photos["MIN_SIZE_TEST"]
    assert conventions_of(read, path=path).colours == family.photos.get("FORMAT", "BGR")


def test_a_base_that_is_missing_is_detectron2s(tmp_path: Path):
    said: list[str] = []
    path = write_config(tmp_path / "theirs.yaml", CASCADE.tree())
    read_config(path, say=lambda line: said.append(str(line)))
    assert said == ["theirs.yaml is based on ../Base-RCNN-FPN.yaml, which is missing: detectron2's own is taken"]
    # One that is there is taken, and what stands on top of it wins.
    (tmp_path / "base.yaml").write_text("_BASE_: Base-RCNN-FPN.yaml\nTEST: {DETECTIONS_PER_IMAGE: 7}\nSEED: 3\n")
    tree = {**CASCADE.tree(), "_BASE_": "base.yaml", "SEED": 4}
    tree["TEST"] = {}
    read = read_config(write_config(path, tree), say=quiet)
    assert (read.TEST.DETECTIONS_PER_IMAGE, read.SEED) == (7, 4)


def test_fewer_than_no_detections_are_all(tmp_path: Path):
    tree = CASCADE.tree()
    tree["TEST"] = {"DETECTIONS_PER_IMAGE": -1}
    assert described(write_config(tmp_path / "a.yaml", tree))[1].detections == 60


def test_code_is_never_run(tmp_path: Path):
    config, owned = tmp_path / "evil.yaml", tmp_path / "owned"
    config.write_text(f"MODEL: !!python/object/apply:os.mkdir ['{owned}']\n")
    with pytest.raises(FileError, match=r"evil.yaml holds .*Python code in it is never run"):
        read_config(config, say=quiet)
    assert not owned.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("MODEL: [", "is no YAML"),
        ("- 1\n- 2\n", "it holds no sections"),
        (f"a: &a [{'1, ' * 99}]\nb: &b [{'*a, ' * 99}]\nc: [{'*b, ' * 99}]\n", "it stands for too many values"),
        ("a: &a [*a]\n", "is no YAML: maximum recursion depth exceeded"),
        ("VERSION: 1\n", "is of version 1: detectron2's are of version 2"),
        ("_BASE_: ../none.yaml\n", "is based on ../none.yaml, which is missing: put it there"),
        ("_BASE_: https://x.org/a.yaml\n", "is based on 'https://x.org/a.yaml', which is not read"),
        ("_BASE_: theirs.yaml\n", "is based on 'theirs.yaml', which is not read"),
        ("TEST: {DETECTIONS_PER_IMAGE: many}\n", "is no configuration of detectron2: "),
        ("INPUT: {MIN_SIZE_TEST: 100000}\n", "predict.test_min_size is 100000: it must lie between 0 and 8192"),
        ("MODEL: {ROI_HEADS: 3}\n", "is no configuration of detectron2: "),
        ("#" * 1_000_001, "more than 1000000 bytes"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, problem: str, tmp_path: Path):
    config = tmp_path / "theirs.yaml"
    config.write_text(text)
    with pytest.raises(FileError, match=problem):
        described(config)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ROI_HEADS": {"NUM_CLASSES": 80}}, "MODEL.ROI_HEADS.NUM_CLASSES 80, not 1"),
        ({"RESNETS": {"DEPTH": 50, "RES2_OUT_CHANNELS": 256}}, "MODEL.RESNETS.DEPTH 50, not 18"),
        ({"ROI_HEADS": {"NAME": "StandardROIHeads"}}, "MODEL.ROI_HEADS.NAME StandardROIHeads"),
        # What shapes the detections, and cannot be built.
        ({"ROI_BOX_HEAD": {"POOLER_SAMPLING_RATIO": 2}}, "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO 2, not 0"),
        ({"FPN": {"FUSE_TYPE": "avg"}}, "MODEL.FPN.FUSE_TYPE avg, not sum"),
        ({"ANCHOR_GENERATOR": {"SIZES": [[32, 64]] * 5}}, "MODEL.ANCHOR_GENERATOR.SIZES"),
    ],
)
def test_a_configuration_of_another_detector_is_refused(changes: dict[str, Any], field: str, tmp_path: Path):
    config = write_config(tmp_path / "theirs.yaml", CASCADE.tree(**changes))
    with pytest.raises(FileError) as told:
        described(config)
    assert f"{config} does not describe the detector in final.pth" in str(told.value)
    assert field in str(told.value)
    assert "leave it aside with predict.test_settings" in str(told.value)


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("INPUT", {"FORMAT": "YUV-BT.601"}, "can be built: colours are 'YUV-BT.601', not RGB or BGR"),
        ("INPUT", {"FORMAT": "L"}, "can be built: colours are 'L', not RGB or BGR"),
        ("MODEL", {"PIXEL_MEAN": [1.0, 2.0]}, r"can be built: pixel_mean is \[1.0, 2.0\]"),
        ("MODEL", {"PIXEL_MEAN": [1.0, 2.0, float("nan")]}, r"can be built: pixel_mean is \[1.0, 2.0, nan\]"),
        ("MODEL", {"PIXEL_STD": [1.0, 1.0, 0.0]}, r"can be built: pixel_std is \[1.0, 1.0, 0.0\]"),
        ("MODEL", {"ANCHOR_GENERATOR": {"SIZES": [[32], [64]]}}, "there are anchors for 2 levels, not for 5"),
        ("MODEL", {"ANCHOR_GENERATOR": {"SIZES": [[0]] * 5}}, r"anchor_sizes is \[0, 0, 0, 0, 0\]"),
        ("MODEL", {"ANCHOR_GENERATOR": {"ASPECT_RATIOS": [[-1.0]]}}, r"aspect_ratios is \[-1.0\]"),
        (
            "MODEL",
            {"ROI_BOX_CASCADE_HEAD": {"BBOX_REG_WEIGHTS": [[0.0] * 4] * 3}},
            r"box_weights of head 0 is \[0, 0, 0",
        ),
        (
            "MODEL",
            {"ROI_BOX_CASCADE_HEAD": {"BBOX_REG_WEIGHTS": [[1.0] * 3] * 3}},
            r"box_weights of head 0 is \[1, 1, 1",
        ),
        ("MODEL", {"ROI_MASK_HEAD": {"POOLER_RESOLUTION": 0}}, "the mask head gets 0 features a side"),
        ("MODEL", {"RPN": {"PRE_NMS_TOPK_TEST": -1}}, "MODEL.RPN.PRE_NMS_TOPK_TEST is -1: it must lie between 1 and"),
        ("MODEL", {"RPN": {"POST_NMS_TOPK_TEST": 0}}, "MODEL.RPN.POST_NMS_TOPK_TEST is 0: it must lie between 1 and"),
        ("MODEL", {"RPN": {"NMS_THRESH": float("nan")}}, "MODEL.RPN.NMS_THRESH is nan: it must lie between 0 and 1"),
    ],
)
def test_values_that_no_detector_can_have_are_refused(section: str, values: dict[str, Any], told: str, tmp_path: Path):
    tree = merged(CASCADE.tree(), {section: values})
    with pytest.raises(FileError, match=told):
        described(write_config(tmp_path / "config.yaml", tree))
