"""Depth Anything, V1 and V2, through transformers: folders and the authors' own files. Not in the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cuts3d_cli.config import DepthConfig
from cuts3d_cli.depth.base import GIVES, DepthSpec, Gives, loaded_spec
from cuts3d_cli.depth.pretrained import fill, load_transformers, missing_package, pretrained_files, require_pretrained
from cuts3d_cli.depth.transformers_network import TransformersDepth
from cuts3d_cli.devices import NetworkPrecision
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD
from cuts3d_cli.weights.checkpoint import own_tensors, read_tensors

SIDE, PATCH = 518, 14
_OFFSET = 0.1
ANCHOR = "depth_head.scratch.output_conv1.weight"
"""A tensor of the authors' files, with the network's prefix, if any, before it."""
_SIZES: Mapping[int, Mapping[str, Any]] = {
    384: dict(layers=12, heads=6, taken=(3, 6, 9, 12), neck=(48, 96, 192, 384), fusion=64),
    768: dict(layers=12, heads=12, taken=(3, 6, 9, 12), neck=(96, 192, 384, 768), fusion=128),
    1024: dict(layers=24, heads=16, taken=(5, 12, 18, 24), neck=(256, 512, 1024, 1024), fusion=256),
}
"""Width of the ViT -> its layers and heads, the layers whose tokens the head takes, and the widths of the head."""
_LAYER = re.compile(r"^pretrained\.blocks\.(?:\d+\.)?(\d+)\.")
_NAMES = (
    (_LAYER.pattern, r"backbone.encoder.layer.\1."),
    (r"^pretrained\.patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
    (r"^pretrained\.pos_embed$", "backbone.embeddings.position_embeddings"),
    (r"^pretrained\.(cls_token|mask_token)$", r"backbone.embeddings.\1"),
    (r"^pretrained\.norm\.", "backbone.layernorm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^depth_head\.projects\.(\d)\.", r"neck.reassemble_stage.layers.\1.projection."),
    (r"^depth_head\.resize_layers\.(\d)\.", r"neck.reassemble_stage.layers.\1.resize."),
    (r"^depth_head\.scratch\.output_conv1\.", "head.conv1."),
    (r"^depth_head\.scratch\.output_conv2\.0\.", "head.conv2."),
    (r"^depth_head\.scratch\.output_conv2\.2\.", "head.conv3."),
    (r"\.out_conv\.", ".projection."),
    (r"\.resConfUnit([12])\.conv([12])\.", r".residual_layer\1.convolution\2."),
)
_QKV = re.compile(r"(.+)\.attn\.qkv\.(weight|bias)")


class DepthAnything(TransformersDepth):
    """Depth Anything: relative disparity, larger = nearer (a metric model: metres, larger = farther).

    It sees what its authors' code shows it: both sides at least 518 pixels, by OpenCV's cubic interpolation. The image
    processor of transformers would make the sides at most that large. Its positions are resampled as there, too.
    """

    def __init__(self, spec: DepthSpec, *, model: Any, **settings: Any) -> None:
        """Move the model to the device; arguments as for `TransformersDepth`."""
        embeddings: Any = getattr(model.backbone, "embeddings", None)
        if hasattr(embeddings, "position_embeddings"):
            patch = model.config.patch_size
            embeddings.interpolate_pos_encoding = lambda _, height, width: resample_positions(
                embeddings.position_embeddings, rows=height // patch, columns=width // patch
            )
        super().__init__(spec, model=model, **settings)

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Return what the network sees, as its authors' code makes it."""
        side, multiple = self.processor.size["height"], self.processor.ensure_multiple_of
        rows, columns = lower_bound(*image.shape[:2], side=side, multiple=multiple)
        resized = cv2.resize(image / 255.0, (columns, rows), interpolation=cv2.INTER_CUBIC)
        normalised = (resized - np.array(self.processor.image_mean)) / np.array(self.processor.image_std)
        return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1), dtype=np.float32))

    def finish(self, values: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Bring a map to the size of its image, as the authors' code does."""
        return functional.interpolate(values[None, None], size, mode="bilinear", align_corners=True)[0, 0]


def resample_positions(positions: Tensor, *, rows: int, columns: int) -> Tensor:
    """Resample the positions of a ViT to another grid, by the rule of DINOv2's code without registers.

    Its scale is of a grid that is 0.1 patches larger, which transformers leaves out.

    Args:
        positions: (1, 1 + n, c): of the class token, and of a square grid.
        rows, columns: of the new grid.

    Returns:
        (1, 1 + rows * columns, c).
    """
    side = isqrt(positions.shape[1] - 1)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + _OFFSET) / side, (columns + _OFFSET) / side)
    resampled = functional.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def lower_bound(height: int, width: int, *, side: int = SIDE, multiple: int = PATCH) -> tuple[int, int]:
    """Return the (height, width) that the network sees: the shorter side `side`, aspect kept, rounded to patches.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        side: the least side, pixels.
        multiple: of which both sides are multiples.
    """
    scale = max(side / height, side / width)

    def rounded(length: float) -> int:
        nearest = round(length / multiple) * multiple
        return nearest if nearest >= side else int(np.ceil(length / multiple) * multiple)

    return rounded(scale * height), rounded(scale * width)


def load_depth_anything(
    spec: DepthSpec, *, config: DepthConfig, device: str, precision: NetworkPrecision
) -> DepthAnything:
    """Load Depth Anything; arguments and errors are those of `base.LoadDepth`."""
    require_pretrained(spec, weights=config.weights)
    try:
        from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor
    except ImportError as error:
        raise missing_package(spec, error) from error
    if config.weights is not None and config.weights.is_file():
        model, processor = load_authors_file(spec, config.weights)
    else:
        model, processor = load_transformers(
            DepthAnythingForDepthEstimation, DPTImageProcessor, spec, weights=config.weights
        )
    files = pretrained_files(spec, config.weights)
    kind = f"Depth Anything, {model.config.depth_estimation_type}"
    direction, unit = estimation_type(model.config) or (spec.direction, spec.unit)
    spec = loaded_spec(spec, config.weights, kind=kind, direction=direction, unit=unit)
    return DepthAnything(spec, model=model, processor=processor, device=device, precision=precision, files=files)


def estimation_type(config: Any) -> Gives | None:
    """Return what a network gives by the configuration that transformers has of it; None where it does not say."""
    words = {"relative": "relative-disparity", "metric": "metres"}
    return GIVES.get(words.get(str(config.depth_estimation_type), ""))


def load_authors_file(spec: DepthSpec, path: Path) -> tuple[Any, Any]:
    """Load a file of Depth Anything's own code, whose size its tensors tell, with the image processor that fits.

    Whether a file is of a metric network, the file does not tell: `spec` does, by its unit.

    Returns:
        (model, processor).

    Raises:
        WeightsError: the file cannot be read, or does not hold the network.
    """
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessor,
    )

    own, _ = own_tensors(read_tensors(path), anchor=ANCHOR, what=spec.name, path=path)
    width = own["pretrained.cls_token"].shape[-1] if "pretrained.cls_token" in own else 0
    facts = _SIZES.get(width)
    if facts is None:
        raise WeightsError(
            f"{path} does not fit {spec.name}: its ViT is {width} wide, not {', '.join(map(str, _SIZES))}"
        )
    shape: Mapping[str, Any] = dict(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=width,
        num_hidden_layers=facts["layers"],
        num_attention_heads=facts["heads"],
        out_indices=list(facts["taken"]),
    )
    backbone = Dinov2Config(**shape, apply_layernorm=True, reshape_hidden_states=False)
    metric: Mapping[str, Any] = dict(depth_estimation_type="metric", max_depth=spec.max_depth) if spec.max_depth else {}
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=width,
        neck_hidden_sizes=list(facts["neck"]),
        fusion_hidden_size=facts["fusion"],
        **metric,
    )
    model = fill(DepthAnythingForDepthEstimation, config, transformers_names(own), spec=spec, path=path, all_known=True)
    processor = DPTImageProcessor(
        size={"height": SIDE, "width": SIDE},
        ensure_multiple_of=PATCH,
        keep_aspect_ratio=True,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
    )
    return model, processor


def transformers_names(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of Depth Anything's own code to the names that files of transformers have.

    Args:
        own: by the names of its code, without any prefix.
    """
    renamed = {}
    for name, tensor in own.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        # The head's stages count from the finest to the coarsest there, and the other way round here.
        name = re.sub(
            r"^depth_head\.scratch\.refinenet(\d)\.",
            lambda match: f"neck.fusion_stage.layers.{4 - int(match[1])}.",
            name,
        )
        name = re.sub(r"^depth_head\.scratch\.layer(\d)_rn\.", lambda match: f"neck.convs.{int(match[1]) - 1}.", name)
        if match := _QKV.fullmatch(name):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            renamed.update({f"{match[1]}.attention.attention.{part}.{match[2]}": value for part, value in parts})
        else:
            renamed[name] = tensor
    return renamed
