"""The detector: a class-agnostic Cascade Mask R-CNN on a ResNet with an FPN (paper: Sec. 4; other settings: CutLER).

It is written like detectron2's lazy configurations, as a tree of calls that `build_model` carries out.
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
from cuts3d_cli.detector.roi_heads import BoxPredictor, MaskCascadeROIHeads, MaskHead
from cuts3d_cli.images import IMAGENET_MEAN, IMAGENET_STD

CASCADE = ((0.5, (10, 10, 5, 5)), (0.6, (20, 20, 10, 10)), (0.7, (30, 30, 15, 15)))
"""Stage by stage: the IoU from which a box matches, and the weights of its regression."""
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


def model_config(config: TrainConfig, *, norm: str) -> Any:
    """Return the tree of calls that builds the detector.

    Args:
        config: the fields on the model, the losses and the test.
        norm: normalisation of backbone and FPN, one of detectron2's names.

    Returns:
        A lazy configuration for detectron2's `instantiate`.
    """
    width = config.fpn_channels
    return L(GeneralizedRCNN)(
        backbone=L(FPN)(
            bottom_up=_resnet(config, norm=norm),
            in_features=["res2", "res3", "res4", "res5"],
            out_channels=width,
            norm=norm,
            top_block=L(LastLevelMaxPool)(),
        ),
        proposal_generator=_proposals(config),
        roi_heads=_heads(config),
        pixel_mean=[255.0 * mean for mean in IMAGENET_MEAN],
        pixel_std=[255.0 * deviation for deviation in IMAGENET_STD],
        input_format="RGB",
    )


def _resnet(config: TrainConfig, *, norm: str) -> Any:
    """Return the backbone."""
    basic = config.resnet_depth < 50
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm=norm),
        # The ResNet-50 of torchvision and DINO has its stride in the 3x3 convolution.
        stages=L(ResNet.make_default_stages)(
            depth=config.resnet_depth, norm=norm, **({} if basic else {"stride_in_1x1": False})
        ),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=config.freeze_at,
    )


def _proposals(config: TrainConfig) -> Any:
    """Return the region proposal network."""
    return L(RPN)(
        in_features=[*_LEVELS, "p6"],
        head=L(StandardRPNHead)(in_channels=config.fpn_channels, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[size] for size in config.anchor_sizes],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[*_STRIDES, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=config.rpn_batch,
        positive_fraction=0.5,
        pre_nms_topk=(config.rpn_pre_nms, config.rpn_test_proposals),
        post_nms_topk=(config.rpn_post_nms, config.rpn_test_proposals),
        nms_thresh=config.rpn_nms,
    )


def _heads(config: TrainConfig) -> Any:
    """Return the cascade of box heads, and the mask head."""
    width = config.fpn_channels
    return L(MaskCascadeROIHeads)(
        num_classes=1,
        batch_size_per_image=config.roi_batch,
        positive_fraction=0.25,
        proposal_append_gt=True,
        # One matcher, head and predictor a stage, each stricter than the one before.
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou, _ in CASCADE
        ],
        box_in_features=list(_LEVELS),
        box_pooler=_pooler(7),
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=width, height=7, width=7),
                conv_dims=[],
                fc_dims=[config.box_head_width, config.box_head_width],
            )
            for _ in CASCADE
        ],
        box_predictors=[
            L(BoxPredictor)(
                input_shape=ShapeSpec(channels=config.box_head_width),
                box2box_transform=L(Box2BoxTransform)(weights=list(weights)),
                num_classes=1,
                cls_agnostic_bbox_reg=True,
                smooth_l1_beta=0.0,
                test_score_thresh=config.test_score,
                test_nms_thresh=config.test_nms,
                test_topk_per_image=config.test_detections,
                drop_iou=config.drop_loss_iou if config.drop_loss else None,
            )
            for _, weights in CASCADE
        ],
        # Masks of the boxes of the last stage.
        mask_in_features=list(_LEVELS),
        mask_pooler=_pooler(14),
        mask_head=L(MaskHead)(
            input_shape=ShapeSpec(channels=width, height=14, width=14),
            num_classes=1,
            conv_dims=[config.mask_head_width] * (config.mask_head_layers + 1),
            soft=config.soft_loss,
        ),
    )


def _pooler(size: int) -> Any:
    """Return a pooler of `size` by `size` features from the levels of the FPN."""
    return L(ROIPooler)(
        output_size=size, scales=[1 / stride for stride in _STRIDES], sampling_ratio=0, pooler_type="ROIAlignV2"
    )
