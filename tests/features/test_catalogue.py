from __future__ import annotations

import subprocess
import sys

import pytest

from cuts3d_cli.errors import UsageError
from cuts3d_cli.features.catalogue import BACKBONES, DEFAULT_BACKBONE, OFFLINE_BACKBONE, backbone_spec
from cuts3d_cli.weights.specs import WheelSource


def test_defaults_are_in_the_catalogue() -> None:
    assert DEFAULT_BACKBONE in BACKBONES
    assert isinstance(BACKBONES[OFFLINE_BACKBONE].source, WheelSource)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'resnet50': choose one of dino-vitb8, "):
        backbone_spec("resnet50")


@pytest.mark.parametrize(
    ("name", "asked", "size"), [("dino-vitb8", None, 480), ("dino-vitb8", 240, 240), (OFFLINE_BACKBONE, 28, 28)]
)
def test_good_sizes(name: str, asked: int | None, size: int) -> None:
    assert BACKBONES[name].check_size(asked) == size


def test_wrong_size_names_the_nearest_two() -> None:
    with pytest.raises(UsageError, match=r"size 480 .* 14 pixels: use 476 or 490"):
        BACKBONES["dinov2-vits14"].check_size(480)


@pytest.mark.parametrize("size", [-16, 0, 5, 14, 27])
def test_too_small_size_names_the_smallest(size: int) -> None:
    with pytest.raises(UsageError, match="the smallest is 28"):
        BACKBONES["dinov2-vits14"].check_size(size)


@pytest.mark.parametrize("spec", BACKBONES.values(), ids=BACKBONES)
def test_timm_has_every_backbone_as_described(spec) -> None:  # type: ignore[no-untyped-def]
    import timm

    from cuts3d_cli.features.timm_models import expected_shapes

    shapes = expected_shapes(spec)
    model = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
    assert (model.feature_info[-1]["num_chs"], model.feature_info[-1]["reduction"]) == (spec.dim, spec.patch)
    assert timm.get_pretrained_cfg(spec.architecture).fixed_input_size == spec.fixed_size
    if "convnext" in spec.name:
        return
    grid = (spec.size // spec.patch) ** 2
    positions = {"dinov3": None, "reg4": (1, grid, spec.dim)}
    wanted = next((shape for part, shape in positions.items() if part in spec.name), (1, grid + 1, spec.dim))
    assert shapes.get("pos_embed") == wanted
    assert shapes["patch_embed.proj.weight"] == (spec.dim, 3, spec.patch, spec.patch)
    assert sum(name.endswith("attn.qkv.weight") for name in shapes) in (12, 24)
    assert ("blocks.0.ls1.gamma" in shapes) == ("dinov2" in spec.name)
    assert ("blocks.0.attn.q_bias" in shapes) == ("dinov3" in spec.name)


def test_catalogues_cache_and_hub_need_no_heavy_import() -> None:
    code = (
        "import sys, cuts3d_cli.features.catalogue, cuts3d_cli.depth.catalogue, cuts3d_cli.inspection.weights;"
        "print(*({'torch', 'timm', 'onnx', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == ""
