"""Backbones against the code of their authors: files that it writes, random weights, a photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.catalogue import backbone_spec, load_backbone, with_tensor
from cuts3d_cli.images import resize_square
from tests.support.official_code import checkout, run_official


@dataclass(frozen=True, kw_only=True)
class Official:
    """A network of the official code.

    Attributes:
        code: the repositories that are needed.
        backbones: our names for it.
        files: what is written, each read under each of the names.
        sizes: sides of the input, pixels, that of the checkpoint's positions among them.
        tensor: of ours that is compared; None: the usual one.
    """

    code: tuple[str, ...]
    backbones: tuple[str, ...]
    files: tuple[str, ...] = ("released.pth",)
    sizes: tuple[int, ...] = (224, 480)
    tensor: str | None = None


OFFICIAL = {
    "DINO S/16": Official(
        code=("dino", "CutLER"),
        backbones=("dino-vits16", "timm:vit_small_patch16_224.dino"),
        files=("released.pth", "transformers"),
    ),
    "DINO S/8": Official(code=("dino", "CutLER"), backbones=("dino-vits8",)),
    "DINO B/8": Official(code=("dino", "CutLER"), backbones=("dino-vitb8",), sizes=(224, 240)),
    "DINO S/16, training": Official(code=("dino",), backbones=("dino-vits16",), files=("checkpoint.pth",)),
    "DiffNCuts": Official(
        code=("DiffNCuts",), backbones=("diffncuts-vits8",), files=("eigen-16-1.pth", "one_gpu.pth"), sizes=(224, 256)
    ),
    "DINOv2 S/14": Official(
        code=("dinov2",),
        backbones=("dinov2-vits14",),
        files=("released.pth", "transformers"),
        sizes=(476, 518, 644),
    ),
    "DINOv2 S/14 with registers": Official(
        code=("dinov2",),
        backbones=("dinov2-vits14-reg4",),
        files=("released.pth", "transformers"),
        sizes=(224, 476, 518),
    ),
    "DINOv2 S/14, training": Official(
        code=("dinov2",), backbones=("dinov2-vits14",), files=("teacher_checkpoint.pth",), sizes=(224, 476)
    ),
    "DINOv2 S/14 with registers, training": Official(
        code=("dinov2",), backbones=("dinov2-vits14-reg4",), files=("teacher_checkpoint.pth",), sizes=(224, 476)
    ),
    "DINOv3 S/16": Official(
        code=("dinov3",),
        backbones=("dinov3-vits16", "timm:vit_small_patch16_dinov3_qkvb"),
        files=("released.pth", "teacher_checkpoint.pth", "transformers"),
    ),
    "DINOv3 S/16, tokens": Official(code=("dinov3",), backbones=("dinov3-vits16",), tensor="tokens"),
    "DINOv3 S+/16": Official(code=("dinov3",), backbones=("timm:vit_small_plus_patch16_dinov3_qkvb",), sizes=(224,)),
    "DINOv3 B/16": Official(code=("dinov3",), backbones=("dinov3-vitb16",), sizes=(224,)),
    "DINOv3 ConvNeXt tiny": Official(code=("dinov3",), backbones=("dinov3-convnext-tiny",), sizes=(224, 480)),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_features_are_those_of_the_official_code(name: str, test_data: Path, alone: Path, tmp_path: Path) -> None:
    official = OFFICIAL[name]
    code = {checkout(repository).parent for repository in official.code}.pop()
    if "transformers" in official.files:
        pytest.importorskip("transformers", reason="transformers is not installed")
    image = Image.open(min((test_data / "coco" / "images").iterdir())).convert("RGB")
    np.save(tmp_path / "photo.npy", np.array(image))
    run_official("official_backbones.py", name, code, tmp_path / "photo.npy", tmp_path, *official.sizes)
    theirs = np.load(tmp_path / "found.npz")
    for size in official.sizes:
        expected = theirs[str(size)]
        assert expected.std() > 0.05 * np.ptp(expected)
        square = resize_square(image, size)[None]
        for backbone in official.backbones:
            spec = with_tensor(backbone_spec(backbone), official.tensor)
            for file in official.files:
                net = load_backbone(spec, size=size, weights=tmp_path / file, device="cpu", precision="float32")
                (ours,) = net.extract(square)
                np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6 * np.ptp(expected), err_msg=file)


def test_biases_of_dinov3_are_refused_by_names_that_have_no_place_for_them(tmp_path: Path, test_data: Path) -> None:
    code = checkout("dinov3").parent
    np.save(tmp_path / "photo.npy", np.zeros((32, 32, 3), np.uint8))
    run_official("official_backbones.py", "DINOv3 S/16", code, tmp_path / "photo.npy", tmp_path, 224)
    for file in ("released.pth", "teacher_checkpoint.pth", "transformers"):
        with pytest.raises(WeightsError, match=r"biases of q and v.* take the network whose name has _qkvb"):
            load_backbone(
                "timm:vit_small_patch16_dinov3", size=224, weights=tmp_path / file, device="cpu", precision="float32"
            )
