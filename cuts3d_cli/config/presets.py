"""Named configurations, derived from the defaults by replacing fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cuts3d_cli.config.sections import Config

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
    # Tuned on every other scene of sets of table-top photos, with sensor depth; the other half is what was reported.
    "objects": replace(
        PAPER,
        pseudo=replace(
            PAPER.pseudo,
            instances="all",
            cloud="perspective",
            tau_knn="auto",
            concavity=0.03,
            border=0.25,
            planes=0.15,
            parts=2,
            after_small="continue",
            measured=0.3,
            specks=0.05,
            crf_failed="keep",
            source="core",
            min_area=0.0075,
            depth_clip=2.0,
        ),
    ),
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


def default_preset(*, metric_depth: bool) -> str:
    """Return the preset for photos where nobody names one: `objects` where metric depth is given, else the paper's."""
    return "objects" if metric_depth else "paper"


PRESET_HELP = (
    "paper: the paper's values; best: finds more objects; objects: all objects of photos with metric depth; maskcut:"
    " CutLER's masks; offline: no model hub (backbone from PyPI, sensor depth); cutler: CutLER's masks and training;"
    " tiny: a small detector, for a CPU; in-domain: self-training on other images."
)
