"""Checkpoints from anywhere, read as plain tensors and fitted to a timm ViT. Nothing in them is ever run."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.catalogue import BackboneSpec
from cuts3d_cli.wording import cause, listed

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
"""The kinds of file that `read_checkpoint` takes."""
_NESTS = ("teacher", "state_dict", "model", "student")
# The teacher is what DINO evaluates and publishes, so it comes first.
_ANCHOR = "patch_embed.proj.weight"
_HEADS = re.compile(
    r"(module\.)?"
    r"(head\w*|fc_norm|fc|last_layer|dino_head|ibot_head|dino_loss|ibot_patch_loss|projection_head)\."
)
# Heads of DINO ("head"), DiffNCuts ("head1", "head2", "head2d_proj", "head2d_pred"), DINOv2 and of
# classifiers.
_TRAINING_ONLY = frozenset({"mask_token"})
# DINOv2 puts it in the place of hidden patches during training; no forward pass on a whole image reads it.
_LISTED = 3


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU.

    Args:
        path: .safetensors, or a .pth, .pt or .ckpt that torch can load without running pickled code. The
            tensors may lie under "teacher", "state_dict", "model" or "student"; what is not a tensor is left
            out.

    Returns:
        Name to tensor, names as in the file.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, would run code, or holds no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file: --weights takes a checkpoint ({', '.join(SUFFIXES)})")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        content: object = _read_safetensors(path)
    elif suffix in SUFFIXES:
        content = _read_pickle(path)
    else:
        raise WeightsError(f"{path} is of an unknown kind: weights are one of {', '.join(SUFFIXES)}")
    content = _unnest(content)
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name: give a state dict, not a whole pickled model")
    return tensors


def fit_state_dict(
    tensors: Mapping[str, Tensor], *, expected: Mapping[str, torch.Size], spec: BackboneSpec, path: Path
) -> dict[str, Tensor]:
    """The tensors of a ViT under timm's names, with wrappers' prefixes and known heads taken away.

    Args:
        tensors: as `read_checkpoint` gives them.
        expected: names and shapes of timm's model; the grid of "pos_embed" may differ.
        spec: the backbone that they are for; only for the error.
        path: the file that they are from; only for the error.

    Returns:
        float32, exactly the names of `expected`.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape; the error names the first few.
    """
    prefix = _vit_prefix(tensors, spec=spec, path=path)
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        name = key[len(prefix) :] if key.startswith(prefix) else ""
        if name in expected:
            found[name] = tensor
        elif not (name in _TRAINING_ONLY or _HEADS.match(name) or _HEADS.match(key)):
            unknown.append(key)
    missing = [name for name in expected if name not in found]
    differing = [
        f"{name} {shape_text(found[name].shape)} instead of {shape_text(shape)}"
        for name, shape in expected.items()
        if name in found and not _fits(name, found[name].shape, shape)
    ]
    if problems := misfits(missing=missing, unknown=unknown, differing=differing):
        raise WeightsError(f"{path} does not fit {spec.name} ({spec.timm_name}): {problems}")
    return {name: found[name].to(torch.float32).contiguous() for name in expected}


def misfits(*, missing: Sequence[str], unknown: Sequence[str], differing: Sequence[str]) -> str:
    """What keeps weights from fitting a network, in brief.

    Args:
        missing: names of tensors that the network has and the weights lack.
        unknown: names of tensors that the network lacks.
        differing: names of tensors of another shape, with their shapes.

    Returns:
        How many of each, and the first ones; empty where all fits.
    """
    return "; ".join(
        f"{len(names)} tensors {what} ({listed(names)})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", differing))
        if names
    )


def shape_text(sizes: Iterable[int]) -> str:
    """A shape in an error, as in 64x3x7x7."""
    return "x".join(str(size) for size in sizes) or "scalar"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({cause(error)}): fetch it again") from error


def _read_pickle(path: Path) -> object:
    try:
        # DINO's training checkpoints carry their command line as an argparse.Namespace: attributes only, no
        # code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged or hostile files; each means "not loaded".
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise WeightsError(
                f"{path} is refused: it holds pickled code ({refused[1]}), which is never run; give a file of"
                " tensors alone, such as .safetensors"
            ) from error
        raise WeightsError(
            f"{path} cannot be read as a checkpoint ({cause(error)}): it is damaged or not a file of tensors"
        ) from error


def _unnest(content: object) -> object:
    while isinstance(content, Mapping) and not any(str(key).endswith(_ANCHOR) for key in content):
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _vit_prefix(tensors: Mapping[str, Tensor], *, spec: BackboneSpec, path: Path) -> str:
    """What stands before the ViT's own names, such as "module.backbone.": found by its patch embedding."""
    prefixes = sorted(key.removesuffix(_ANCHOR) for key in tensors if key.endswith(_ANCHOR))
    if len(prefixes) != 1 or not (prefixes[0] == "" or prefixes[0].endswith(".")):
        what = f"{len(prefixes)} ViTs ({', '.join(prefixes[:_LISTED])})" if prefixes else f"no {_ANCHOR}"
        first = ", ".join(list(tensors)[:_LISTED])
        raise WeightsError(f"{path} does not fit {spec.name}: it holds {what}; its first tensors are {first}")
    return prefixes[0]


def _fits(name: str, shape: torch.Size, expected: torch.Size) -> bool:
    if name != "pos_embed":
        return shape == expected
    # Any square grid and the CLS token will do: it is resampled to the grid of the input.
    return len(shape) == 3 and shape[::2] == expected[::2] and math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1 > 0
