"""Pickles with code in them, given to every command and option that takes weights: none may run, all must be told."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.photos import pack_photos
from tests.support.running import Ran

BACKBONE = ("--backbone", "dino-vits16", "--size", "224", "--device", "cpu", "-j", "0")
UNSCORED = ("--copy-paste-select", "random", "--alpha", "none", "--no-soft-loss", "--device", "cpu")


class Evil:
    """Makes a folder when it is unpickled by anything that runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def torch_file(path: Path, mark: Path) -> None:
    torch.save({"format": 1, "model": {"a": torch.zeros(2), "b": Evil(mark)}, "state_dict": {"c": Evil(mark)}}, path)


def old_torch_file(path: Path, mark: Path) -> None:
    content = {"format": 1, "model": {"a": torch.zeros(2), "b": Evil(mark)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Evil(mark)}))


KINDS = {"torch": torch_file, "old torch": old_torch_file, "pickle": bare_pickle}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_would_do_harm(tmp_path: Path, kind: str):
    KINDS[kind](tmp_path / "x.pth", tmp_path / "mark")
    assert not (tmp_path / "mark").exists()
    with contextlib.suppress(Exception):  # what comes after the harm
        torch.load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "mark").is_dir()


COMMANDS: Mapping[str, tuple[str, ...]] = {
    "features": ("features", *BACKBONE, "--weights", "evil.pth"),
    "pseudo": ("pseudo", *BACKBONE, "--weights", "evil.pth", "--if-exists", "replace"),
    "viz": ("viz", "photo.jpg", *BACKBONE[:-2], "--weights", "evil.pth"),
    "weights pull": ("weights", "pull", "dino-vits16", "--from", "evil.pth"),
    "weights pull, ResNet": ("weights", "pull", "dino-resnet50", "--from", "evil.pth"),
    "depth, midas": ("depth", "--backend", "midas-small", "--weights", "evil.pth", "--if-exists", "overwrite"),
    "depth, kbr": ("depth", "--backend", "kbr", "--weights", "evil.pth", "--if-exists", "overwrite"),
    "depth, zoedepth": ("depth", "--backend", "zoedepth", "--weights", "evil.pth", "--if-exists", "overwrite"),
    "depth, depth anything": (
        "depth",
        "--backend",
        "depth-anything-v2-small",
        "--weights",
        "evil.pth",
        "--if-exists",
        "overwrite",
    ),
    "train": ("train", "--preset", "tiny", *UNSCORED, "--backbone-weights", "evil.pth"),
    "train from a detector": ("train", "--preset", "tiny", *UNSCORED, "--init", "evil.pth"),
    "resume": ("train", "--preset", "tiny", *UNSCORED, "--resume", "--out", "run"),
    "predict": ("predict", "--checkpoint", "evil.pth", "--device", "cpu"),
    "selftrain": ("selftrain", "--preset", "tiny", "--checkpoint", "evil.pth", "--device", "cpu"),
    "viz of a detector": ("viz", "photo.jpg", "--checkpoint", "evil.pth", "--device", "cpu"),
}
OF_TRANSFORMERS = ("depth, zoedepth", "depth, depth anything")
OF_A_DETECTOR = ("train", "train from a detector", "resume", "predict", "selftrain", "viz of a detector")


@pytest.fixture
def set_out(alone: Path) -> Path:
    """The working folder with a shard, its depth and masks, and a photo."""
    from cuts3d_cli.cut.masks import encode_rle
    from cuts3d_cli.engine.driver import run_shards
    from cuts3d_cli.engine.results import Outcome
    from cuts3d_cli.shards.names import sidecar
    from cuts3d_cli.sidecars.masks import StoredMask, StoredMasks, encode
    from tests.support.photos import scene_of

    (base,) = pack_photos(alone, 1)
    box = encode_rle(scene_of(0).boxes[0])
    members = encode(StoredMasks(size=(60, 80), method="by hand", instances=[StoredMask.of(box)]))
    run_shards(
        [base],
        stage="pseudo",
        config={},
        inputs=lambda base: {"base": base},
        outcomes=lambda base: iter([Outcome(key="p0", members=members)]),
        if_exists="resume",
    )
    assert sidecar(base, "pseudo").exists()
    (alone / "photo.jpg").write_bytes((alone / "source/photos/p0.jpg").read_bytes())
    (alone / "run").mkdir()
    return alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_code_in_weights_is_never_run(cuts3d: Callable[..., Ran], set_out: Path, command: str, kind: str):
    if command in OF_A_DETECTOR:
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    if command in OF_TRANSFORMERS:
        pytest.importorskip("transformers", reason="transformers is not installed")
    mark = set_out / "mark"
    evil = "run/checkpoint-0000001.pth" if command == "resume" else "evil.pth"
    KINDS[kind](set_out / evil, mark)
    words = COMMANDS[command]
    ran = cuts3d(*words, *([] if words[0] in ("viz", "weights") else ["--shards", "s-000.tar"]))
    assert ran.code == 1, ran
    assert not mark.exists()
    line = ran.err.splitlines()[-1]
    assert line.startswith("cuts3d: ")
    assert evil in line
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("files", ["one file", "several files"])
@pytest.mark.parametrize("backend", ["zoedepth", "depth-anything-v2-small"])
def test_code_in_folders_of_transformers_is_never_run(
    cuts3d: Callable[..., Ran], set_out: Path, backend: str, files: str
):
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = set_out / "net"
    folder.mkdir()
    kind = {"zoedepth": "zoedepth", "depth-anything-v2-small": "depth_anything"}[backend]
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    processor = {"zoedepth": "ZoeDepthImageProcessor", "depth-anything-v2-small": "DPTImageProcessor"}[backend]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": processor}))
    if files == "one file":
        torch_file(folder / "pytorch_model.bin", set_out / "mark")
    else:
        torch_file(folder / "part-1.bin", set_out / "mark")
        index = {"weight_map": {"a": "part-1.bin"}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ran = cuts3d("depth", "--backend", backend, "--weights", "net", "--shards", "s-000.tar", "--if-exists", "overwrite")
    assert ran.code == 1, ran
    assert not (set_out / "mark").exists()
    assert ran.err.splitlines()[-1].startswith("cuts3d: net")


def test_weights_of_another_architecture_say_what_is_missing(cuts3d: Callable[..., Ran], set_out: Path):
    state = {"patch_embed.proj.weight": torch.zeros(384, 3, 16, 16), "layer1.0.conv1.weight": torch.zeros(2, 2)}
    torch.save(state, set_out / "other.pth")
    ran = cuts3d("features", *BACKBONE[:-2], "--weights", "other.pth", "--shards", "s-000.tar")
    assert ran.code == 1
    assert "other.pth does not fit dino-vits16" in ran.line
    assert "tensors missing (cls_token, pos_embed, patch_embed.proj.bias, ...)" in ran.line
    ran = cuts3d(
        "depth",
        "--backend",
        "midas-small",
        "--weights",
        "other.pth",
        "--shards",
        "s-000.tar",
        "--if-exists",
        "overwrite",
    )
    assert ran.code == 1
    assert "other.pth does not fit midas-small: " in ran.err.splitlines()[-1]
    assert "it holds no pretrained.layer1.0.weight; its first tensors are " in ran.err.splitlines()[-1]
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    torch.save({"format": 1, "model": {"x": torch.zeros(1)}, "config": {"resnet_depth": 18}}, set_out / "detector.pth")
    ran = cuts3d("predict", "--checkpoint", "detector.pth", "--device", "cpu", "--shards", "s-000.tar")
    assert ran.code == 1
    assert "detector.pth does not fit a Mask R-CNN of detectron2 with an FPN: " in ran.err.splitlines()[-1]
    assert ran.err.splitlines()[-1].endswith("its first tensors are x")
