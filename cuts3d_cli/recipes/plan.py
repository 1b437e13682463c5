"""What a recipe has yet to do: every part of it is asked, by its own rules, whether it is finished; and disk space."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, TrainConfig
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Cuts3dError, ShardError
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar

MEMBER_BYTES = 1024
"""Of a member of a tar besides its content: its header and what fills the last block."""
MASK_BYTES = 1500
"""Of a mask in JSON: its run-length codes and what is said of it; a rough figure, for where nothing can be measured."""
DETECTION_BYTES = 500


class _NotDoneError(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Looking(Progress):
    """Lets a stage skip what is finished, and ends it before it begins to work on anything."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.skipped: list[Path] = []

    def skip(self, shard: Path) -> None:
        """See `Progress`."""
        self.skipped.append(shard)

    def due(self, shard: Path, *, why: str) -> None:
        """See `Progress`."""
        raise _NotDoneError(why)


def look(run: Callable[[Progress], object]) -> tuple[list[Path], str | None]:
    """Ask a stage what it would skip.

    Args:
        run: the stage, told a progress.

    Returns:
        The shards that it skips, and why it would work on the next one; None where it would skip them all.
    """
    looking = Looking()
    try:
        run(looking)
    except _NotDoneError as stopped:
        return looking.skipped, stopped.why
    except Cuts3dError as error:
        return looking.skipped, str(error)
    return looking.skipped, None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a recipe: one stage over some shards, or one training.

    Attributes:
        name: for people.
        bases: the base shards that it works through; none of a training.
        needs: names of the parts that come first: what is to be done there is to be done here, too.
        unfinished: told the base shards that are not waiting for others, says which of them are to be done, and why.
        bytes_of: told the base shards that are to be done, estimates what they take on disk.
    """

    name: str
    bases: Sequence[Path]
    needs: Sequence[str] = ()
    unfinished: Callable[[Sequence[Path]], Mapping[Path, str]]
    bytes_of: Callable[[Collection[Path]], int]


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """What a part has yet to do.

    Attributes:
        name: of the part.
        shards: that it works through; 1 of a training.
        finished: of these, what is skipped.
        note: why the rest is to be done, a few words; or empty.
        bytes: that it will take on disk, by estimate.
        open: base shards that are to be done.
    """

    name: str
    shards: int
    finished: int
    note: str
    bytes: int
    open: frozenset[Path] = field(default=frozenset())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "shards": self.shards,
            "finished": self.finished,
            "note": self.note,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe has yet to do.

    Attributes:
        parts: in the order in which they are done.
        free: bytes that are free where it writes.
    """

    parts: Sequence[PartPlan]
    free: int

    @property
    def bytes(self) -> int:
        """Bytes that all of it will take, by estimate."""
        return sum(part.bytes for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "parts": [part.to_json() for part in self.parts],
            "disk": {"needed": self.bytes, "free": self.free},
        }


def make_plan(parts: Sequence[Part], *, out: Path) -> Plan:
    """Look at all parts; nothing is written.

    Args:
        parts: in the order in which they are done.
        out: the folder that they write to; it need not exist.
    """
    plans: dict[str, PartPlan] = {}
    for part in parts:
        plans[part.name] = _look_at(part, [plans[name] for name in part.needs])
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    return Plan(parts=list(plans.values()), free=shutil.disk_usage(there).free)


TRAINING = Path("training")
"""Stands for the one thing that a training does, where other parts have base shards."""


def _look_at(part: Part, needed: Sequence[PartPlan]) -> PartPlan:
    units = list(part.bases) or [TRAINING]
    waiting: dict[Path, str] = {}
    for plan in needed:
        for unit in units:
            # A training waits for all shards, and all shards wait for a training.
            if unit in plan.open or (plan.open and TRAINING in (unit, *plan.open)):
                waiting.setdefault(unit, f"after {plan.name}")
    why = {**waiting, **part.unfinished([unit for unit in units if unit not in waiting])}
    return PartPlan(
        name=part.name,
        shards=len(units),
        finished=len(units) - len(why),
        note=next(iter(why.values()), ""),
        bytes=part.bytes_of(why.keys()) if why else 0,
        open=frozenset(why),
    )


def unfinished_sidecars(
    bases: Sequence[Path], *, stage: str, run: Callable[[Sequence[Path], Progress], object]
) -> dict[Path, str]:
    """Which base shards a stage would work on, and why.

    A shard without a sidecar is not asked about, so that no weights are looked for before there is work for them.
    """
    why: dict[Path, str] = {}
    for base in bases:
        if not sidecar(base, stage).exists():
            why[base] = "not there yet"
        else:
            _, reason = look(lambda progress, base=base: run([base], progress))  # type: ignore[misc]
            if reason is not None:
                why[base] = reason or "to be overwritten"
    return why


def sidecar_bytes(
    missing: Collection[Path], *, bases: Sequence[Path], stage: str, images: Mapping[Path, int], otherwise: float
) -> int:
    """Estimate what a stage's sidecars will take.

    Args:
        missing: base shards to be done.
        bases: all base shards; those that are finished are measured.
        stage: of the sidecars.
        images: of each base shard.
        otherwise: bytes an image where nothing can be measured.
    """
    size, count = 0, 0
    for base in bases:
        if base not in missing:
            try:
                manifest = load_manifest(manifest_path(sidecar(base, stage)))
            except ShardError:
                continue
            size, count = size + manifest.size, count + manifest.counts.get("samples_out", 0)
    each = size / count if count else otherwise
    return round(each * sum(images[base] for base in missing))


def mask_record_bytes(masks: int) -> int:
    """Bytes of an image with so many masks, in a tar; a rough figure."""
    return MEMBER_BYTES + masks * MASK_BYTES


def detection_record_bytes(detections: int) -> int:
    """Bytes of an image with so many detections, in a tar; a rough figure."""
    return MEMBER_BYTES + detections * DETECTION_BYTES


def depth_bytes(config: Config, *, sensor: float) -> float:
    """Bytes of an image's depth map; a rough figure.

    Args:
        config: section `depth`.
        sensor: bytes of a map of the sensor.
    """
    if config.depth.backend == "sensor":
        return 2 * MEMBER_BYTES + sensor
    # 16 bits a pixel of a photo of 4:3, which PNG halves, about.
    return 2 * MEMBER_BYTES + config.depth.max_side**2 * 0.75


def confidence_bytes(masks: int, *, grid: tuple[int, int]) -> int:
    """Bytes of an image's confidence maps."""
    return 3 * MEMBER_BYTES + masks * grid[0] * grid[1]


def training_bytes(config: TrainConfig) -> int:
    """Bytes of a finished training: its checkpoints, one more while it is written, and the final weights.

    A checkpoint holds every parameter and its momentum.
    """
    import torch

    from cuts3d_cli.detector.model import build_model

    with torch.random.fork_rng(devices=[]):
        model = build_model(config, device="cpu")
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    saved = config.max_iter // config.checkpoint_every + bool(config.max_iter % config.checkpoint_every)
    return weights * (2 * (min(config.checkpoints_kept, saved) + 1) + 1)
