"""How a batch is shared among processes and parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cuts3d_cli.config import PRESETS, TrainConfig
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.split import (
    Split,
    check_split,
    fits_in_memory,
    fitting_parts,
    resumed_split,
    split_of,
    trial_step,
)
from cuts3d_cli.errors import SettingError, UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PATH = Path("checkpoint-0000002.pth")


def config(**changes: Any) -> TrainConfig:
    return replace(PRESETS["paper"].train, **changes)


@pytest.mark.parametrize(
    ("changes", "processes", "problem"),
    [
        ({}, 8, r"images_per_batch is 4, which 8 processes .* set it to 8 and .*, or start 4 processes \(gpus=4\)"),
        ({}, 3, r"set it to 6 and train.learning_rate in proportion, or start 2 processes"),
        ({"accumulate": 3}, 1, r"accumulate is 3, but a process has 4 images of the batch: take 1, 2, 4 or auto"),
        ({"accumulate": 2}, 4, r"a process has 1 image of the batch: take 1 or auto"),
        ({"images_per_batch": 1}, 1, r"is 1, and copy-paste needs a second image: raise it, or set train.copy_paste=F"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(changes: dict[str, Any], processes: int, problem: str):
    with pytest.raises(SettingError, match=problem):
        check_split(config(**changes), processes=processes)


def test_a_batch_that_can_be_shared_is_not():
    for processes in (1, 2, 4):
        check_split(config(accumulate="auto"), processes=processes)
    check_split(config(images_per_batch=1, copy_paste=False), processes=1)
    check_split(config(images_per_batch=8, accumulate=4), processes=2)


def split(processes: int, parts: int, *, images: int = 4, synchronised: bool = False) -> Split:
    return Split(images=images, processes=processes, parts=parts, synchronised=synchronised)


def test_batch_norm_mixes_a_part_or_with_syncbn_those_of_all_gpus():
    assert (split(2, 1).share, split(2, 1).part, split(2, 2).part) == (2, 2, 1)
    assert [split(2, 2).normalised, split(2, 2, synchronised=True).normalised] == [1, 2]
    assert split_of(config(), processes=2, parts=1, device=CPU).normalised == 2
    assert split_of(config(), processes=2, parts=1, device=CUDA).normalised == 4
    assert str(split(2, 2)) == "2 processes, in 2 parts each"


@pytest.mark.parametrize(
    ("changes", "before", "processes", "device", "expected"),
    [
        ({}, split(2, 1, synchronised=True), 1, CUDA, split(1, 1, synchronised=True)),
        ({}, split(1, 1, synchronised=True), 4, CUDA, split(4, 1, synchronised=True)),
        ({"accumulate": 2}, split(2, 1), 1, CPU, split(1, 2)),
        ({"accumulate": "auto"}, split(2, 1), 1, CPU, split(1, 2)),
        ({"accumulate": "auto"}, split(1, 4), 4, CPU, split(4, 1)),
        ({"norm": "FrozenBN"}, split(2, 1), 1, CPU, split(1, 1)),
        ({"norm": "FrozenBN", "accumulate": "auto"}, split(2, 2), 1, CPU, split(1, 4)),
    ],
)
def test_others_resume_where_batch_norm_mixes_as_many_images(
    changes: dict[str, Any], before: Split, processes: int, device: torch.device, expected: Split
):
    assert resumed_split(config(**changes), before, processes=processes, device=device, path=PATH) == expected


@pytest.mark.parametrize(
    ("changes", "before", "processes", "problem"),
    [
        ({}, split(2, 1), 1, r"over 2 images at a time, now it would be 4, .* set train.accumulate=2, or start 2 proc"),
        ({}, split(1, 1), 2, r"over 4 images at a time, now it would be 2, which changes the result: start 1 process "),
        ({"accumulate": "auto"}, split(1, 1), 2, r"now it would be 2 or 1, which"),
    ],
)
def test_others_do_not_resume_where_it_would_mix_more_or_fewer(
    changes: dict[str, Any], before: Split, processes: int, problem: str
):
    with pytest.raises(UsageError, match=problem):
        resumed_split(config(**changes), before, processes=processes, device=CPU, path=PATH)


def test_the_fewest_parts_that_fit_everywhere_are_taken():
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= 4

    assert fitting_parts(12, fits, agree=lambda said: said) == 3
    assert tried == [12, 6, 4]
    assert fitting_parts(12, fits, agree=lambda said: said and tried[-1] <= 2) == 6  # another process has less memory
    assert fitting_parts(2, lambda count: False, agree=lambda said: said) is None


def test_a_trial_is_a_step_on_images_of_the_largest_size():
    small = {"min_sizes": (32, 64), "max_size": 96, "roi_batch": 16, "rpn_post_nms": 20, "rpn_pre_nms": 50}
    narrow = {"fpn_channels": 16, "box_head_width": 16, "mask_head_width": 16}
    settings = replace(PRESETS["tiny"].train, **small, **narrow)
    model = build_model(settings, device="cpu")
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, given: sizes.extend(tuple(i["image"].shape) for i in given[0]))
    trial_step(model, settings, count=2)
    assert sizes == [(3, 64, 96)] * 2
    assert all(parameter.grad is not None for parameter in model.roi_heads.mask_head.parameters())
    assert fits_in_memory(model, settings, count=10**6)  # of a CPU, nothing is tried out


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (None, True),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_tried_out(monkeypatch: pytest.MonkeyPatch, error: RuntimeError | None, fits: bool | None):
    def trial(model: torch.nn.Module, config: TrainConfig, *, count: int) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("cuts3d_cli.detector.split.trial_step", trial)
    model = torch.nn.Linear(1, 1).to("cuda")
    if fits is None:
        with pytest.raises(RuntimeError, match="device-side assert"):
            fits_in_memory(model, config(), count=2)
    else:
        assert fits_in_memory(model, config(), count=2) is fits
