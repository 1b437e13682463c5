"""One training: what it learns from and how, and whether a stopped one may be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuts3d_cli.config import MAX_IMAGE_PIXELS, RunConfig, TrainConfig, output_dict, recorded_limits
from cuts3d_cli.errors import Cuts3dError, UsageError, WeightsError
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.wording import absence, listed

if TYPE_CHECKING:
    from cuts3d_cli.detector.data import TrainingShard
    from cuts3d_cli.detector.evaluating import Evaluation

SCHEDULE = frozenset({"max_iter", "learning_rate", "warmup_iter", "warmup_factor", "decay_steps", "decay_factor"})
"""Fields of the configuration that may change when a training is resumed."""
_SPLIT = "accumulate"
"""The field that may change as far as `split.resumed_split` allows."""
_FORMER = {"clip": "model"}
"""Fields that earlier versions did not record, and what these versions did, where it is not today's default."""


class TrainingError(Cuts3dError):
    """Training cannot continue."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training.

    Attributes:
        config: its configuration.
        shards: what to learn from.
        out: folder for everything that is written.
        device: "cpu", "cuda", "cuda:1", ...; with several processes each takes its own GPU.
        init: a trained detector to start from; None starts from the backbone's weights.
        resume: continue from the newest checkpoint in `out`.
        max_image_pixels: photos with more pixels are left out.
        evaluation: of the detector while it is trained, at the iterations that the configuration says; None for none.
    """

    config: TrainConfig
    shards: Sequence[TrainingShard]
    out: Path
    device: str
    init: Path | None = None
    resume: bool = False
    max_image_pixels: int = MAX_IMAGE_PIXELS
    evaluation: Evaluation | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Return what must stay the same when the training is resumed, as plain JSON values.

        Raises:
            WeightsError: there is no file `init`.
        """
        limits = recorded_limits(RunConfig(max_image_pixels=self.max_image_pixels))
        return {
            "config": plain({**output_dict(self.config), **limits}),
            "shards": {shard.base.name: shard.digest for shard in self.shards},
            "init": None if self.init is None else _digest(self.init),
        }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a checkpoint gives them back: lists in place of tuples."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def same_training(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two fingerprints are of the same training, its schedule included."""
    same_settings = recorded_settings(old) == recorded_settings(new)
    return same_settings and old["shards"] == new["shards"] and same_start(old, new)


def recorded_settings(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration in a fingerprint, with fields that were added since it was made."""
    return {**plain(output_dict(TrainConfig())), **_FORMER, **fingerprint["config"]}


def same_start(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two fingerprints start from the same detector, as far as both say so."""
    return None in (old.get("init"), new["init"]) or old["init"] == new["init"]


def check_fingerprint(old: Mapping[str, Any], new: Mapping[str, Any], *, path: Path) -> list[str]:
    """Check that a training may be resumed: the schedule may have changed, but nothing else.

    Args:
        old: fingerprint in the checkpoint.
        new: fingerprint of the training now.
        path: of the checkpoint, for messages.

    Returns:
        What differs in the schedule, a few words each.

    Raises:
        UsageError: the configuration, the masks or the detector to start from differ.
    """
    before, after = recorded_settings(old), recorded_settings(new)
    differing = [name for name in after if before.get(name) != after[name] and name != _SPLIT]
    changed = [name for name in differing if name not in SCHEDULE]
    if changed:
        shown = ", ".join(f"{name} {before.get(name)} -> {after[name]}" for name in changed[:3])
        raise UsageError(
            f"{path} was trained with another configuration ({shown}): set it back, or train into another folder"
        )
    if old["shards"] != new["shards"]:
        names = sorted({*old["shards"], *new["shards"]})
        other = [name for name in names if old["shards"].get(name) != new["shards"].get(name)]
        raise UsageError(f"{path} was trained on other masks ({listed(other)}): train into another folder")
    if not same_start(old, new):
        raise UsageError(f"{path} was started from another detector: train into another folder")
    return [f"{name} {before.get(name)} -> {after[name]}" for name in differing]


def _digest(weights: Path) -> str:
    if not weights.is_file():
        raise WeightsError(f"{weights} {absence(weights)}: name a checkpoint that `cuts3d train` wrote")
    return digest_file(weights).sha256
