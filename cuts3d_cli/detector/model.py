"""The detector: a Mask R-CNN on a ResNet with an FPN, cascaded or plain (paper: Sec. 4; other settings: CutLER).

It is written like detectron2's lazy configurations, as a tree of calls. `build_model` builds what is trained,
`build_network` what a file holds.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from cuts3d_cli.config import TrainConfig
from cuts3d_cli.detector.architecture import CASCADE, Architecture, Conventions
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.detector.roi_heads import BoxPredictor, MaskCascadeROIHeads, MaskHead, MaskROIHeads

_LEVELS = ("p2", "p3", "p4", "p5")
_STRIDES = (4, 8, 16, 32)


def build_model(config: TrainConfig, *, device: str | torch.device, distributed: bool = False) -> GeneralizedRCNN:
    """Build the detector with random weights.

    Args:
        config: the fields on the model, the losses and the test.
        device: the model's device.
        distributed: whether several processes train it. SyncBN in a single process or on a CPU is plain batch norm.

    Returns:
        The model, in training mode.
    """
    synchronised = distributed and torch.device(device).type == "cuda"
    norm = config.norm if config.norm != "SyncBN" or synchronised else "BN"
    model: GeneralizedRCNN = instantiate(model_config(config, norm=norm))
    return model.to(device)


def build_network(
    architecture: Architecture, conventions: Conventions, inference: InferenceSettings
) -> GeneralizedRCNN:
    """Build a detector for inference, with random weights, on the CPU.

    Args:
        architecture: what its tensors tell of it.
        conventions: what they do not tell.
        inference: its settings at test time.

    Returns:
        The model, in evaluation mode. Its batch norm is plain: on fixed statistics all kinds compute the same.
    """
    tree = _network(architecture, conventions, inference, training=TrainConfig(), norm="BN")
    model: GeneralizedRCNN = instantiate(tree)
    return model.eval()


def model_config(config: TrainConfig, *, norm: str) -> Any:
    """Return the tree of calls that builds the detector for training.

    Args:
        config: the fields on the model, the losses and the test.
        norm: normalisation of backbone and FPN, one of detectron2's names.

    Returns:
        A lazy configuration for detectron2's `instantiate`.
    """
    return _network(
        Architecture.of_training(config),
        Conventions.of_training(config),
        InferenceSettings.of_training(config),
        training=config,
        norm=norm,
    )


def _network(
    architecture: Architecture,
    conventions: Conventions,
    inference: InferenceSettings,
    *,
    training: TrainConfig,
    norm: str,
) -> Any:
    """Return the tree of calls; of the training's configuration it takes the losses and their samples alone."""
    return L(GeneralizedRCNN)(
        backbone=L(FPN)(
            bottom_up=_resnet(architecture, conventions, training, norm=norm),
            in_features=["res2", "res3", "res4", "res5"],
            out_channels=architecture.fpn_channels,
            norm=norm if architecture.fpn_norm else "",
            top_block=L(LastLevelMaxPool)(),
        ),
        proposal_generator=_proposals(architecture, conventions, inference, training),
        roi_heads=_heads(architecture, conventions, inference, training),
        pixel_mean=list(conventions.pixel_mean),
        pixel_std=list(conventions.pixel_std),
        input_format=conventions.colours,
    )


def _resnet(architecture: Architecture, conventions: Conventions, training: TrainConfig, *, norm: str) -> Any:
    """Return the backbone."""
    # Blocks of two convolutions have no 1x1 one.
    stride = {} if architecture.resnet_depth < 50 else {"stride_in_1x1": conventions.stride_in_1x1}
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm=norm),
        stages=L(ResNet.make_default_stages)(depth=architecture.resnet_depth, norm=norm, **stride),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=training.freeze_at,
    )


def _proposals(
    architecture: Architecture, conventions: Conventions, inference: InferenceSettings, training: TrainConfig
) -> Any:
    """Return the region proposal network."""
    return L(RPN)(
        in_features=[*_LEVELS, "p6"],
        head=L(StandardRPNHead)(in_channels=architecture.fpn_channels, num_anchors=architecture.anchors),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[size] for size in conventions.anchor_sizes],
            aspect_ratios=list(conventions.aspect_ratios),
            strides=[*_STRIDES, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=training.rpn_batch,
        positive_fraction=0.5,
        pre_nms_topk=(training.rpn_pre_nms, inference.proposals_a_level),
        post_nms_topk=(training.rpn_post_nms, inference.proposals),
        nms_thresh=inference.proposal_nms,
    )


def _heads(
    architecture: Architecture, conventions: Conventions, inference: InferenceSettings, training: TrainConfig
) -> Any:
    """Return the box heads, of which the cascade has several, and the mask head."""
    width = architecture.fpn_channels
    # One matcher, head and predictor a stage, each stricter than the one before.
    matchers = [L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou, _ in CASCADE]
    box_heads = [
        L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(channels=width, height=architecture.box_pool, width=architecture.box_pool),
            conv_dims=[],
            fc_dims=[architecture.box_width] * architecture.box_layers,
        )
        for _ in range(architecture.stages)
    ]
    predictors = [
        L(BoxPredictor)(
            input_shape=ShapeSpec(channels=architecture.box_width),
            box2box_transform=L(Box2BoxTransform)(weights=list(weights)),
            num_classes=architecture.classes,
            cls_agnostic_bbox_reg=not architecture.box_per_class,
            smooth_l1_beta=0.0,
            test_score_thresh=inference.score,
            test_nms_thresh=inference.nms,
            test_topk_per_image=inference.detections,
            drop_iou=training.drop_loss_iou if training.drop_loss else None,
        )
        for weights in conventions.box_weights[: architecture.stages]
    ]
    parts: dict[str, Any] = (
        {"proposal_matchers": matchers, "box_heads": box_heads, "box_predictors": predictors}
        if architecture.head == "cascade"
        else {"proposal_matcher": matchers[0], "box_head": box_heads[0], "box_predictor": predictors[0]}
    )
    return L(MaskCascadeROIHeads if architecture.head == "cascade" else MaskROIHeads)(
        num_classes=architecture.classes,
        batch_size_per_image=training.roi_batch,
        positive_fraction=0.25,
        proposal_append_gt=True,
        box_in_features=list(_LEVELS),
        box_pooler=_pooler(architecture.box_pool),
        **parts,
        # Masks of the boxes of the last stage.
        mask_in_features=list(_LEVELS),
        mask_pooler=_pooler(conventions.mask_pool),
        mask_head=L(MaskHead)(
            input_shape=ShapeSpec(channels=width, height=conventions.mask_pool, width=conventions.mask_pool),
            num_classes=architecture.classes if architecture.mask_per_class else 1,
            conv_dims=[architecture.mask_width] * (architecture.mask_layers + 1),
            soft=training.soft_loss,
        ),
    )


def _pooler(size: int) -> Any:
    """Return a pooler of `size` by `size` features from the levels of the FPN."""
    return L(ROIPooler)(
        output_size=size, scales=[1 / stride for stride in _STRIDES], sampling_ratio=0, pooler_type="ROIAlignV2"
    )
