"""How a detector is run: the size of its photos, and which of its boxes become detections.

A detector brings these settings along: those that it was trained with, those of a detectron2 configuration, or named
ones for files whose authors publish them elsewhere. `predict.*` in the configuration overrides them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cuts3d_cli.config import PredictConfig, TestSettings, TrainConfig
from cuts3d_cli.detector.architecture import Architecture, Conventions
from cuts3d_cli.errors import Setting, SettingError
from cuts3d_cli.wording import counted


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """The settings of a detector at test time. The defaults are those of CutLER's first training.

    Attributes:
        min_size: shorter side of a photo, pixels; 0 leaves photos as they are.
        max_size: longest side of a photo, pixels.
        score: detections have a higher score.
        nms: IoU of the detections' non-maximum suppression.
        detections: most detections in a photo.
        proposals_a_level: proposals at each level of the FPN before their own suppression.
        proposals: proposals in a photo.
        proposal_nms: IoU of the proposals' suppression.
    """

    min_size: int = 800
    max_size: int = 1333
    score: float = 0.0
    nms: float = 0.5
    detections: int = 100
    proposals_a_level: int = 1000
    proposals: int = 1000
    proposal_nms: float = 0.65

    @classmethod
    def of_training(cls, config: TrainConfig) -> InferenceSettings:
        """Return what a training's configuration says of the test."""
        return cls(
            min_size=config.test_min_size,
            max_size=config.test_max_size,
            score=config.test_score,
            nms=config.test_nms,
            detections=config.test_detections,
            proposals_a_level=config.rpn_test_proposals,
            proposals=config.rpn_test_proposals,
            proposal_nms=config.rpn_nms,
        )

    def overridden(self, wanted: PredictConfig, *, architecture: Architecture) -> InferenceSettings:
        """Return the settings with those that the user set in place of the detector's own.

        Args:
            wanted: fields that are None are left as they are.
            architecture: of the detector.

        Raises:
            SettingError: a setting cannot take effect beside the others.
        """
        given: dict[str, Any] = {
            "min_size": wanted.test_min_size,
            "max_size": wanted.test_max_size,
            "score": wanted.min_score,
            "nms": wanted.nms,
            "detections": wanted.max_detections,
        }
        settings = replace(self, **{name: value for name, value in given.items() if value is not None})
        if wanted.test_min_size is not None and settings.min_size > settings.max_size:
            problem = f"{settings.min_size} has no effect, since no side is over {settings.max_size}: raise "
            raise SettingError("predict.test_min_size", problem, Setting("predict.test_max_size"))
        if wanted.test_max_size is not None and settings.min_size == 0:
            problem = f"{settings.max_size} has no effect: photos keep their size where "
            raise SettingError("predict.test_max_size", problem, Setting("predict.test_min_size"), " is 0")
        # A box can be a detection of each class.
        most = settings.proposals * architecture.classes
        if wanted.max_detections is not None and settings.detections > most:
            problem = f"{settings.detections} has no effect: this detector has at most {most} detections in a photo"
            raise SettingError("predict.max_detections", problem)
        return settings

    def __str__(self) -> str:
        size = f"at {self.min_size} pixels (at most {self.max_size})" if self.min_size else "at their own size"
        return (
            f"photos {size}, score over {self.score:g}, NMS {self.nms:g}, at most"
            f" {counted(self.detections, 'detection')} of"
            f" {self.proposals} proposals (NMS {self.proposal_nms:g})"
        )


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """What must be known of a detector beside its tensors.

    Attributes:
        conventions: what they do not tell of the network.
        inference: its settings at test time.
    """

    conventions: Conventions = Conventions()
    inference: InferenceSettings = InferenceSettings()


NAMED: Mapping[TestSettings, DetectorSettings] = {
    # CutLER, CuVLER and UnionCut, as they are trained on ImageNet.
    "cutler": DetectorSettings(),
    # CutLER's files of supervised training on COCO, with 80 classes.
    "cutler-supervised": DetectorSettings(inference=InferenceSettings(score=0.05, proposal_nms=0.7)),
    # CutS3D's own zero-shot file.
    "cuts3d-authors": DetectorSettings(inference=InferenceSettings(min_size=360, detections=10)),
    # The model zoo of detectron2, whose ResNets are Caffe's.
    "detectron2-zoo": DetectorSettings(
        conventions=Conventions(
            colours="BGR", pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0), stride_in_1x1=True
        ),
        inference=InferenceSettings(score=0.05, proposal_nms=0.7),
    ),
}
"""What goes with files that are published as tensors alone, by the name that `predict.test_settings` takes."""
