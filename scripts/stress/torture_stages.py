"""The commands that `torture` runs, with settings that compute as little as the method allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IMAGES = 3
"""Number of images in a shard."""
_NETWORK = ("--backbone", "dino-vits16", "--size", "224", "--device", "cpu")
_FEATURES = ("features", "--shards", ".", *_NETWORK, "--weights", "{weights}")
_PSEUDO = ("pseudo", "--shards", ".", *_NETWORK, "--crf-size", "64", "--tau-knn", "0.2")
_DETECTOR = "detector-initial/model-final.safetensors"
_TRAINING: Mapping[str, Any] = {
    "max_iter": 6,
    "checkpoint_every": 3,
    "log_every": 1,
    "images_per_batch": 2,
    "min_sizes": "48,64",
    "max_size": 96,
    "test_min_size": 64,
    "test_max_size": 96,
    "warmup_iter": 2,
    "decay_steps": 4,
    "precise_bn": 2,
    "rpn_pre_nms": 50,
    "rpn_post_nms": 20,
    "roi_batch": 16,
    "fpn_channels": 16,
    "box_head_width": 16,
    "mask_head_width": 16,
}
"""Changes to preset `tiny`, with which a training takes seconds."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command that is tortured.

    Attributes:
        words: the command and its arguments.
        after: the stage from whose output it starts; None starts from an empty folder.
        share: of all kills, in parts.
        workers: whether it has worker processes.
        team: whether several processes of one run share the shards; what these do is struck at random times only.
        shared: whether several processes may run it on the same folder.
        training: folder of its training; None if it trains nothing.
    """

    words: tuple[str, ...]
    after: str | None
    share: int
    workers: bool = False
    team: bool = False
    shared: bool = True
    training: str | None = None

    @property
    def before(self) -> tuple[str, ...]:
        """All stages that must have run, in order."""
        return () if self.after is None else (*STAGES[self.after].before, self.after)


def _trained(section: str, **further: object) -> tuple[str, ...]:
    settings = {**_TRAINING, **further}
    return (
        "--preset",
        "tiny",
        "--device",
        "cpu",
        *(f"--set={section}.{name}={value}" for name, value in settings.items()),
    )


STAGES: Mapping[str, Stage] = {
    "pack": Stage(
        words=(
            *("pack", "{source}/images", "--out", ".", "--name", "s"),
            *("--depth-dir", "{source}/depth", "--shard-size", str(IMAGES)),
        ),
        after=None,
        share=4,
    ),
    "depth": Stage(words=("depth", "--shards", ".", "--backend", "sensor"), after="pack", share=4),
    "depth-gpus": Stage(
        words=("depth", "--shards", ".", "--backend", "sensor", "--device", "cpu", "--gpus", "2"),
        after="pack",
        share=2,
        team=True,
    ),
    "features": Stage(words=_FEATURES, after="depth", share=3),
    "features-readers": Stage(words=(*_FEATURES, "-j", "2"), after="depth", share=1, workers=True),
    # It reads the stored features, and loads no network.
    "pseudo": Stage(words=(*_PSEUDO, "-j", "0"), after="features", share=4),
    "pseudo-workers": Stage(words=(*_PSEUDO, "-j", "2"), after="features", share=2, workers=True),
    "pseudo-gpus": Stage(
        words=(*_PSEUDO, "-j", "2", "--gpus", "2"), after="features", share=2, workers=True, team=True
    ),
    "confidence": Stage(
        words=("confidence", "--shards", ".", "--tau-knn-min", "0.12", "-j", "0"), after="pseudo", share=4
    ),
    "train": Stage(
        words=("train", "--shards", ".", "--out", "detector-initial", *_trained("train", loader_workers=1)),
        after="confidence",
        share=1,
        shared=False,
        training="detector-initial",
    ),
    "predict": Stage(words=("predict", "--shards", ".", "--device", "cpu", "-c", _DETECTOR), after="train", share=4),
    "selftrain": Stage(
        words=(
            *("selftrain", "--shards", ".", "-c", _DETECTOR),
            *_trained("selftrain", score_thresholds="0.0", decay_steps=""),
        ),
        after="train",
        share=1,
        shared=False,
        training="detector-st1",
    ),
}
