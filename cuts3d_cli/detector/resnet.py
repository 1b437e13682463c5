"""What the detector's ResNet may start from: self-supervised weights (paper: E.2 starts from DINO's ResNet-50).

DINO, MoCo, torchvision and others keep torchvision's names, CutLER's files have those of detectron2. Checkpoints are
read as RGB networks in which the stride of a block is in its 3x3 convolution: the detector has RGB input and that
stride too. Importing this imports no network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cuts3d_cli.errors import Setting, WeightsError
from cuts3d_cli.weights import cache
from cuts3d_cli.weights.specs import UrlSource, WeightsSpec
from cuts3d_cli.wording import Say, absence

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ANCHOR, _DETECTRON2_ANCHOR = "layer1.0.conv1.weight", "res2.0.conv1.weight"
_OWN = ("conv1.", "bn1.", "layer")
_COUNTER = "num_batches_tracked"
_FOLLOWERS = ("encoder_k", "momentum_encoder", "student")
"""Of the two networks of a MoCo, the one that follows the other; of DINO, the one that learns from the other."""


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(WeightsSpec):
    """What is fixed about a ResNet that the detector's backbone may start from, beside its weights.

    Attributes:
        name: what `--backbone-weights` takes.
        depth: its layers.
    """

    depth: int


def resnet_tensors(spec: ResNetSpec, path: Path) -> dict[str, Tensor]:
    """Read the weights of a ResNet from any checkpoint that holds it.

    Args:
        spec: the ResNet.
        path: as for `cuts3d_cli.weights.checkpoint.read_tensors`.

    Returns:
        float32, by torchvision's names, without classifier and counters.

    Raises:
        WeightsError: the file cannot be read, or holds no such ResNet.
    """
    from cuts3d_cli.weights.checkpoint import read_tensors

    return fit_resnet(read_tensors(path), expected=expected_shapes(spec.depth), what=spec.name, path=path)


RESNETS: dict[str, ResNetSpec] = {
    "dino-resnet50": ResNetSpec(
        name="dino-resnet50",
        depth=50,
        source=UrlSource(url="https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"),
        licence="Apache-2.0",
        note="DINO's ResNet-50: what the paper's and CutLER's detector starts from.",
        way_out=("train with ", Setting("train.backbone_weights", "random", command="train")),
        prepare=resnet_tensors,
    )
}
"""All ResNets that the detector may start from, by name."""


def check_available(source: str) -> None:
    """Make sure that `load_resnet` will find its weights, as far as that can be known without fetching any.

    Args:
        source: as for `load_resnet`; "random" needs none.

    Raises:
        WeightsError: there is no such file.
        HubUnreachableError: they are not cached, and downloads are switched off.
    """
    if source in RESNETS:
        cache.check_available(RESNETS[source], weights=None)
    elif source != "random":
        _check_file(Path(source).expanduser())


def _check_file(path: Path) -> None:
    if not path.is_file():
        takes = f" takes {', '.join(RESNETS)}, random or a file"
        raise WeightsError(f"{path} {absence(path)}: ", Setting("train.backbone_weights"), takes)


def fetch(source: str, *, say: Say) -> Path | None:
    """Return the file of the weights that a detector's ResNet starts from, fetched if need be; None for random ones.

    Args:
        source: as for `load_resnet`.
        say: prints a status line.

    Raises:
        WeightsError: there is no such file.
        HubUnreachableError: the weights cannot be fetched.
    """
    if source == "random":
        return None
    known = RESNETS.get(source)
    path = cache.resolve_weights(known, weights=None, say=say) if known else Path(source).expanduser()
    _check_file(path)
    return path


def load_resnet(backbone: torch.nn.Module, source: str, *, say: Say) -> Path:
    """Load self-supervised weights into the detector's ResNet.

    Args:
        backbone: detectron2's ResNet.
        source: a name of `RESNETS`, which is fetched into the cache once, or a checkpoint file: DINO's, MoCo's or any
            other's with the names of torchvision or detectron2.
        say: prints a status line.

    Returns:
        The file that the weights came from.

    Raises:
        WeightsError: there is no such file, or it holds another network's weights.
        HubUnreachableError: the weights cannot be fetched.
    """
    from cuts3d_cli.weights.checkpoint import read_tensors

    path = fetch(source, say=say)
    assert path is not None, "random weights are not loaded"
    # Counters of batches say nothing about the weights, and many checkpoints lack them.
    own = {name: value for name, value in backbone.state_dict().items() if not name.endswith(_COUNTER)}
    expected = {torchvision_name(name): value.shape for name, value in own.items()}
    found = fit_resnet(read_tensors(path), expected=expected, what="the detector's ResNet", path=path)
    backbone.load_state_dict({**backbone.state_dict(), **{name: found[torchvision_name(name)] for name in own}})
    return path


def expected_shapes(depth: int) -> dict[str, torch.Size]:
    """Return names and shapes of torchvision's ResNet without its classifier and counters.

    Args:
        depth: 18, 34 or 50.
    """
    import torch
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
    """Fit the tensors of a checkpoint to a ResNet, with wrappers' prefixes and any heads taken away.

    Args:
        tensors: as `cuts3d_cli.weights.checkpoint.read_tensors` gives them. The ResNet may lie behind a prefix such as
            "module.encoder_q." or "backbone.", and have the names of detectron2.
        expected: names and shapes, as `expected_shapes` gives them.
        what: what they are for, such as "dino-resnet50"; only for the error.
        path: the file that they are from; only for the error.

    Returns:
        float32, exactly the names of `expected`.

    Raises:
        WeightsError: there is no ResNet, or one of another shape; the error names the first differences.
    """
    from cuts3d_cli.weights.checkpoint import fit, own_tensors

    theirs = not any(name.endswith(_ANCHOR) for name in tensors)
    theirs = theirs and any(name.endswith(_DETECTRON2_ANCHOR) for name in tensors)
    anchor = _DETECTRON2_ANCHOR if theirs else _ANCHOR
    own, _ = own_tensors(tensors, anchor=anchor, what=what, path=path, followers=_FOLLOWERS)
    if theirs:
        own = {torchvision_name(name): tensor for name, tensor in own.items()}
    # A deeper ResNet has all that is wanted and more: loaded in part, it would be noise.
    return fit(
        own,
        expected,
        what=what,
        path=path,
        ignored=lambda name: not name.startswith(_OWN) or name.endswith(_COUNTER),
    )


def torchvision_name(name: str) -> str:
    """Return the name of a ResNet's tensor in torchvision, from its name in detectron2.

    Args:
        name: for example "stem.conv1.norm.weight" or "res2.0.shortcut.weight".

    Returns:
        For these "bn1.weight" and "layer1.0.downsample.0.weight".
    """
    name = name.removeprefix("stem.")
    name = re.sub(r"^res([2-5])\.", lambda match: f"layer{int(match[1]) - 1}.", name)
    name = re.sub(r"\bconv([1-3])\.norm\.", r"bn\1.", name)
    return name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
