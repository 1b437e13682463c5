"""Weights of ResNets, from whatever trained them: DINO, MoCo, torchvision and others keep torchvision's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cuts3d_cli.errors import WeightsError
from cuts3d_cli.weights.checkpoint import misfits, shape_text

_ANCHOR = "layer1.0.conv1.weight"
_OWN = ("conv1.", "bn1.", "layer")
_COUNTER = "num_batches_tracked"
_SECOND = ("encoder_k.", "momentum_encoder.")
"""Of the two networks of a MoCo, the one that follows the other."""
_LISTED = 3


def expected_shapes(depth: int) -> dict[str, torch.Size]:
    """Names and shapes of torchvision's ResNet without its classifier and counters.

    Args:
        depth: 18, 34 or 50.
    """
    from torchvision import models

    with torch.device("meta"):
        network = getattr(models, f"resnet{depth}")()
    return {
        name: tensor.shape
        for name, tensor in network.state_dict().items()
        if not name.startswith("fc.") and not name.endswith(_COUNTER)
    }


def fit_resnet(
    tensors: Mapping[str, Tensor], *, expected: Mapping[str, torch.Size], what: str, path: Path
) -> dict[str, Tensor]:
    """The tensors of a ResNet under torchvision's names, with wrappers' prefixes and any heads taken away.

    Args:
        tensors: as `cuts3d_cli.weights.checkpoint.read_checkpoint` gives them. The ResNet may lie behind a prefix
            such as "module.encoder_q." or "backbone.".
        expected: names and shapes, as `expected_shapes` gives them.
        what: what they are for, such as "dino-resnet50"; only for the error.
        path: the file that they are from; only for the error.

    Returns:
        float32, exactly the names of `expected`.

    Raises:
        WeightsError: there is no ResNet, or one of another shape; the error names the first differences.
    """
    prefix = _prefix(tensors, what=what, path=path)
    found = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    missing = [name for name in expected if name not in found]
    # A deeper ResNet has all that is wanted and more: loaded in part, it would be noise.
    unknown = [name for name in found if name.startswith(_OWN) and name not in expected and not name.endswith(_COUNTER)]
    differing = [
        f"{name} {shape_text(found[name].shape)} instead of {shape_text(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if problems := misfits(missing=missing, unknown=unknown, differing=differing):
        raise WeightsError(f"{path} does not fit {what}: {problems}")
    return {name: found[name].to(torch.float32).contiguous() for name in expected}


def _prefix(tensors: Mapping[str, Tensor], *, what: str, path: Path) -> str:
    """What stands before the ResNet's own names, such as "module.encoder_q."."""
    prefixes = sorted(key.removesuffix(_ANCHOR) for key in tensors if key.endswith(_ANCHOR))
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if not prefix.endswith(_SECOND)]
    if len(prefixes) != 1 or not (prefixes[0] == "" or prefixes[0].endswith(".")):
        held = f"{len(prefixes)} ResNets ({', '.join(prefixes[:_LISTED])})" if prefixes else f"no {_ANCHOR}"
        first = ", ".join(list(tensors)[:_LISTED])
        raise WeightsError(
            f"{path} does not fit {what}: it holds {held}; its first tensors are {first}: torchvision's are wanted"
        )
    return prefixes[0]
