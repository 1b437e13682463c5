"""Detectors from files: those of `cuts3d train`, and of everybody who trains with detectron2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cuts3d_cli.config import PredictConfig, SelfTrainConfig, TrainConfig
from cuts3d_cli.detector.architecture import Architecture, Conventions, own_tensors_of, read_architecture
from cuts3d_cli.detector.checkpoints import read_trained
from cuts3d_cli.detector.detectron2_config import (
    check_describes,
    config_tree,
    conventions_of,
    find_config,
    inference_of,
    read_config,
)
from cuts3d_cli.detector.inference_settings import NAMED, DetectorSettings, InferenceSettings
from cuts3d_cli.errors import Part, Setting, SettingError, WeightsError
from cuts3d_cli.weights.checkpoint import load_into
from cuts3d_cli.wording import Say, counted

if TYPE_CHECKING:
    from detectron2.modeling.meta_arch import GeneralizedRCNN
    from torch import Tensor

_OF_CLASSES = ("cls_score", "bbox_pred", "mask_head.predictor")
"""Ends of the names of layers whose size depends on the classes."""


@dataclass(frozen=True, kw_only=True)
class StoredDetector:
    """A detector as its file holds it, with the settings that are in force.

    Attributes:
        path: of the file.
        weights: by detectron2's names.
        architecture: what the tensors tell of the network.
        conventions: what they do not tell.
        inference: the settings at test time.
        origin: where these are from, in a few words.
        own: the settings that a detector of `cuts3d train` brings along; None for all others.
    """

    path: Path
    weights: dict[str, Tensor]
    architecture: Architecture
    conventions: Conventions
    inference: InferenceSettings
    origin: str
    own: DetectorSettings | None

    def build(self) -> GeneralizedRCNN:
        """Build the network with its weights, for inference, on the CPU.

        Raises:
            WeightsError: tensors are missing, unknown or of another shape.
        """
        from cuts3d_cli.detector.model import build_network

        network = build_network(self.architecture, self.conventions, self.inference)
        load_into(network, self.weights, what=f"a {self.architecture}", path=self.path)
        return network

    def recorded(self) -> dict[str, Any]:
        """Return what manifests record of the settings, in plain values: all that the file itself does not tell."""
        now = _facts(self.conventions, self.inference)
        own = {} if self.own is None else _facts(self.own.conventions, self.own.inference)
        always = ("min_score", "max_detections")
        return {name: value for name, value in now.items() if name in always or name not in own or value != own[name]}

    def __str__(self) -> str:
        return f"{self.architecture}; {self.inference} ({self.origin})"


def load_detector(path: Path, wanted: PredictConfig, *, say: Say) -> StoredDetector:
    """Read a detector from a file.

    Args:
        path: what `cuts3d train` wrote, or tensors by detectron2's names: a state dict, alone or within the checkpoint
            of a training.
        wanted: what the user says of its settings.
        say: is told what the detector is and which settings are in force.

    Returns:
        The detector. Whether the weights fit its network to the last tensor shows when it is built.

    Raises:
        WeightsError: the file is missing, damaged, or holds no detector that can be built.
        FileError: a configuration cannot be read, or describes another detector.
        SettingError: a setting cannot take effect.
    """
    if wanted.detectron2_config is not None and wanted.test_settings is not None:
        other = Setting("predict.detectron2_config")
        raise SettingError("predict.test_settings", "does not go with ", other, ", which says the same: leave one out")
    found = _read(path)
    settings, origin = _settings(found, wanted, say=say)
    _check_constants(found, settings.conventions)
    inference = settings.inference.overridden(wanted, architecture=found.architecture)
    detector = StoredDetector(
        path=path,
        weights=found.weights,
        architecture=found.architecture,
        conventions=settings.conventions,
        inference=inference,
        own=found.own,
        origin=origin if inference == settings.inference else f"{origin}, changed as asked for",
    )
    say(f"{path.name}: {detector}")
    return detector


def _facts(conventions: Conventions, inference: InferenceSettings) -> dict[str, Any]:
    """Return settings as plain values, under the names of the section `predict` where it has them."""
    facts = asdict(conventions) | asdict(inference)
    names = {
        "min_size": "test_min_size",
        "max_size": "test_max_size",
        "score": "min_score",
        "detections": "max_detections",
    }
    return {names.get(name, name): value for name, value in facts.items()}


def check_start(path: Path, *, config: TrainConfig, say: Say) -> None:
    """Check that a training can start from a detector, before anything is done.

    Args:
        path: as for `load_detector`.
        config: of the training.
        say: prints a status line.

    Raises:
        WeightsError, FileError, SettingError: as for `load_start`.
    """
    _fitting(path, config=config, say=say)


def load_start(model: torch.nn.Module, path: Path, *, config: TrainConfig, say: Say) -> None:
    """Load the weights of the detector that a training starts from.

    Of a detector of many classes all but the last layers of its heads is taken: to the training all classes are one.

    Args:
        model: as `build_model` builds it; takes the weights.
        path: as for `load_detector`.
        config: of the training.
        say: prints a status line.

    Raises:
        WeightsError: the file is missing or damaged, or holds another network than the training's.
        FileError: the configuration beside it cannot be read, or describes another detector.
        SettingError: the training is of another head or depth.
    """
    found = _fitting(path, config=config, say=say)
    random = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[0].endswith(_OF_CLASSES)
        and name in found.weights
        and found.weights[name].shape != tensor.shape
    }
    if found.architecture.classes > 1:
        say(
            f"{path.name}: its {found.architecture.classes} classes become one, so"
            f" {counted(len(random), 'tensor')} start anew"
        )
    else:
        random = {}
    load_into(model, {**found.weights, **random}, what="this detector", path=path)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a file of weights tells, without anything beside it.

    Attributes:
        path: of the file.
        weights: by detectron2's names.
        constants: what older files hold beside them.
        architecture: what they are for.
        own: the settings that a detector of `cuts3d train` brings along; None for all others.
    """

    path: Path
    weights: dict[str, Tensor]
    constants: dict[str, Tensor]
    architecture: Architecture
    own: DetectorSettings | None


def _read(path: Path) -> _Found:
    """Read a file of weights.

    Raises:
        WeightsError: it is missing, damaged, or holds no detector that can be built.
    """
    tensors, trained = read_trained(path)
    if trained is not None:
        settings = DetectorSettings(
            conventions=Conventions.of_training(trained), inference=InferenceSettings.of_training(trained)
        )
        architecture = Architecture.of_training(trained)
        return _Found(path=path, weights=tensors, constants={}, architecture=architecture, own=settings)
    weights, constants = own_tensors_of(tensors, path=path)
    architecture = read_architecture(weights, path=path)
    return _Found(path=path, weights=weights, constants=constants, architecture=architecture, own=None)


def _settings(found: _Found, wanted: PredictConfig, *, say: Say) -> tuple[DetectorSettings, str]:
    """Return the settings of a detector before the user's single ones, and where they are from.

    Raises:
        WeightsError: nothing tells them.
        FileError: the configuration cannot be read, or describes another detector.
    """
    config, name = wanted.detectron2_config, wanted.test_settings
    if config is None and name is None and found.own is None:
        config = find_config(found.path)
    if config is not None:
        return _configured(found, config, say=say), str(config)
    if name is not None:
        named = NAMED[name]
        return (named if found.own is None else replace(named, conventions=found.own.conventions)), name
    if found.own is not None:
        return found.own, "as it was trained"
    if found.architecture.fpn_norm and found.architecture.classes == 1:
        return NAMED["cutler"], "as CutLER's, which it is like"
    how: list[Part] = [Setting("predict.detectron2_config"), " or ", Setting("predict.test_settings")]
    what = f"{found.path} holds a {found.architecture}, and nothing beside it says how its photos are prepared: name "
    raise WeightsError(what, *how)


def _configured(found: _Found, config: Path, *, say: Say) -> DetectorSettings:
    """Return the settings of a configuration that describes a detector.

    Raises:
        FileError: it cannot be read, or describes another detector.
    """
    read = read_config(config, say=say)
    conventions = conventions_of(read, path=config) if found.own is None else found.own.conventions
    settings = DetectorSettings(conventions=conventions, inference=inference_of(read, path=config))
    tree = config_tree(found.architecture, conventions, settings.inference)
    check_describes(read, tree, path=config, weights=found.path)
    return settings


def _check_constants(found: _Found, conventions: Conventions) -> None:
    """Check conventions against a file's tensors, as far as these tell of them.

    Raises:
        WeightsError: they do not fit.
    """
    facts = {"pixel_mean": conventions.pixel_mean, "pixel_std": conventions.pixel_std}
    problems = [
        f"its {name} is {stored.flatten().tolist()}, not {list(facts[name])}"
        for name, stored in found.constants.items()
        if name in facts and not _equal(stored, facts[name])
    ]
    architecture = found.architecture
    if architecture.anchors != len(conventions.aspect_ratios):
        problems.append(f"it has {architecture.anchors} anchors at a place, not {len(conventions.aspect_ratios)}")
    if architecture.stages > len(conventions.box_weights):
        problems.append(f"it has {architecture.stages} box heads, not {len(conventions.box_weights)}")
    if problems:
        way_out = ": name its own settings with ", Setting("predict.detectron2_config")
        raise WeightsError(f"{found.path} does not fit its settings: {problems[0]}", *way_out)


def _fitting(path: Path, *, config: TrainConfig, say: Say) -> _Found:
    """Read a detector that a training is to start from.

    Raises:
        WeightsError, FileError, SettingError: as for `load_start`.
    """
    found = _read(path)
    # The head and the depth can be chosen.
    section = "selftrain" if isinstance(config, SelfTrainConfig) else "train"
    for field, has, trained in (
        ("head", found.architecture.head, config.head),
        ("resnet_depth", found.architecture.resnet_depth, config.resnet_depth),
    ):
        if has != trained:
            problem = f"is {trained}, which does not fit {path}, a {found.architecture}: train with "
            raise SettingError(f"{section}.{field}", problem, Setting(f"{section}.{field}", has))
    # How photos and boxes are prepared cannot.
    ours = Conventions.of_training(config)
    beside = find_config(path) if found.own is None else None
    own = _configured(found, beside, say=say) if beside else found.own
    if own is not None:
        stages = found.architecture.stages
        here, there = (replace(item, box_weights=item.box_weights[:stages]) for item in (ours, own.conventions))
        for item in fields(Conventions):
            has, trained = getattr(there, item.name), getattr(here, item.name)
            if has != trained:
                raise WeightsError(f"{path} does not fit this training: its {item.name} is {has}, here it is {trained}")
    _check_constants(found, ours)
    return found


def _equal(stored: Tensor, values: Sequence[float]) -> bool:
    return stored.numel() == len(values) and torch.allclose(stored.flatten().float(), torch.tensor(values))
