"""Detectors in the formats in which they are published: random weights of networks that detectron2 itself builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

SMALL: dict[str, Any] = {
    "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "FPN": {"OUT_CHANNELS": 16},
    "ROI_BOX_HEAD": {"FC_DIM": 32},
    "ROI_MASK_HEAD": {"CONV_DIM": 16},
    "RPN": {"PRE_NMS_TOPK_TEST": 60, "POST_NMS_TOPK_TEST": 60},
}
"""A network that is small in all but the number of its parts."""
OURS: dict[str, Any] = {
    "PIXEL_MEAN": [123.675, 116.28, 103.53],
    "PIXEL_STD": [58.395, 57.12, 57.375],
    "BACKBONE": {"FREEZE_AT": 0},
    "RESNETS": {"NORM": "SyncBN", "STRIDE_IN_1X1": False},
    "FPN": {"NORM": "SyncBN"},
}
"""What the detectors of CutLER and of those who build on it share."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of published detectors.

    Attributes:
        name: for people.
        model: section MODEL of its configuration, over detectron2's for an FPN.
        photos: section INPUT.
        test: section TEST.
    """

    name: str
    model: dict[str, Any]
    photos: dict[str, Any]
    test: dict[str, Any]

    def tree(self, **model: Any) -> dict[str, Any]:
        """The configuration, as small as `SMALL`, with changes in section MODEL."""
        return {
            "_BASE_": "../Base-RCNN-FPN.yaml",
            # Fields of the authors' own programs.
            "DATALOADER": {"COPY_PASTE": True, "COPY_PASTE_RATE": 1.0},
            "MODEL": merged(SMALL, {"MASK_ON": True}, self.model, model),
            "INPUT": {"MASK_FORMAT": "bitmask", **self.photos},
            "TEST": self.test,
        }


CASCADE = Family(
    name="CutLER's cascade",
    model={
        **OURS,
        "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True},
        "ROI_HEADS": {
            "NAME": "CustomCascadeROIHeads",
            "NUM_CLASSES": 1,
            "SCORE_THRESH_TEST": 0.0,
            "USE_DROPLOSS": True,
        },
        "RPN": {"NMS_THRESH": 0.65},
    },
    photos={"FORMAT": "RGB", "MIN_SIZE_TEST": 96, "MIN_SIZE_TRAIN": "(240, 320)"},
    test={"DETECTIONS_PER_IMAGE": 100},
)
PLAIN = Family(
    name="CutLER's plain Mask R-CNN",
    model={
        **OURS,
        "ROI_HEADS": {"NAME": "CustomStandardROIHeads", "NUM_CLASSES": 1, "SCORE_THRESH_TEST": 0.0},
        "RPN": {"NMS_THRESH": 0.65},
    },
    photos={"FORMAT": "RGB", "MIN_SIZE_TEST": 96},
    test={},
)
MANY = Family(
    name="80 classes",
    model={
        **OURS,
        "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True},
        "ROI_HEADS": {"NAME": "CustomCascadeROIHeads", "SCORE_THRESH_TEST": 0.001},
    },
    photos={"FORMAT": "RGB", "MIN_SIZE_TEST": 96},
    test={},
)
AUTHORS = Family(
    name="CutS3D's authors",
    model=CASCADE.model,
    photos={"FORMAT": "RGB", "MIN_SIZE_TEST": 360},
    test={"DETECTIONS_PER_IMAGE": 10},
)
ZOO = Family(
    name="detectron2's model zoo",
    model={
        "RESNETS": {"DEPTH": 50, "RES2_OUT_CHANNELS": 256},
        "ROI_HEADS": {"NAME": "StandardROIHeads", "SCORE_THRESH_TEST": 0.001},
    },
    photos={"MIN_SIZE_TEST": 64},
    test={},
)
FAMILIES = (CASCADE, PLAIN, MANY, AUTHORS, ZOO)


def merged(*trees: dict[str, Any]) -> dict[str, Any]:
    """Trees over one another, the last one on top."""
    whole: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            whole[name] = merged(whole.get(name, {}), value) if isinstance(value, dict) else value
    return whole


def official_config(tree: dict[str, Any]) -> Any:
    """detectron2's configuration of a tree, by its own reader of files, with its own heads."""
    from detectron2.config import CfgNode, get_cfg
    from detectron2.model_zoo import get_config_file

    config = get_cfg()
    config.merge_from_file(get_config_file("Base-RCNN-FPN.yaml"))
    config.set_new_allowed(True)
    config.merge_from_other_cfg(CfgNode({name: value for name, value in tree.items() if name != "_BASE_"}))
    config.MODEL.ROI_HEADS.NAME = config.MODEL.ROI_HEADS.NAME.removeprefix("Custom")
    config.MODEL.DEVICE = "cpu"
    return config


def official_network(config: Any, *, seed: int = 0) -> torch.nn.Module:
    """The network that detectron2 builds, with random weights that find many different things."""
    from detectron2.modeling import build_model

    torch.manual_seed(seed)
    network: Any = build_model(config).eval()
    # Statistics of batch norm that fit the weights.
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
    with torch.no_grad():
        network.backbone(torch.randn(2, 3, 64, 96))
        for name, parameter in network.named_parameters():
            if any(part in name for part in ("cls_score.weight", "bbox_pred.weight", "objectness_logits.weight")):
                parameter *= 30
            elif "mask_head.predictor.weight" in name:
                parameter *= 100
    return network.eval()


def official_predictions(config: Any, weights: Path, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    """What detectron2's own predictor finds in RGB photos with a file of weights."""
    from detectron2.engine import DefaultPredictor

    config = config.clone()
    config.MODEL.WEIGHTS = str(weights)
    predictor = DefaultPredictor(config)
    return [predictor(image[:, :, ::-1])["instances"] for image in images]


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    """A configuration as a YAML file."""
    path.write_text(yaml.safe_dump(tree))
    return path
