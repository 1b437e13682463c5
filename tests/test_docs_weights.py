"""Every command of docs/weights.md takes a file of the kind that its row names, made here with random weights."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pickle
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cuts3d_cli.depth import depth_anything
from cuts3d_cli.features.catalogue import BACKBONES
from cuts3d_cli.features.open_names import hub_backbone
from cuts3d_cli.features.timm_models import build_model
from tests.support import depth_networks as depth
from tests.support.foreign_backbones import (
    TIMM,
    in_chunks,
    of_transformers,
    official_dinov2,
    official_dinov3,
    randomised,
)
from tests.support.photos import pack_photos
from tests.support.running import Ran

PAGE = Path(__file__).resolve().parents[1] / "docs/weights.md"
SIZE = 64
State = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of file and a command that takes it.

    Attributes:
        kind: the file's name or class in the first column, or what it says where it names none; the last word of the
            command where a row has several.
        command: as the page has it.
    """

    kind: str
    command: str


def cases() -> Iterator[Case]:
    """What the table says, a case for each file of a row, or for each of its commands."""
    rows = re.findall(r"(?m)^\| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8").partition("\n## ")[0])
    for names, commands in rows[1:]:  # but for its head
        if set(names) == {"-"}:
            continue
        first, *others = re.findall(r"`(.*?)`", commands)
        if others:
            whole = [first, *(" ".join((*first.split()[:-1], other)) for other in others)]
            yield from (Case(kind=command.split()[-1], command=command) for command in whole)
        else:
            named = [name for name in re.findall(r"`(.*?)`", names) if not name.endswith(".")]  # of prefixes
            yield from (Case(kind=kind, command=first) for kind in named or [names])


class Maker:
    """Makes files, and small networks that they fit.

    Attributes:
        folder: of the files.
        hub: the cache of the hub's client.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.hub = folder.parent / "hub"
        self.patch = monkeypatch

    def backbone(self, name: str, **facts: Any) -> State:
        """Put a small network into the place of one of the table; return random weights of it."""
        spec = dataclasses.replace(
            BACKBONES[name], **{"model_args": TIMM, "patch": 16, "dim": 64, "size": SIZE, **facts}
        )
        self.patch.setitem(BACKBONES, name, spec)
        return {key: value.clone() for key, value in randomised(build_model(spec, size=SIZE)).state_dict().items()}

    def file(self, name: str, content: Any) -> Path:
        torch.save(content, self.folder / name)
        return self.folder / name

    def repository(self, name: str, **files: Any) -> Path:
        """A repository in the cache of the hub's client: texts, and model.safetensors. Returns its folder."""
        revision, place = "c" * 40, self.hub / f"models--{name.replace('/', '--')}"
        snapshot = place / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(revision)
        for stem, content in files.items():
            if stem == "model":
                save_file(content, snapshot / "model.safetensors")
            else:
                (snapshot / f"{stem}.json").write_text(json.dumps(content))
        return snapshot


Given = dict[str, Path | str]
"""Words of a command, and what to give for them; the first is the file or folder."""


def dino_released(make: Maker) -> Given:
    return {"checkpoint.pth": make.file("dino_deitsmall16_pretrain.pth", make.backbone("dino-vits16"))}


def dino_training(make: Maker) -> Given:
    teacher = {f"backbone.{name}": value for name, value in make.backbone("dino-vits16").items()}
    teacher["head.last_layer.weight_g"] = torch.ones(2)
    student = {f"module.{name}": torch.zeros_like(value) for name, value in teacher.items()}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": np.float64(0.1), "params": [0]}]}
    content = {"student": student, "teacher": teacher, "optimizer": optimizer, "epoch": 1}
    return {"checkpoint.pth": make.file("checkpoint.pth", {**content, "args": argparse.Namespace(arch="vit_small")})}


def dinov2_registers(make: Maker) -> State:
    return official_dinov2(make.backbone("dinov2-vits14-reg4", model_args={**TIMM, "patch_size": 16}))


def dinov2_released(make: Maker) -> Given:
    return {"FILE": make.file("dinov2_vits14_reg4_pretrain.pth", dinov2_registers(make))}


def dinov2_teacher(make: Maker) -> Given:
    teacher = {f"backbone.{name}": value for name, value in in_chunks(dinov2_registers(make)).items()}
    teacher["dino_head.last_layer.weight_v"] = torch.ones(2, 2)
    return {"FILE": make.file("teacher_checkpoint.pth", {"teacher": teacher})}


def dinov3_vit(make: Maker) -> Given:
    return {"FILE": make.file("dinov3_vits16_pretrain_lvd1689m-0.pth", official_dinov3(make.backbone("dinov3-vits16")))}


def dinov3_convnext(make: Maker) -> Given:
    """By the names of its own code, which are those of transformers with other words."""
    theirs, given = of_transformers("dinov3 convnext")
    make.backbone("dinov3-convnext-tiny", **{name: given[name] for name in ("model_args", "patch", "fixed_size")})
    own = {}
    for name, value in randomised(theirs).state_dict().items():
        name = re.sub(r"^(model\.)?stages\.(\d)\.downsample_layers\.", r"downsample_layers.\2.", name)
        name = re.sub(r"^(model\.)?stages\.(\d)\.layers\.(\d)\.", r"stages.\2.\3.", name)
        name = name.replace("depthwise_conv", "dwconv").replace("pointwise_conv", "pwconv")
        own[re.sub(r"(^|\.)layer_norm\.", r"\1norm.", name)] = value
    assert own["stages.2.1.pwconv1.weight"].shape == (4 * 48, 48)
    return {"FILE": make.file("dinov3_convnext_tiny_pretrain_lvd1689m-0.pth", own)}


def transformers_folder(make: Maker, *, kind: str, backbone: str) -> Given:
    theirs, given = of_transformers(kind)
    make.backbone(backbone, model_args=given["model_args"])
    randomised(theirs).save_pretrained(make.folder / "saved")  # type: ignore[operator]
    return {"FOLDER": make.folder / "saved", "dinov2-vits14": backbone}


def timm_from_the_hub(make: Maker) -> Given:
    name = "vit_small_patch16_224.dino"
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in timm.create_model(name, num_classes=0).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    model = {key: torch.randn(shape, generator=generator) * 0.05 for key, shape in shapes.items()}
    return {name: make.repository(f"timm/{name}", model=model)}


def backbone_from_the_hub(make: Maker) -> Given:
    hub_backbone.cache_clear()
    model = randomised(timm.create_model("test_vit", pretrained=False, num_classes=10)).state_dict()
    config = {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    make.repository("some/net", config=config, model=dict(model))
    return {"OWNER/NAME": "some/net"}


def resnet() -> State:
    """Of the depth that the preset `tiny` has."""
    from torchvision import models

    return randomised(models.resnet18()).state_dict()


def moco(make: Maker) -> Given:
    state = {f"module.encoder_q.{name}": value for name, value in resnet().items()}
    state |= {f"module.encoder_k.{name}": torch.zeros_like(value) for name, value in resnet().items()}
    return {"FILE": make.file("moco.pth.tar", {"epoch": 800, "state_dict": {**state, "module.queue": torch.ones(2)}})}


def cutler_resnet(make: Maker) -> Given:
    arrays = {}
    for name, value in resnet().items():
        if name.startswith("fc."):
            continue
        name = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
        name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        arrays[name if name.startswith("res") else f"stem.{name}"] = value.numpy()
    path = make.folder / "dino_RN50_pretrain_d2_format.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "CutLER", "matching_heuristics": True}))
    return {"FILE": path}


def authors_depth_anything(make: Maker, *, name: str) -> Given:
    make.patch.setattr(depth_anything, "_SIZES", depth.SMALL_DEPTH_ANYTHING)
    model = depth.released_depth_anything()
    depth.liven(model)
    with torch.no_grad():  # the head ends in a ReLU
        model.head.conv3.bias.fill_(1.0)
    return {"FILE": make.file(name, depth.depth_anything_names(depth.saved(model, make.folder / "theirs")))}


def authors_zoedepth(make: Maker, *, name: str, heads: int) -> Given:
    (make.folder / "folder").mkdir()
    model = depth.zoedepth_of(depth.zoedepth(make.folder / "folder"), heads=heads)
    own = depth.zoedepth_names(depth.saved(model, make.folder / "theirs"))
    return {"FILE": make.file(name, {"model": own, "optimizer": None, "epoch": -1})}


def authors_midas(make: Maker) -> Given:
    path = depth.midas(make.folder / "midas_v21_small_256.pt")
    state = torch.load(path)
    return {"FILE": make.file(path.name, {f"module.{name}": value for name, value in state.items()})}


def depth_from_the_hub(make: Maker) -> Given:
    depth.depth_anything(make.repository("some/depth"))
    return {"OWNER/NAME": "some/depth"}


def depth_folder(make: Maker) -> Given:
    return {"FOLDER": depth.depth_anything(make.folder / "saved")}


MADE: dict[str, Callable[[Maker], Given]] = {
    "dino_deitsmall16_pretrain.pth": dino_released,
    "checkpoint.pth": dino_training,
    "dinov2_vits14_reg4_pretrain.pth": dinov2_released,
    "teacher_checkpoint.pth": dinov2_teacher,
    "dinov3_vits16_pretrain_lvd1689m-*.pth": dinov3_vit,
    "DINOv3, a ConvNeXt": dinov3_convnext,
    "ViTModel": lambda make: transformers_folder(make, kind="vit", backbone="dino-vits16"),
    "Dinov2Model": lambda make: transformers_folder(make, kind="dinov2", backbone="dinov2-vits14"),
    "DINOv3ViTModel": lambda make: transformers_folder(make, kind="dinov3", backbone="dinov3-vits16"),
    "any network of timm, its weights from the hub or from a file": timm_from_the_hub,
    "a backbone on the model hub": backbone_from_the_hub,
    "*.pth.tar": moco,
    "dino_RN50_pretrain_d2_format.pkl": cutler_resnet,
    "depth_anything_v2_vits.pth": lambda make: authors_depth_anything(make, name="depth_anything_v2_vits.pth"),
    "depth_anything_v2_metric_hypersim_vitl.pth": lambda make: authors_depth_anything(
        make, name="depth_anything_v2_metric_hypersim_vitl.pth"
    ),
    "ZoeD_M12_NK.pt": lambda make: authors_zoedepth(make, name="ZoeD_M12_NK.pt", heads=2),
    "ZoeD_M12_N.pt": lambda make: authors_zoedepth(make, name="ZoeD_M12_N.pt", heads=1),
    "midas_v21_small_256.pt": authors_midas,
    "hf:OWNER/NAME": depth_from_the_hub,
    "hf:FOLDER": depth_folder,
}
"""Every kind of file of the page, and what makes one."""


def test_every_kind_of_file_of_the_page_is_made_here() -> None:
    found = [case.kind for case in cases()]
    assert len(found) == len(set(found))
    assert set(found) == set(MADE)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.kind)
def test_the_command_takes_the_file(
    case: Case, cuts3d: Callable[..., Ran], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert case.kind in MADE, f"docs/weights.md names {case.kind}, and no such file is made here"
    (tmp_path / "files").mkdir()
    words = shlex.split(case.command)
    given = MADE[case.kind](Maker(tmp_path / "files", monkeypatch))
    for word, value in given.items():
        if isinstance(value, Path) and value.is_relative_to(tmp_path / "hub"):
            continue
        assert any(word in item for item in words), f"{case.command} has no {word}"
        words = [item.replace(word, str(value)) for item in words]
    assert not [word for word in words if re.search(r"\b[A-Z]{4,}\b", word.replace(str(tmp_path), ""))]
    if words[1] == "train":
        train(cuts3d, words, folder=tmp_path)
        return
    (base,) = pack_photos(alone, 1, with_depth=False)
    sizes = ("--size", SIZE) if words[1] == "features" else ()
    ran = cuts3d(*words[1:], *sizes, "--shards", base, "--device", "cpu", "-j", 0)
    assert ran.code == 0, ran
    manifest = (alone / f"s-000.{words[1]}.json").read_text()
    (source,) = {path for path in tmp_path.rglob("*") if path.name in used(case, given)}
    assert hashlib.sha256(source.read_bytes()).hexdigest() in manifest


def used(case: Case, given: Given) -> set[str]:
    """The name of the file that the command must have read."""
    first = next(iter(given.values()))
    return {first.name} if isinstance(first, Path) and first.is_file() else {"model.safetensors"}


def train(cuts3d: Callable[..., Ran], words: list[str], *, folder: Path) -> None:
    """A training of one step that changes next to nothing begins with the weights of the file."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed (see scripts/detectron2)")
    from tests.support.training_data import make_shards
    from tests.support.trainings import LINE, weights

    (base,) = make_shards(folder / "training", images=2, shard_size=2)
    steps = ("--set", "max_iter=1", "--set", "learning_rate=1e-9", "--set", "checkpoint_every=1")
    ran = cuts3d(*words[1:], *LINE, *steps, "--shards", base, "--out", folder / "detector", "--device", "cpu")
    assert ran.code == 0, ran
    trained = weights(folder / "detector" / "model-final.safetensors")
    for ours, theirs in (("res2.0.conv1", "layer1.0.conv1"), ("res5.1.conv2", "layer4.1.conv2")):
        found, wanted = trained[f"backbone.bottom_up.{ours}.weight"], resnet()[f"{theirs}.weight"]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
