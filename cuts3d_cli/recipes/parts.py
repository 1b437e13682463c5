"""The parts of a recipe's plan: what each would do, and how many bytes it would write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cuts3d_cli.config import CutSettings, TrainConfig
from cuts3d_cli.detector import train
from cuts3d_cli.engine.replacing import OtherSettingsError
from cuts3d_cli.engine.results import StageResult
from cuts3d_cli.errors import UsageError
from cuts3d_cli.recipes.plan import (
    MEMBER_BYTES,
    TRAINING,
    Part,
    compare_sidecars,
    look,
    sidecar_bytes,
    training_bytes,
    unfinished_sidecars,
)
from cuts3d_cli.recipes.sources import Source

USUAL_MASKS = 10
"""So many masks an image are planned for where their number is not limited."""


def masks_to_plan(settings: CutSettings) -> int:
    """Return how many masks an image may have, for estimates."""
    return USUAL_MASKS if settings.instances == "all" else settings.instances


def pack_part(name: str, source: Source, *, run: Callable[..., StageResult]) -> Part:
    """Return the part that packs photos.

    Args:
        name: of the part.
        source: of the photos.
        run: packs them.
    """

    def unfinished(bases: Sequence[Path]) -> dict[Path, str]:
        if not any(base.exists() for base in bases):  # looking would create the folder
            return dict.fromkeys(bases, "not there yet")
        done, why = look(lambda progress: run(progress=progress))
        return dict.fromkeys((base for base in bases if base not in done), why or "not there yet")

    def needed(missing: Collection[Path]) -> int:
        each = 3 * MEMBER_BYTES + source.map_bytes
        return round(sum(source.files[base] + each * source.images_of[base] for base in missing))

    return Part(name=name, bases=source.bases, unfinished=unfinished, bytes_of=needed)


def sidecars_part(
    name: str,
    source: Source,
    *,
    stage: str,
    run: Callable[..., StageResult],
    needs: Sequence[str],
    otherwise: float,
) -> Part:
    """Return the part of a stage that writes sidecars.

    Args:
        name: of the part.
        source: whose shards it works on.
        stage: of the sidecars.
        run: runs the stage over some shards.
        needs: names of the parts that it needs.
        otherwise: bytes an image, where no shard tells.
    """
    return Part(
        name=name,
        bases=source.bases,
        needs=needs,
        unfinished=lambda bases: unfinished_sidecars(
            bases, stage=stage, run=lambda some, progress: run(some, progress=progress)
        ),
        compare=lambda: compare_sidecars(
            source.bases, stage=stage, run=lambda some, progress: run(some, progress=progress)
        ),
        bytes_of=lambda missing: sidecar_bytes(
            missing, bases=source.bases, stage=stage, images=source.images_of, otherwise=otherwise
        ),
    )


def training_part(
    name: str,
    bases: Sequence[Path],
    *,
    round: int,
    out: Path,
    config: TrainConfig,
    init: Path | None,
    max_image_pixels: int,
    needs: Sequence[str],
    replaces_masks: Callable[[], bool],
    not_resumed: Callable[[UsageError], UsageError],
) -> Part:
    """Return the part of a round's training.

    Args:
        name: of the part.
        bases: the shards that it learns from.
        round: of self-training; 0 is the first training.
        out: its folder.
        config: its settings.
        init: the weights that it begins with.
        max_image_pixels: photos with more fail.
        needs: names of the parts that it needs.
        replaces_masks: tells whether the masks that it learned from would be replaced.
        not_resumed: makes the error of a training that does not fit.
    """

    def compare() -> None:
        try:
            train.check_settings(out, config, max_image_pixels=max_image_pixels)
            if train.has_checkpoint(out) and replaces_masks():
                raise UsageError(f"{out} learned from masks that would be replaced: train into another folder")
        except UsageError as error:
            raise OtherSettingsError(*not_resumed(error).parts) from error

    def unfinished(units: Sequence[Path]) -> dict[Path, str]:
        if not units:
            return {}
        task = train.task_of(bases, round=round, out=out, config=config, init=init, max_image_pixels=max_image_pixels)
        if train.finished_weights(task) is not None:
            return {}
        return {TRAINING: "goes on from a checkpoint" if train.has_checkpoint(out) else "not there yet"}

    return Part(
        name=name,
        bases=[],
        needs=needs,
        unfinished=unfinished,
        compare=compare,
        bytes_of=lambda missing: training_bytes(config),
    )
