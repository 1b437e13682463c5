"""Networks of timm: built empty, and filled from any checkpoint that holds them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.base import BackboneSpec
from cuts3d_cli.features.names import Tensors, original_names
from cuts3d_cli.weights.checkpoint import fit, read_tensors
from cuts3d_cli.wording import cause

POSITIONS = "pos_embed"
_HEADS = re.compile(
    r"(module\.|teacher\.|student\.|model\.)*"
    r"(head\w*|fc_norm|fc|last_layer|dino_head|ibot_head|dino_loss|ibot_patch_loss|koleo_loss|projection_head|"
    r"pooler|classifier|predictor|decoder\w*|local_cls_norm|projectors)\."
)
# Heads of DINO ("head"), DiffNCuts ("head1", "head2", "head2d_proj", "head2d_pred"), DINOv2 and DINOv3, of
# transformers and of classifiers.
_TRAINING_ONLY = re.compile(r"mask_token$|rope_embed\.periods$|\.bias_mask$")
# DINOv2 puts the first in the place of hidden patches during training; no forward pass on a whole image reads it. The
# the network computes others when it is built.
_DINOV3_MARK, _QKV_BIAS = "storage_tokens", re.compile(r"^(blocks\.\d+\.attn\.)qkv\.bias$")


def build_model(spec: BackboneSpec, *, size: int) -> nn.Module:
    """Return the network with the random weights that timm gives it.

    Args:
        spec: the backbone.
        size: side of its input, pixels.
    """
    given: dict[str, Any] = {**spec.model_args, **({"img_size": size} if spec.fixed_size else {})}
    return timm.create_model(spec.architecture, pretrained=False, num_classes=0, **given)


def empty_model(spec: BackboneSpec, *, size: int) -> nn.Module:
    """Return the network before its weights are loaded; nothing is drawn from the global random numbers.

    Args:
        spec: the backbone.
        size: side of its input, pixels.
    """
    # On "meta" nothing is initialised, so no time is lost.
    model = _on_meta(spec, size=size)
    stored = model.state_dict().keys()
    if all(name in stored for name, _ in model.named_buffers()):
        return model
    # No checkpoint holds the periods of rotary positions: they must be computed.
    with torch.random.fork_rng(devices=[]):
        return build_model(spec, size=size)


def expected_shapes(spec: BackboneSpec, *, size: int | None = None) -> dict[str, torch.Size]:
    """Return name and shape of every weight of a network of timm.

    Args:
        spec: the backbone.
        size: side of its input, pixels, on which positions depend; None: its default.
    """
    model = _on_meta(spec, size=size or spec.size)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def timm_tensors(spec: BackboneSpec, path: Path) -> Tensors:
    """Read the weights of a network of timm from any checkpoint that holds it.

    Args:
        spec: the backbone.
        path: as for `read_tensors`: timm's names, those of the network's own code or of transformers, behind any
            prefix, beside known heads. The grid of the positional embedding may be any square.

    Returns:
        float32, by timm's names, exactly those of its model at the size of the checkpoint's positions.

    Raises:
        WeightsError: the file cannot be read, or tensors are missing, unknown or of another shape.
    """
    return fit_timm(read_tensors(path), spec=spec, path=path)


def fit_timm(tensors: Mapping[str, Tensor], *, spec: BackboneSpec, path: Path) -> Tensors:
    """Fit the tensors of a checkpoint to a network of timm; see `timm_tensors`."""
    what = f"{spec.name} ({spec.architecture})"
    expected = expected_shapes(spec)
    anchor = "patch_embed.proj.weight" if "patch_embed.proj.weight" in expected else _anchor(expected)
    own, others = original_names(tensors, anchor=anchor, what=what, path=path)
    own = _timm_names(own, spec=spec, expected=expected, path=path)

    def same_shape(name: str, shape: torch.Size, wanted: torch.Size) -> bool:
        if name != POSITIONS or len(wanted) != 3:
            return shape == wanted
        # Any square grid will do: it is resampled to the grid of the input.
        patches = shape[1] - prefix_positions(spec, expected) if len(shape) == 3 else 0
        return shape[::2] == wanted[::2] and patches > 0 and math.isqrt(patches) ** 2 == patches

    return fit(
        own,
        expected,
        what=what,
        path=path,
        ignored=lambda name: _TRAINING_ONLY.search(name) or _HEADS.match(name),
        unknown=[key for key in others if not _HEADS.match(key)],
        same_shape=same_shape,
    )


def _anchor(names: Collection[str]) -> str:
    """Return the first of a network's names that ends no other: "conv1.weight" also ends "layer1.0.conv1.weight"."""
    return next(name for name in names if not any(other.endswith(f".{name}") for other in names))


def prefix_positions(spec: BackboneSpec, expected: Mapping[str, torch.Size]) -> int:
    """Return how many positions are of no patch: one where the CLS token has a position, none for many others.

    Args:
        spec: the backbone.
        expected: as `expected_shapes` gives them at the default size.
    """
    return expected[POSITIONS][1] - (spec.size // spec.patch) ** 2


def at_size(state: Tensors, spec: BackboneSpec, model: nn.Module, *, path: Path) -> Tensors:
    """Resample what depends on the size of the input by timm's own rule: exact sizes, antialiased.

    Args:
        state: as `timm_tensors` gives it.
        spec: the backbone.
        model: the network, built for the size of the input.
        path: the file that the tensors are from; only for the error.

    Raises:
        WeightsError: something cannot be brought to that size.
    """
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if all(state[name].shape == shape for name, shape in wanted.items() if name in state):
        return state
    state = _filtered(state, model, path=path, what=spec.name)
    return fit(state, wanted, what=f"{spec.name} at this size", path=path)


def _timm_names(own: Tensors, *, spec: BackboneSpec, expected: Mapping[str, torch.Size], path: Path) -> Tensors:
    """Let timm rename what has the names of the network's own code."""
    unknown = [name for name in own if name not in expected]
    if not any(not _TRAINING_ONLY.search(name) and not _HEADS.match(name) for name in unknown):
        return own
    if _DINOV3_MARK in own:
        own = _without_biases_of_zero(own, spec=spec, expected=expected, path=path)
    # A mark for timm that registers are DINOv2's, where somebody has taken it away.
    given = {"mask_token": torch.zeros(1), **own} if "register_tokens" in own else dict(own)
    try:
        renamed = _filtered(given, _on_meta(spec, size=_native_size(own, spec, expected)), path=path, what=spec.name)
    except WeightsError:
        return own  # of another network: the strict fit says what is wrong with it
    # timm would also resample the patches' weights, and so make a network of /16 one of /8.
    kept = {name: own[name] for name in ("patch_embed.proj.weight",) if name in own}
    return {**renamed, **kept}


def _without_biases_of_zero(
    own: Tensors, *, spec: BackboneSpec, expected: Mapping[str, torch.Size], path: Path
) -> Tensors:
    """Leave out the biases of q, k and v where the network has no place for them and they say nothing."""
    biases = {name: tensor for name, tensor in own.items() if _QKV_BIAS.match(name)}
    if not biases or "blocks.0.attn.q_bias" in expected:
        return own
    for tensor in biases.values():
        q, _, v = tensor.chunk(3)
        if q.any() or v.any():
            raise WeightsError(
                f"{path} does not fit {spec.name} ({spec.architecture}): it has biases of q and v, which that one has"
                " no place for; take the network whose name has _qkvb"
            )
    return {name: tensor for name, tensor in own.items() if name not in biases}


def _native_size(own: Tensors, spec: BackboneSpec, expected: Mapping[str, torch.Size]) -> int:
    """Return the side of the input that a checkpoint's positions are for, so that they stay as they are."""
    positions = own.get(POSITIONS)
    if positions is None or POSITIONS not in expected or positions.dim() != 3:
        return spec.size
    # Own code may give the CLS token a position where timm has none, or the other way round.
    for prefix in (prefix_positions(spec, expected), 1, 0):
        side = math.isqrt(max(positions.shape[1] - prefix, 0))
        if side**2 == positions.shape[1] - prefix and side:
            return side * spec.patch
    return spec.size


def _filtered(state: Tensors, model: nn.Module, *, path: Path, what: str) -> Tensors:
    """Apply the conversion that timm has for networks of this kind: names, and what depends on the size."""
    convert: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), model))
    except Exception as error:  # It takes for granted that the tensors are the network's own.
        raise WeightsError(f"{path} cannot be brought to {what} ({cause(error)})") from error


def _on_meta(spec: BackboneSpec, *, size: int) -> nn.Module:
    with torch.device("meta"):
        return build_model(spec, size=size)
