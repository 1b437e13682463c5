"""Configurations of detectron2: read as data alone, compared with what a file of tensors holds, and written.

detectron2 itself falls back to a reader that runs Python code which a YAML file names. Here such a file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import PredictConfig
from cuts3d_cli.config.fields import limits_problem
from cuts3d_cli.detector.architecture import CASCADE, Architecture, Conventions
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.errors import FileError, Setting
from cuts3d_cli.wording import Say, cause, listed

if TYPE_CHECKING:
    from detectron2.config import CfgNode

_MOST_BYTES, _MOST_VALUES, _MOST_BASES = 1_000_000, 100_000, 10
_MOST_PROPOSALS = 10**6
_BASE, _VERSION = "_BASE_", 2
_ALIKE = {
    **dict.fromkeys(("BN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN"), "batch norm"),
    "CustomCascadeROIHeads": "CascadeROIHeads",
    "CustomStandardROIHeads": "StandardROIHeads",
    "CustomMaskRCNNConvUpsampleHead": "MaskRCNNConvUpsampleHead",
}
"""Names that mean the same at test time: kinds of batch norm, and CutLER's and CuVLER's heads, whose losses differ."""
_OF_TRAINING = ("FREEZE_AT", "IOUS", "VERSION")
"""Fields of `config_tree` that say nothing about detections."""


def config_tree(
    architecture: Architecture, conventions: Conventions, inference: InferenceSettings, *, norm: str = "BN"
) -> dict[str, Any]:
    """Return a detector as detectron2's configuration: all that shapes what it detects.

    Args:
        architecture: what its tensors tell of it.
        conventions: what they do not tell.
        inference: its settings at test time.
        norm: detectron2's name of the batch norm.

    Returns:
        Section -> field -> value, plain values alone.
    """
    levels, cascaded = ["p2", "p3", "p4", "p5"], architecture.head == "cascade"
    stages = ["res2", "res3", "res4", "res5"]
    pooling = {"POOLER_SAMPLING_RATIO": 0, "POOLER_TYPE": "ROIAlignV2"}
    backbone = {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": architecture.resnet_depth,
            "OUT_FEATURES": stages,
            "NUM_GROUPS": 1,
            "NORM": norm,
            "WIDTH_PER_GROUP": 64,
            "STRIDE_IN_1X1": conventions.stride_in_1x1,
            "RES5_DILATION": 1,
            "RES2_OUT_CHANNELS": 256 if architecture.resnet_depth >= 50 else 64,
            "STEM_OUT_CHANNELS": 64,
            "DEFORM_ON_PER_STAGE": [False] * 4,
        },
        "FPN": {
            "IN_FEATURES": stages,
            "OUT_CHANNELS": architecture.fpn_channels,
            "NORM": norm if architecture.fpn_norm else "",
            "FUSE_TYPE": "sum",
        },
    }
    proposals = {
        "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
        "ANCHOR_GENERATOR": {
            "NAME": "DefaultAnchorGenerator",
            "SIZES": [[size] for size in conventions.anchor_sizes],
            "ASPECT_RATIOS": [list(conventions.aspect_ratios)],
            "OFFSET": 0.0,
        },
        "RPN": {
            "HEAD_NAME": "StandardRPNHead",
            "IN_FEATURES": [*levels, "p6"],
            "BBOX_REG_WEIGHTS": [1.0] * 4,
            "CONV_DIMS": [-1],
            "PRE_NMS_TOPK_TEST": inference.proposals_a_level,
            "POST_NMS_TOPK_TEST": inference.proposals,
            "NMS_THRESH": inference.proposal_nms,
        },
    }
    weights = [list(map(float, item)) for item in conventions.box_weights[: architecture.stages]]
    heads = {
        "ROI_HEADS": {
            "NAME": "CascadeROIHeads" if cascaded else "StandardROIHeads",
            "IN_FEATURES": levels,
            "NUM_CLASSES": architecture.classes,
            "SCORE_THRESH_TEST": inference.score,
            "NMS_THRESH_TEST": inference.nms,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": 0,
            "NUM_FC": architecture.box_layers,
            "FC_DIM": architecture.box_width,
            "POOLER_RESOLUTION": architecture.box_pool,
            "CLS_AGNOSTIC_BBOX_REG": not architecture.box_per_class,
            **({} if cascaded else {"BBOX_REG_WEIGHTS": weights[0]}),
            **pooling,
        },
        **({"ROI_BOX_CASCADE_HEAD": {"BBOX_REG_WEIGHTS": weights, "IOUS": _ious(len(weights))}} if cascaded else {}),
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": architecture.mask_layers,
            "CONV_DIM": architecture.mask_width,
            "NORM": "",
            "POOLER_RESOLUTION": conventions.mask_pool,
            "CLS_AGNOSTIC_MASK": not architecture.mask_per_class,
            **pooling,
        },
    }
    whole = {"META_ARCHITECTURE": "GeneralizedRCNN", "MASK_ON": True, "KEYPOINT_ON": False, "LOAD_PROPOSALS": False}
    pixels = {"PIXEL_MEAN": list(conventions.pixel_mean), "PIXEL_STD": list(conventions.pixel_std)}
    return {
        "VERSION": _VERSION,
        "MODEL": {**whole, **pixels, **backbone, **proposals, **heads},
        "INPUT": {
            "FORMAT": conventions.colours,
            "MIN_SIZE_TEST": inference.min_size,
            "MAX_SIZE_TEST": inference.max_size,
        },
        "TEST": {"DETECTIONS_PER_IMAGE": inference.detections},
    }


def find_config(weights: Path) -> Path | None:
    """Return the configuration that lies beside a file of weights: of its name, or as detectron2 calls it."""
    names = [weights.with_suffix(".yaml"), weights.with_suffix(".yml"), weights.with_name("config.yaml")]
    return next((path for path in names if path.is_file()), None)


def read_config(path: Path, *, say: Say) -> CfgNode:
    """Read a configuration of detectron2, on top of its defaults. Fields that detectron2 does not know are kept.

    Args:
        path: of the YAML file. Those that it is based on are read, too.
        say: prints a status line.

    Raises:
        FileError: a file is missing, or is no such configuration.
    """
    from detectron2.config import CfgNode, get_cfg

    content = _content(path, say=say, bases=0)
    if content.get("VERSION", _VERSION) != _VERSION:
        raise FileError(f"{path} is of version {content['VERSION']}: detectron2's are of version {_VERSION} today")
    config = get_cfg()
    config.set_new_allowed(True)
    try:
        config.merge_from_other_cfg(CfgNode(content))
    except Exception as error:  # yacs raises assertions, KeyError and ValueError, each with its reason
        raise FileError(f"{path} is no configuration of detectron2: {cause(error)}") from error
    return config


def conventions_of(config: CfgNode, *, path: Path) -> Conventions:
    """Return what a configuration tells of a network beside its tensors.

    Raises:
        FileError: a field has a value of another kind; `path` is the file.
    """
    model = config.MODEL
    cascaded = "Cascade" in str(model.ROI_HEADS.NAME)
    try:
        found = Conventions(
            colours=config.INPUT.FORMAT,
            pixel_mean=tuple(map(float, model.PIXEL_MEAN)),
            pixel_std=tuple(map(float, model.PIXEL_STD)),
            stride_in_1x1=model.RESNETS.STRIDE_IN_1X1,
            anchor_sizes=tuple(_number(sizes[0]) for sizes in model.ANCHOR_GENERATOR.SIZES),
            aspect_ratios=tuple(map(float, model.ANCHOR_GENERATOR.ASPECT_RATIOS[0])),
            box_weights=tuple(
                tuple(map(_number, weights))
                for weights in (
                    model.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS if cascaded else [model.ROI_BOX_HEAD.BBOX_REG_WEIGHTS]
                )
            ),
            mask_pool=model.ROI_MASK_HEAD.POOLER_RESOLUTION,
        )
        problem = found.problem()
    except (TypeError, ValueError, IndexError) as error:
        raise FileError(f"{path} is no configuration of a Mask R-CNN with an FPN: {cause(error)}") from error
    if problem:
        raise FileError(f"{path} is no configuration of a detector that can be built: {problem}")
    return found


def _number(value: Any) -> float:
    """Return a number as trainings record it, whole ones without a fraction: equal settings are written alike."""
    number = float(value)
    return int(number) if number.is_integer() else number


def inference_of(config: CfgNode, *, path: Path) -> InferenceSettings:
    """Return a configuration's settings at test time.

    Raises:
        FileError: one is out of its limits; `path` is the file.
    """
    model, photos = config.MODEL, config.INPUT
    proposals = model.RPN.POST_NMS_TOPK_TEST
    most = config.TEST.DETECTIONS_PER_IMAGE
    settings = InferenceSettings(
        min_size=photos.MIN_SIZE_TEST,
        max_size=photos.MAX_SIZE_TEST,
        score=model.ROI_HEADS.SCORE_THRESH_TEST,
        nms=model.ROI_HEADS.NMS_THRESH_TEST,
        # A negative number stands for all.
        detections=most if most >= 0 else proposals * model.ROI_HEADS.NUM_CLASSES,
        proposals_a_level=model.RPN.PRE_NMS_TOPK_TEST,
        proposals=proposals,
        proposal_nms=model.RPN.NMS_THRESH,
    )
    as_wanted = PredictConfig(
        test_min_size=settings.min_size,
        test_max_size=settings.max_size,
        min_score=settings.score,
        nms=settings.nms,
        max_detections=settings.detections,
    )
    for name, value, least, most in (
        ("PRE_NMS_TOPK_TEST", settings.proposals_a_level, 1, _MOST_PROPOSALS),
        ("POST_NMS_TOPK_TEST", settings.proposals, 1, _MOST_PROPOSALS),
        ("NMS_THRESH", settings.proposal_nms, 0, 1),
    ):
        if not least <= value <= most:
            raise FileError(f"{path}: MODEL.RPN.{name} is {value}: it must lie between {least} and {most}")
    for item in fields(as_wanted):
        if problem := limits_problem(item, getattr(as_wanted, item.name)):
            raise FileError(f"{path}: what corresponds to ", Setting(f"predict.{item.name}"), f" {problem}")
    return settings


def check_describes(config: CfgNode, tree: Mapping[str, Any], *, path: Path, weights: Path) -> None:
    """Check that a configuration describes the detector that a file of weights holds, and nothing that cannot be built.

    Args:
        config: of the file `path`.
        tree: the detector as `config_tree` gives it.
        path: of the configuration, for the error.
        weights: of the detector, for the error.

    Raises:
        FileError: fields differ; the line names the first ones.
    """
    single = tree["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 1
    differing = []
    for name, value in _leaves(tree):
        section: Any = config
        for part in name.split("."):
            section = section.get(part) if isinstance(section, Mapping) else None
        # With one class there is no difference.
        same = (single and "CLS_AGNOSTIC" in name) or _plain(section) == _plain(value)
        # A negative number of detections stands for all, as many as `inference_of` has made of it.
        same |= name == "TEST.DETECTIONS_PER_IMAGE" and isinstance(section, int) and section < 0
        if not same and name.rpartition(".")[2] not in _OF_TRAINING:
            differing.append(f"{name} {section}, not {value}")
    if differing:
        raise FileError(
            f"{path} does not describe the detector in {weights}, or one that cannot be built ({listed(differing)}):"
            " name its own with ",
            Setting("predict.detectron2_config"),
            ", or leave it aside with ",
            Setting("predict.test_settings"),
        )


def to_yaml(tree: Mapping[str, Any]) -> bytes:
    """Return a configuration as a YAML file."""
    import yaml

    return yaml.safe_dump(dict(tree), sort_keys=True, default_flow_style=None, width=110).encode()


def _ious(stages: int) -> list[float]:
    """Return the IoU from which a box matches at each stage, as far as it is known; it matters in training alone."""
    known = [iou for iou, _ in CASCADE]
    return [*known, *[known[-1]] * stages][:stages]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a tree by their whole names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    """Return a value so that equal ones compare as equal: lists for tuples, one name for all that mean the same."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return _ALIKE.get(value, value) if isinstance(value, str) else value


def _content(path: Path, *, say: Say, bases: int) -> dict[str, Any]:
    """Return the sections of a YAML file over those of the files that it is based on.

    Raises:
        FileError: a file is missing, or is no such configuration.
    """
    content = _parsed(path)
    named = content.pop(_BASE, [])
    whole: dict[str, Any] = {}
    for base in [named] if isinstance(named, str) else named:
        if not isinstance(base, str) or "://" in base or bases >= _MOST_BASES:
            raise FileError(f"{path} is based on {base!r}, which is not read: put that file beside it")
        found = path.parent / Path(base).expanduser()
        if not found.is_file():
            found = _packaged(base, path=path)
            say(f"{path.name} is based on {base}, which is missing: detectron2's own is taken")
        _put(_content(found, say=say, bases=bases + 1), whole)
    _put(content, whole)
    return whole


def _parsed(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file: plain values, without Python objects."""
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise FileError(f"{path} is no configuration of detectron2: it has more than {_MOST_BYTES} bytes")
        content = yaml.safe_load(text)
        _count(content, most=_MOST_VALUES)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.constructor.ConstructorError as error:
        raise FileError(f"{path} holds {error.problem or 'what is no data'}: Python code in it is never run") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(f"{path} is no YAML: {cause(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise FileError(f"{path} is no configuration of detectron2: it holds no sections")
    return content


def _count(value: Any, *, most: int) -> int:
    """Count the values in a tree. A few references can stand for more than fits into memory, or for themselves.

    Raises:
        ValueError: there are more than `most`.
    """
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    count = 1
    for item in items:
        count += _count(item, most=most - count)
        if count > most:
            raise ValueError("it stands for too many values")
    return count


def _packaged(base: str, *, path: Path) -> Path:
    """Return the file of detectron2's model zoo that has the name of a missing base.

    Raises:
        FileError: there is none.
    """
    import detectron2

    found = Path(detectron2.__file__).parent / "model_zoo" / "configs" / Path(base).name
    if not found.is_file():
        raise FileError(f"{path} is based on {base}, which is missing: put it there")
    return found


def _put(values: Mapping[str, Any], into: dict[str, Any]) -> None:
    """Put the sections of a configuration over those of another."""
    for name, value in values.items():
        there = into.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            _put(value, there)
        else:
            into[name] = value
