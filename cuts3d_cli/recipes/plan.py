"""What is left to do of a recipe, and the disk space it needs: every part says itself whether it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, TrainConfig
from cuts3d_cli.engine.replacing import OtherSettingsError, compare_settings
from cuts3d_cli.engine.results import Progress
from cuts3d_cli.errors import Cuts3dError, ShardError
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar

MEMBER_BYTES = 1024
"""Of a member of a tar besides its content: the header and the padding of the last block."""
MASK_BYTES = 1500
"""Of a mask in JSON: its run-length code and its facts. A rough figure, for where nothing can be measured."""
DETECTION_BYTES = 500
"""Of a detection in JSON; a rough figure, too."""


class _NotDoneError(Exception):
    """A stage would work on a shard."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class DryRun(Progress):
    """A progress that lets a stage skip what is finished, and ends it before it works on anything.

    Attributes:
        skipped: the shards that are finished, in order.
    """

    def __init__(self) -> None:
        self.skipped: list[Path] = []

    def skip(self, shard: Path) -> None:
        """Record a finished shard."""
        self.skipped.append(shard)

    def due(self, shard: Path, *, why: str) -> None:
        """End the stage before it works on a shard.

        Raises:
            _NotDoneError: always.
        """
        raise _NotDoneError(why)


def look(run: Callable[[Progress], object]) -> tuple[list[Path], str | None]:
    """Find out what a stage would skip, without work.

    Args:
        run: runs the stage with a progress.

    Returns:
        The shards that it skips, and why it would work on the next one; None where it would skip them all.

    Raises:
        OtherSettingsError: it would not work, over results of other settings.
    """
    dry = DryRun()
    try:
        run(dry)
    except _NotDoneError as stopped:
        return dry.skipped, stopped.why
    except OtherSettingsError:
        raise
    except Cuts3dError as error:
        return dry.skipped, str(error)
    return dry.skipped, None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a recipe: one stage over some shards, or one training.

    Attributes:
        name: for people.
        bases: the base shards that it works through; empty for a training.
        needs: names of the parts it depends on: what is unfinished there is unfinished here, too.
        unfinished: receives the base shards that do not wait for other parts; returns the unfinished ones, each with
            the reason.
        bytes_of: receives the unfinished base shards; returns an estimate of the disk space they will take.
        compare: finds results that the part would refuse to replace, also where it still waits for other parts.
    """

    name: str
    bases: Sequence[Path]
    needs: Sequence[str] = ()
    unfinished: Callable[[Sequence[Path]], Mapping[Path, str]]
    bytes_of: Callable[[Collection[Path]], int]
    compare: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """What is left to do of a part.

    Attributes:
        name: of the part.
        shards: number of shards that it works through; 1 for a training.
        finished: number of these that are finished.
        note: why the rest is unfinished, in a few words; empty where nothing is.
        bytes: disk space that the rest will take, by estimate.
        open: the unfinished base shards.
        refused: why the part would not begin, over results of other settings; None where there are none.
    """

    name: str
    shards: int
    finished: int
    note: str
    bytes: int
    open: frozenset[Path] = field(default=frozenset())
    refused: Cuts3dError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "name": self.name,
            "shards": self.shards,
            "finished": self.finished,
            "note": self.note,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left to do of a recipe.

    Attributes:
        parts: in the order of work.
        free: free disk space where the recipe writes, bytes.
    """

    parts: Sequence[PartPlan]
    free: int

    @property
    def bytes(self) -> int:
        """Disk space that all parts will take, by estimate."""
        return sum(part.bytes for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {
            "parts": [part.to_json() for part in self.parts],
            "disk": {"needed": self.bytes, "free": self.free},
        }


def make_plan(parts: Sequence[Part], *, out: Path) -> Plan:
    """Find out what is left to do; nothing is written.

    Args:
        parts: in the order of work.
        out: the folder that they write to; it need not exist.

    Returns:
        The plan, with the parts in the same order.
    """
    plans: dict[str, PartPlan] = {}
    for part in parts:
        plans[part.name] = _look_at(part, [plans[name] for name in part.needs])
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    return Plan(parts=list(plans.values()), free=shutil.disk_usage(there).free)


TRAINING = Path("training")
"""The one unit of a training, where other parts have base shards."""


def _look_at(part: Part, needed: Sequence[PartPlan]) -> PartPlan:
    """Find out what is left to do of a part, given the plans of the parts that it needs."""
    units = list(part.bases) or [TRAINING]
    waiting: dict[Path, str] = {}
    for plan in needed:
        for unit in units:
            # A training waits for all shards, and all shards wait for a training.
            if unit in plan.open or (plan.open and TRAINING in (unit, *plan.open)):
                waiting.setdefault(unit, f"after {plan.name}")
    why, refused = dict(waiting), None
    try:
        part.compare()
        why |= part.unfinished([unit for unit in units if unit not in waiting])
    except OtherSettingsError as error:
        why, refused = dict.fromkeys(units, "there are results of other settings"), error
    return PartPlan(
        name=part.name,
        shards=len(units),
        finished=len(units) - len(why),
        note=next(iter(why.values()), ""),
        bytes=part.bytes_of(why.keys()) if why else 0,
        open=frozenset(why),
        refused=refused,
    )


def unfinished_sidecars(
    bases: Sequence[Path], *, stage: str, run: Callable[[Sequence[Path], Progress], object]
) -> dict[Path, str]:
    """Return the base shards that a stage would work on, each with the reason.

    A shard without a sidecar is unfinished without running the stage, so that its weights are not looked for.

    Args:
        bases: base shards.
        stage: of the sidecars.
        run: runs the stage over some shards with a progress.
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


def compare_sidecars(bases: Sequence[Path], *, stage: str, run: Callable[[Sequence[Path], Progress], object]) -> None:
    """Find sidecars that a stage would refuse to replace.

    Args:
        bases: base shards.
        stage: of the sidecars.
        run: runs the stage over some shards with a progress.

    Raises:
        OtherSettingsError: there are some.
    """
    there = [base for base in bases if sidecar(base, stage).exists()]
    if not there:
        return
    try:
        compare_settings(lambda progress: run(there, progress))
    except OtherSettingsError:
        raise
    except Cuts3dError:  # it waits for another part, or the plan says what it lacks
        return


def sidecar_bytes(
    missing: Collection[Path], *, bases: Sequence[Path], stage: str, images: Mapping[Path, int], otherwise: float
) -> int:
    """Estimate the disk space that a stage's sidecars will take, bytes.

    Args:
        missing: the unfinished base shards.
        bases: all base shards; the sidecars of finished ones are measured.
        stage: of the sidecars.
        images: number of images of each base shard.
        otherwise: bytes per image where nothing can be measured.
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
    """Estimate the bytes in a tar of an image with so many masks."""
    return MEMBER_BYTES + masks * MASK_BYTES


def detection_record_bytes(detections: int) -> int:
    """Estimate the bytes in a tar of an image with so many detections."""
    return MEMBER_BYTES + detections * DETECTION_BYTES


def depth_bytes(config: Config, *, sensor: float) -> float:
    """Estimate the bytes in a tar of an image's depth map.

    Args:
        config: section `depth`.
        sensor: bytes of a sensor's map, on average.
    """
    if config.depth.backend == "sensor":
        return 2 * MEMBER_BYTES + sensor
    # 16 bits a pixel of a 4:3 photo, which PNG compresses to about a half.
    return 2 * MEMBER_BYTES + config.depth.max_side**2 * 0.75


def confidence_bytes(masks: int, *, grid: tuple[int, int]) -> int:
    """Estimate the bytes in a tar of an image's confidence maps; `grid` has rows and columns."""
    return 3 * MEMBER_BYTES + masks * grid[0] * grid[1]


def training_bytes(config: TrainConfig) -> int:
    """Compute the bytes of a training: its checkpoints, one more while it is written, and the final weights.

    A checkpoint holds every parameter and its momentum.
    """
    import torch

    from cuts3d_cli.detector.model import build_model

    with torch.random.fork_rng(devices=[]):
        model = build_model(config, device="cpu")
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    saved = config.max_iter // config.checkpoint_every + bool(config.max_iter % config.checkpoint_every)
    return weights * (2 * (min(config.checkpoints_kept, saved) + 1) + 1)
