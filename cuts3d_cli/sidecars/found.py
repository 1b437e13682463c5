"""What was found in the photos of a shard, whether masks were cut or a detector ran, each with its score."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.shards.names import in_generation, sidecar
from cuts3d_cli.shards.reader import Sample, SidecarReader
from cuts3d_cli.sidecars import confidence, detections, masks
from cuts3d_cli.sidecars.confidence import current_confidence
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.masks import StoredMask
from cuts3d_cli.sidecars.reading import Known

Source = Literal["masks", "detections"]
"""Pseudo-masks and those of self-training, or what a detector has found."""
UNSCORED = 1.0
"""Score of masks where there is no confidence."""
_RECOMPUTE = "run `cuts3d confidence` again with if_exists=overwrite"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in one photo.

    Attributes:
        sample: of the sidecar.
        size: (height, width) of the photo, pixels.
        instances: in the order in which they are stored.
        scores: of each, in [0, 1]: the detector's, else the mean confidence, else 1; None where other photos have a
            confidence, and this one failed in `cuts3d confidence`.
    """

    sample: Sample
    size: tuple[int, int]
    instances: Sequence[StoredMask]
    scores: Sequence[float] | None


def stage_of(source: Source, generation: str | None = None) -> str:
    """Name the stage whose sidecars hold what was found.

    Args:
        source: masks or detections.
        generation: of self-training, as in "st1" or "initial"; None for those of `cuts3d pseudo` and `cuts3d predict`.
    """
    return in_generation("pseudo" if source == "masks" else "predict", generation)


def have_confidence(shards: Sequence[Path], stage: str) -> bool:
    """Tell whether masks have a confidence.

    Args:
        shards: base shards.
        stage: of the masks or detections; those of `cuts3d pseudo` alone are scored by `cuts3d confidence`.

    Raises:
        ShardError: some of the shards have a confidence sidecar and others none, or one is stale.
    """
    if stage != "pseudo":
        return False
    scored = [base for base in shards if current_confidence(base) is not None]
    if scored and len(scored) < len(shards):
        without = next(base for base in shards if base not in scored)
        raise ShardError(
            f"{sidecar(without, 'confidence')} is missing or unfinished, while {len(scored)} of {len(shards)} shards"
            " have theirs, but scores must be of one kind: run `cuts3d confidence` on all shards, or delete them all"
        )
    return bool(scored)


class FoundReader:
    """Reads what was found in the photos of a shard, by their keys in the order of the shard. A context manager.

    Attributes:
        keys: of the photos on which the stage did not fail, in order.
    """

    def __init__(self, base: Path, stage: str, *, scored: bool = False) -> None:
        """Open the sidecars.

        Args:
            base: a base shard.
            stage: as `stage_of` names it.
            scored: take the scores from the confidence sidecar, as `have_confidence` tells.

        Raises:
            ShardError: one is missing, damaged or stale.
        """
        self._decode = masks.decode if stage.startswith("pseudo") else detections.decode
        self._found, self._confidence = require(base, stage), require(base, "confidence") if scored else None
        with ExitStack() as stack:
            self._items = stack.enter_context(self._found.open())
            self._scores = stack.enter_context(self._confidence.open()) if self._confidence else None
            self._stack = stack.pop_all()
        self.keys = self._items.keys

    def __enter__(self) -> FoundReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def check_failed(self, key: str) -> None:
        """Make sure that the stage says of a photo without a sample that it failed there.

        Raises:
            ShardError: it does not.
        """
        self._found.check_failed(key)

    def get(self, key: str) -> Found | None:
        """Read what was found in a photo. Keys must be asked for in the order of the base shard.

        Args:
            key: of a photo.

        Returns:
            What was found; None if the stage failed on this photo.

        Raises:
            ShardError: a sidecar is damaged, or belongs to another base shard.
        """
        sample = self._items.get(key)
        if sample is None:
            self.check_failed(key)
            return None
        stored = self._decode(sample)
        return Found(
            sample=sample, size=stored.size, instances=stored.instances, scores=self._of(key, stored.instances)
        )

    def _of(self, key: str, instances: Sequence[StoredMask]) -> Sequence[float] | None:
        """Return the scores of the instances of a photo."""
        if self._scores is None or self._confidence is None or not instances:
            return [UNSCORED if item.score is None else item.score for item in instances]
        sample = self._scores.get(key)
        if sample is None:
            self._confidence.check_failed(key)
            return None
        return _confidence(self._scores, sample, count=len(instances))


def _confidence(reader: SidecarReader, sample: Sample, *, count: int) -> Sequence[float]:
    try:
        return confidence.decode(sample, Known(masks=count)).scores
    except SampleError as error:
        raise ShardError(f"{reader.path}: {sample.key}: {error}: {_RECOMPUTE}") from error
