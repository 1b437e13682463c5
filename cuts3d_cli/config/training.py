"""The sections of the configuration for training: `train`, and `selftrain`, which derives from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.config.fields import Section, option

PYRAMID_LEVELS = 5
"""Levels of the detector's feature pyramid, p2 to p6."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """How the detector is trained (paper: Sec. 3.4, Tables 16 and 17; what the paper leaves open is CutLER's).

    Sizes are in pixels, learning rates belong to `images_per_batch`.
    """

    title = "Training"

    # Data.
    images_per_batch: int = option(4, "Images in a batch, over all GPUs.", limits=(1, 4096))
    accumulate: Literal["auto"] | int = option(
        1,
        "Parts that a GPU's share of the batch goes through the network in, for less memory; auto: as few as fit.",
        limits=(1, 4096),
    )
    min_sizes: tuple[int, ...] = option(
        (240, 320, 480, 640, 672, 704, 736, 768, 800, 1024),
        "Shorter sides that training images are resized to, one of them at random.",
        limits=(32, 8192),
    )
    max_size: int = option(1333, "Longest side of a training image.", limits=(32, 8192))
    test_min_size: int = option(800, "Shorter side of an image at test time.", limits=(32, 8192))
    test_max_size: int = option(1333, "Longest side of an image at test time.", limits=(32, 8192), advanced=True)
    flip: float = option(0.5, "Chance that a training image is flipped.", limits=(0.0, 1.0), advanced=True)
    group_by_aspect: bool = option(True, "Batches hold only upright or only lying images.", advanced=True)
    shuffle_window: int = option(
        10_000,
        "Images over which the order is mixed, in whole shards, which are drawn at random.",
        limits=(1, 10**6),
        advanced=True,
    )
    loader_workers: int = option(
        2, "Processes that read and decode, for each GPU.", limits=(0, 256), shapes_output=False
    )
    # Copy-paste (Sec. 3.4).
    copy_paste: bool = option(True, "Paste instances of one image of the batch into another.")
    copy_paste_select: Literal["confident", "random"] = option(
        "confident", "Which instances are pasted: those of highest mean Spatial Confidence, or any."
    )
    copy_paste_min: float = option(0.3, "Least scale of what is pasted.", limits=(0.01, 1.0))
    copy_paste_max: float = option(1.0, "Greatest scale of what is pasted.", limits=(0.01, 1.0))
    copy_paste_rate: float = option(
        1.0, "Chance that an image gets something pasted.", limits=(0.0, 1.0), advanced=True
    )
    copy_paste_overlap: float = option(
        0.5, "Leave out a pasted instance that would hide this share of an instance.", limits=(0.0, 1.0), advanced=True
    )
    alpha: Literal["spatial", "scalar", "none"] = option(
        "spatial", "Blending of what is pasted: by Spatial Confidence (Eq. 5), by its mean (Table 8b), or none."
    )
    # Losses.
    soft_loss: bool = option(True, "Weigh the mask loss by Spatial Confidence (Eq. 6).")
    drop_loss: bool = option(True, "No classification loss for boxes far from every mask (CutLER's DropLoss).")
    drop_loss_iou: float = option(
        0.01, "Boxes with at most this IoU with every mask's box are dropped.", limits=(0.0, 1.0)
    )
    # Solver.
    max_iter: int = option(160_000, "Iterations.", limits=(1, 10**9))
    learning_rate: float = option(0.01, "Base learning rate.", limits=(0.0, 100.0), flags=("--lr",))
    warmup_iter: int = option(1000, "Iterations over which the learning rate rises.", limits=(0, 10**9))
    warmup_factor: float = option(
        0.001, "Share of the learning rate that warm-up starts from.", limits=(0.0, 1.0), advanced=True
    )
    decay_steps: tuple[int, ...] = option((80_000,), "Iterations at which the learning rate decays.", limits=(1, 10**9))
    decay_factor: float = option(0.02, "What the learning rate is multiplied by then.", limits=(0.0, 1.0))
    momentum: float = option(0.9, "Momentum of SGD.", limits=(0.0, 1.0), advanced=True)
    weight_decay: float = option(5e-5, "Weight decay; normalisation layers have none.", limits=(0.0, 1.0))
    clip: Literal["parameter", "model"] = option(
        "parameter",
        "What clip_norm limits: the gradient of each parameter by itself, as CutLER does, or that of the whole model.",
    )
    clip_norm: float = option(1.0, "Largest norm of a gradient; 0 for no limit.", limits=(0.0, 1e9), advanced=True)
    amp: bool = option(True, "Mixed precision on CUDA.")
    seed: int = option(0, "Seed of the data order, the augmentation and the random weights.", limits=(0, 2**32 - 1))
    # Model.
    backbone_weights: str = option(
        "dino-resnet50",
        "What the ResNet-50 starts from: dino-resnet50, a checkpoint file in torchvision's format, or 'random'.",
    )
    head: Literal["cascade", "standard"] = option(
        "cascade", "Box heads: three, each stricter than the one before, or a single one, as in a plain Mask R-CNN."
    )
    resnet_depth: Literal[18, 34, 50, 101, 152] = option(50, "Layers of the backbone's ResNet.", advanced=True)
    norm: Literal["SyncBN", "BN", "FrozenBN"] = option("SyncBN", "Normalisation of backbone and FPN.")
    freeze_at: int = option(0, "Stages of the backbone that are frozen.", limits=(0, 5), advanced=True)
    fpn_channels: int = option(256, "Channels of the FPN.", limits=(8, 4096), advanced=True)
    anchor_sizes: tuple[int, ...] = option(
        (32, 64, 128, 256, 512), "Side of the anchors at each of the five levels.", limits=(1, 8192), advanced=True
    )
    rpn_pre_nms: int = option(2000, "Proposals a level before NMS, training.", limits=(1, 10**6), advanced=True)
    rpn_post_nms: int = option(4000, "Proposals an image after NMS, training.", limits=(1, 10**6), advanced=True)
    rpn_nms: float = option(0.65, "IoU of the proposals' NMS.", limits=(0.0, 1.0), advanced=True)
    rpn_test_proposals: int = option(1000, "Proposals an image, at test time.", limits=(1, 10**6), advanced=True)
    rpn_batch: int = option(256, "Anchors an image in the proposals' loss.", limits=(1, 10**6), advanced=True)
    roi_batch: int = option(512, "Boxes an image in the heads' losses.", limits=(1, 10**6), advanced=True)
    box_head_width: int = option(1024, "Width of the box heads' two layers.", limits=(8, 65536), advanced=True)
    mask_head_width: int = option(256, "Channels of the mask head.", limits=(8, 65536), advanced=True)
    mask_head_layers: int = option(4, "Convolutions of the mask head.", limits=(0, 32), advanced=True)
    # Inference.
    test_score: float = option(0.0, "Lowest score of a detection.", limits=(0.0, 1.0), advanced=True)
    test_nms: float = option(0.5, "IoU of the detections' NMS.", limits=(0.0, 1.0), advanced=True)
    test_detections: int = option(100, "Most detections an image.", limits=(1, 10**6), advanced=True)
    # Evaluation while training.
    eval_every: int = option(
        0, "Iterations between evaluations while training; 0 for none.", limits=(0, 10**9), shapes_output=False
    )
    eval_dataset: tuple[str, ...] = option(
        (),
        "What to evaluate on while training, separated by commas: data sets of `cuts3d eval`, or a COCO JSON.",
        shapes_output=False,
    )
    eval_images: Path | None = option(
        None, "Folder that the file names of your own COCO JSON start from.", shapes_output=False
    )
    eval_limit: int | None = option(
        None,
        "Evaluate on so many images of each data set, evenly spread. Default: all.",
        limits=(1, 10**9),
        shapes_output=False,
    )
    # Bookkeeping.
    checkpoint_every: int = option(5000, "Iterations between checkpoints.", limits=(1, 10**9), shapes_output=False)
    checkpoints_kept: int = option(
        3, "Checkpoints that are kept, the newest ones.", limits=(1, 10**6), shapes_output=False
    )
    log_every: int = option(20, "Iterations between lines of metrics.jsonl.", limits=(1, 10**9), shapes_output=False)
    precise_bn: int = option(
        200,
        "Batches, without copy-paste, that settle the batch norm's statistics at the end; 0 for none.",
        limits=(0, 10**6),
    )

    def unread(self) -> dict[str, str]:
        """Return the fields of what is switched off."""
        copied = ("copy_paste_select", "copy_paste_min", "copy_paste_max", "copy_paste_rate", "copy_paste_overlap")
        return {
            **({} if self.copy_paste else dict.fromkeys((*copied, "alpha"), "copy_paste")),
            **({} if self.drop_loss else {"drop_loss_iou": "drop_loss"}),
            **({} if self.warmup_iter else {"warmup_factor": "warmup_iter"}),
            **({} if self.decay_steps else {"decay_factor": "decay_steps"}),
            **({} if self.clip_norm else {"clip": "clip_norm"}),
            **({"precise_bn": "norm"} if self.norm == "FrozenBN" else {}),
        }


def _changed(name: str, default: Any) -> Any:
    """A field of `TrainConfig` with another default."""
    return field(default=default, metadata=TrainConfig.__dataclass_fields__[name].metadata)


@dataclass(frozen=True, kw_only=True)
class SelfTrainConfig(TrainConfig):
    """How the detector is trained on its own predictions (paper: Sec. 4.3 and Table 17; the rest is CutLER's).

    Predicted masks have no Spatial Confidence, so nothing that uses it is on.
    """

    title = "Self-training"

    rounds: int = option(1, "Rounds of self-training; the paper's tables show three.", limits=(1, 100))
    score_thresholds: tuple[float, ...] = option(
        (0.7, 0.65),
        "Lowest score of a prediction that becomes a mask, by round; the last holds for all that follow.",
        limits=(0.0, 1.0),
    )
    keep_iou: float = option(
        0.5, "A mask of the round before is kept if its IoU with every prediction is under this.", limits=(0.0, 1.0)
    )
    images_per_batch: int = _changed("images_per_batch", 8)
    copy_paste_select: Literal["confident", "random"] = _changed("copy_paste_select", "random")
    copy_paste_min: float = _changed("copy_paste_min", 0.5)
    alpha: Literal["spatial", "scalar", "none"] = _changed("alpha", "none")
    soft_loss: bool = _changed("soft_loss", False)
    drop_loss: bool = _changed("drop_loss", False)
    max_iter: int = _changed("max_iter", 80_000)
    learning_rate: float = _changed("learning_rate", 0.005)
    decay_steps: tuple[int, ...] = _changed("decay_steps", ())
    weight_decay: float = _changed("weight_decay", 1e-4)
    rpn_post_nms: int = _changed("rpn_post_nms", 1000)
    rpn_nms: float = _changed("rpn_nms", 0.7)
