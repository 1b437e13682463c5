"""What network a detector is: read from the names and shapes of its tensors, and what these do not tell.

The names are those of detectron2's Mask R-CNN with an FPN, plain or cascaded, which CutLER, CuVLER, UnionCut, CutS3D's
authors and `cuts3d train` share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from cuts3d_cli.config import PYRAMID_LEVELS, TrainConfig
from cuts3d_cli.errors import WeightsError
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD
from cuts3d_cli.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

Head = Literal["cascade", "standard"]
ColourOrder = Literal["RGB", "BGR"]

CASCADE = ((0.5, (10, 10, 5, 5)), (0.6, (20, 20, 10, 10)), (0.7, (30, 30, 15, 15)))
"""Stage by stage: the IoU from which a box matches, and the weights of its regression."""
_BLOCKS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
"""Whether the blocks of a ResNet are bottlenecks, and how many each stage has -> its depth."""
_ANCHOR = "roi_heads.mask_head.predictor.weight"
_CONSTANTS = re.compile(r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
"""Names of tensors in older files that are no weights: newer versions of detectron2 compute them."""
_WHAT = "a Mask R-CNN of detectron2 with an FPN"
_MOST_CLASSES, _WIDEST = 20_000, 65_536
"""No detector has more: a shape is a claim of a file, and could ask for a network of any size."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the shapes of a detector's tensors tell of it.

    Attributes:
        head: "cascade", or "standard" for a single box head.
        stages: number of box heads.
        resnet_depth: layers of the backbone's ResNet.
        fpn_channels: channels of the FPN.
        fpn_norm: whether the FPN has normalisation layers.
        anchors: anchors at a place.
        classes: number of classes, without background.
        box_per_class: whether each class has a regression of its own.
        mask_per_class: whether each class has a mask of its own.
        box_layers: fully connected layers of a box head.
        box_width: their width.
        box_pool: side of the features that a box head gets.
        mask_layers: convolutions of the mask head.
        mask_width: their channels.
    """

    head: Head
    stages: int
    resnet_depth: int
    fpn_channels: int
    fpn_norm: bool
    anchors: int
    classes: int
    box_per_class: bool
    mask_per_class: bool
    box_layers: int
    box_width: int
    box_pool: int
    mask_layers: int
    mask_width: int

    @classmethod
    def of_training(cls, config: TrainConfig) -> Architecture:
        """Return the network that a configuration trains."""
        return cls(
            head=config.head,
            stages=len(CASCADE) if config.head == "cascade" else 1,
            resnet_depth=config.resnet_depth,
            fpn_channels=config.fpn_channels,
            fpn_norm=True,
            anchors=len(Conventions.aspect_ratios),
            classes=1,
            box_per_class=False,
            mask_per_class=False,
            box_layers=2,
            box_width=config.box_head_width,
            box_pool=7,
            mask_layers=config.mask_head_layers,
            mask_width=config.mask_head_width,
        )

    def __str__(self) -> str:
        name = "Cascade Mask R-CNN" if self.head == "cascade" else "Mask R-CNN"
        return f"{name}, ResNet-{self.resnet_depth}, {counted(self.classes, 'class', 'classes')}"


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What a detector's tensors do not tell of it. The defaults are those of `cuts3d train` and of CutLER.

    Attributes:
        colours: order of the colours in a photo.
        pixel_mean: subtracted from each colour, in [0, 255] and in that order.
        pixel_std: what each colour is then divided by.
        stride_in_1x1: whether a bottleneck has its stride in the first convolution, not in the 3x3 one.
        anchor_sizes: side of the anchors at each level of the FPN, pixels.
        aspect_ratios: height to width of the anchors.
        box_weights: weights of the regression of each box head.
        mask_pool: side of the features that the mask head gets.
    """

    colours: ColourOrder = "RGB"
    pixel_mean: tuple[float, ...] = tuple(round(255 * mean, 3) for mean in IMAGENET_MEAN)
    pixel_std: tuple[float, ...] = tuple(round(255 * deviation, 3) for deviation in IMAGENET_STD)
    stride_in_1x1: bool = False
    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    box_weights: tuple[tuple[float, ...], ...] = tuple(weights for _, weights in CASCADE)
    mask_pool: int = 14

    @classmethod
    def of_training(cls, config: TrainConfig) -> Conventions:
        """Return the conventions of a detector of `cuts3d train`."""
        return cls(anchor_sizes=config.anchor_sizes)

    def problem(self) -> str | None:
        """Return what no detector can have, as "colours are 'L', not RGB or BGR"; None where all is well."""
        if self.colours not in get_args(ColourOrder):
            return f"colours are {self.colours!r}, not {' or '.join(get_args(ColourOrder))}"
        if len(self.anchor_sizes) not in (1, PYRAMID_LEVELS):
            return f"there are anchors for {len(self.anchor_sizes)} levels, not for {PYRAMID_LEVELS}"
        if not isinstance(self.mask_pool, int) or self.mask_pool < 4:
            return f"the mask head gets {self.mask_pool} features a side"
        counts = {"pixel_mean": 3, "pixel_std": 3}
        lists = {name: getattr(self, name) for name in ("pixel_mean", "pixel_std", "anchor_sizes", "aspect_ratios")}
        lists |= {f"box_weights of head {number}": weights for number, weights in enumerate(self.box_weights)}
        for name, values in lists.items():
            count = counts.get(name, 4 if name.startswith("box") else len(values))
            positive = name == "pixel_mean" or all(value > 0 for value in values)
            if len(values) != count or not values or not positive or not all(map(math.isfinite, values)):
                return f"{name} is {list(values)}"
        return None


def own_tensors_of(tensors: Mapping[str, Tensor], *, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a detector's tensors under detectron2's names, without wrappers' prefixes.

    Args:
        tensors: of a file, as `cuts3d_cli.weights.checkpoint.read_tensors` gives them.
        path: of the file, for errors.

    Returns:
        The weights, and constants that older files hold beside them, such as "pixel_mean".

    Raises:
        WeightsError: there is no Mask R-CNN among them, or there are several.
    """
    from cuts3d_cli.weights.checkpoint import own_tensors

    own, _ = own_tensors(tensors, anchor=_ANCHOR, what=_WHAT, path=path)
    constants = {name: tensor for name, tensor in own.items() if _CONSTANTS.fullmatch(name)}
    return {name: tensor for name, tensor in own.items() if name not in constants}, constants


def read_architecture(weights: Mapping[str, Tensor], *, path: Path) -> Architecture:
    """Read from names and shapes what network some weights are for.

    Whether they fit it to the last tensor shows when they are loaded.

    Args:
        weights: as `own_tensors_of` gives them.
        path: of the file, for errors.

    Raises:
        WeightsError: it is none of the networks that can be built; the line says what is missing or unknown.
    """
    shapes = _Shapes({name: tuple(tensor.shape) for name, tensor in weights.items()}, path)
    # The box heads: several are numbered.
    stages = shapes.count(r"roi_heads\.box_predictor\.(\d+)\.cls_score\.weight")
    number = ".0" if stages else ""
    classes = shapes.of(f"roi_heads.box_predictor{number}.cls_score.weight", 2)[0] - 1
    box_width, box_inputs = shapes.of(f"roi_heads.box_head{number}.fc1.weight", 2)
    # The FPN and the mask head.
    channels = shapes.of("backbone.fpn_output2.weight", 4)[0]
    masks, mask_width = shapes.of(_ANCHOR, 4)[:2]
    architecture = Architecture(
        head="cascade" if stages else "standard",
        stages=stages or 1,
        resnet_depth=_depth(shapes),
        fpn_channels=channels,
        fpn_norm=shapes.has("backbone.fpn_output2.norm.weight"),
        anchors=shapes.of("proposal_generator.rpn_head.objectness_logits.weight", 4)[0],
        classes=classes,
        box_per_class=shapes.of(f"roi_heads.box_predictor{number}.bbox_pred.weight", 2)[0] == 4 * classes > 4,
        mask_per_class=masks == classes > 1,
        box_layers=shapes.count(rf"roi_heads\.box_head{re.escape(number)}\.fc(\d+)\.weight"),
        box_width=box_width,
        box_pool=round((box_inputs / max(channels, 1)) ** 0.5),
        mask_layers=shapes.count(r"roi_heads\.mask_head\.mask_fcn(\d+)\.weight"),
        mask_width=mask_width,
    )
    # A shape is a claim: no network of any size is built.
    widths = (channels, box_width, mask_width)
    if not (1 <= classes <= _MOST_CLASSES and all(1 <= width <= _WIDEST for width in widths)):
        raise WeightsError(
            f"{path} does not fit {_WHAT}: it claims {counted(classes, 'class', 'classes')} and widths of {widths}"
        )
    return architecture


def _depth(shapes: _Shapes) -> int:
    """Return the layers of the ResNet whose tensors these are."""
    first = "backbone.bottom_up.res2.0"
    shapes.of(f"{first}.conv1.weight", 4)
    counts = tuple(shapes.count(rf"backbone\.bottom_up\.res{stage}\.(\d+)\.conv1\.weight") for stage in range(2, 6))
    depth = _BLOCKS.get((shapes.has(f"{first}.conv3.weight"), counts))
    if depth is None:
        raise WeightsError(
            f"{shapes.path} does not fit {_WHAT}: its stages have {', '.join(map(str, counts))} blocks, as no ResNet of"
            f" {', '.join(map(str, sorted(_BLOCKS.values())))} layers has"
        )
    return depth


class _Shapes:
    """Names and shapes of the tensors of a file."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], path: Path) -> None:
        self._shapes = shapes
        self.path = path

    def has(self, name: str) -> bool:
        return name in self._shapes

    def of(self, name: str, dimensions: int) -> Sequence[int]:
        """Return the shape of a tensor that every such network has.

        Raises:
            WeightsError: it is missing, or has another number of dimensions.
        """
        shape = self._shapes.get(name)
        if shape is None or len(shape) != dimensions:
            how = f"it lacks {name}" if shape is None else f"its {name} has {len(shape)} dimensions"
            raise WeightsError(f"{self.path} does not fit {_WHAT}: {how}")
        return shape

    def count(self, pattern: str) -> int:
        """Return how many different numbers a pattern's group has among the names."""
        return len({match[1] for name in self._shapes if (match := re.fullmatch(pattern, name))})
