"""Weights of a self-supervised ResNet for the detector's backbone (paper: E.2 starts from DINO's ResNet-50).

Checkpoints are read as RGB networks with torchvision's names, in which a block's stride is in its 3x3 convolution: the
detector has RGB input and that stride too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from cuts3d_cli.detector.resnet import fit_resnet
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.features.catalogue import RESNETS
from cuts3d_cli.weights.cache import resolve_weights
from cuts3d_cli.weights.checkpoint import read_checkpoint


def load_backbone(backbone: torch.nn.Module, source: str, *, say: Callable[[str], None]) -> Path:
    """Put self-supervised weights into the detector's ResNet.

    Args:
        backbone: detectron2's ResNet.
        source: a name of `RESNETS`, which is fetched into the cache once, or a checkpoint file: DINO's, MoCo's or any
            other's with torchvision's names.
        say: told what is being fetched.

    Returns:
        The file that the weights came from.

    Raises:
        WeightsError: there is no such file, or it holds another network's weights.
        HubUnreachableError: the weights cannot be fetched.
    """
    path = resolve_weights(source, weights=None, progress=say) if source in RESNETS else Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: --backbone-weights takes {', '.join(RESNETS)}, random or a file")
    # Counters of batches say nothing about the weights, and many checkpoints lack them.
    own = {name: value for name, value in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    expected = {torchvision_name(name): value.shape for name, value in own.items()}
    found = fit_resnet(read_checkpoint(path), expected=expected, what="the detector's ResNet", path=path)
    backbone.load_state_dict({**backbone.state_dict(), **{name: found[torchvision_name(name)] for name in own}})
    return path


def torchvision_name(name: str) -> str:
    """The name of a ResNet's tensor in torchvision, from its name in detectron2.

    Args:
        name: for example "stem.conv1.norm.weight" or "res2.0.shortcut.weight".

    Returns:
        For these "bn1.weight" and "layer1.0.downsample.0.weight".
    """
    name = name.removeprefix("stem.")
    name = re.sub(r"^res([2-5])\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = re.sub(r"\bconv([1-3])\.norm\.", r"bn\1.", name)
    return name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
