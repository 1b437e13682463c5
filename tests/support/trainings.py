"""Small trainings, by a call or by the command."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.cut.masks import encode_rle, rle_area, rle_box
from cuts3d_cli.detector.checkpoints import read_trained
from cuts3d_cli.detector.data import training_shards
from cuts3d_cli.detector.evaluating import Evaluation
from cuts3d_cli.detector.run_log import Step
from cuts3d_cli.detector.task import Task
from tests.support.training_data import mask_of

SMALL: dict[str, Any] = {
    "images_per_batch": 2,
    "min_sizes": (48, 64),
    "max_size": 96,
    "test_min_size": 64,
    "max_iter": 4,
    "checkpoint_every": 2,
    "log_every": 1,
    "precise_bn": 2,
    "rpn_pre_nms": 50,
    "rpn_post_nms": 20,
    "rpn_test_proposals": 20,
    "roi_batch": 16,
    "fpn_channels": 16,
    "box_head_width": 16,
    "mask_head_width": 16,
    "warmup_iter": 2,
    "checkpoints_kept": 10,
}


class Noted:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[Step] = []

    def begin(self, *, start: int, total: int) -> None:
        self.begun = (start, total)

    def advance(self, iteration: int) -> None:
        pass

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def say(self, line: str) -> None:
        self.said.append(line)


class Killing(Noted):
    """Kills its process when the training begins, as the system does for want of memory."""

    def begin(self, *, start: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def small(**changes: Any) -> TrainConfig:
    return replace(PRESETS["tiny"].train, **{**SMALL, **changes})


def task(
    bases: list[Path], out: Path, *, resume: bool = False, evaluation: Evaluation | None = None, **changes: Any
) -> Task:
    out.mkdir(exist_ok=True, parents=True)
    shards = training_shards(bases, with_confidence=True)
    return Task(config=small(**changes), shards=shards, out=out, device="cpu", resume=resume, evaluation=evaluation)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_trained(path)[0]


def trained_config(path: Path) -> TrainConfig:
    config = read_trained(path)[1]
    assert config is not None
    return config


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


LINE = ["--preset", "tiny", *(f"--set={name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in SMALL.items())]  # fmt: skip  # noqa: E501


def ground_truth(folder: Path) -> Path:
    """The masks of the photos as COCO JSON."""
    images, annotations = [], []
    for number in range(8):
        size = (48, 64) if number % 2 else (64, 48)
        code = encode_rle(mask_of(number, size))
        images.append({"id": number + 1, "file_name": f"{number:03d}.png", "height": size[0], "width": size[1]})
        facts = {"bbox": rle_box(code), "area": rle_area(code), "segmentation": code, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, **facts})
    path = folder / "gt.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}))
    return path


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("cuts3d")), *map(str, arguments)]
