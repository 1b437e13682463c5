"""`cuts3d viz --shards`: draws what the sidecars of one sample hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from cuts3d_cli.errors import Command, Cuts3dError, SampleError, UsageError
from cuts3d_cli.inspection.viz import Notes, Picture, picture_path, save
from cuts3d_cli.segmentation import Segmentation
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars import Known
from cuts3d_cli.sidecars.confidence import StoredConfidence, current_confidence
from cuts3d_cli.sidecars.confidence import decode as decode_confidence
from cuts3d_cli.sidecars.depth import decode as decode_depth
from cuts3d_cli.sidecars.finished import finished
from cuts3d_cli.sidecars.masks import DroppedCut, StoredMasks
from cuts3d_cli.sidecars.masks import decode as decode_masks
from cuts3d_cli.sidecars.photos import photo
from cuts3d_cli.sidecars.segmentation import segmentation_of, settings_of, title_of
from cuts3d_cli.wording import Say, counted

_SINGLE_LINES = 4
"""So many iterations without a mask have a line each; more are counted."""


def draw_sample(shards: Sequence[Path], *, key: str, out: Path | None, say: Say) -> Picture:
    """Draw what the sidecars of a sample hold; nothing is recomputed but the Spatial Importance.

    Args:
        shards: base shards.
        key: of the sample.
        out: the picture; KEY.cuts3d.png in the working folder by default.
        say: prints a status line.

    Returns:
        The picture.

    Raises:
        Cuts3dError: no shard holds the key, or the sample cannot be drawn.
        ShardError: a shard is damaged.
    """
    target = picture_path(out, key.replace("/", "_"))
    base, sample = _find(shards, key)
    notes = Notes(say)
    with StoredResults(base) as stored:
        for stage in stored.missing:
            notes.add(f"no {stage}", way_out=[": run ", Command(stage, shards=base)])
        segmentation = stored.segmentation(sample, notes=notes)
    made_by = f": {segmentation.title}" if segmentation.title else ""
    return save(segmentation, target, title=f"{base.name}: {key}{made_by}", notes=notes.lines)


class StoredResults:
    """What the sidecars of a shard hold of its samples, to be drawn. A context manager; sidecars are opened once.

    Attributes:
        base: the base shard.
        missing: those of the stages `depth` and `pseudo` that have no sidecar.
    """

    def __init__(self, base: Path) -> None:
        """Open the sidecars that there are.

        Args:
            base: a base shard.

        Raises:
            ShardError: a sidecar is damaged, or older than what it was made from.
        """
        self.base = base
        self._found = {stage: item for stage in ("depth", "pseudo") if (item := finished(base, stage)) is not None}
        self.missing = [stage for stage in ("depth", "pseudo") if stage not in self._found]
        masks = self._found.get("pseudo")
        self._settings = settings_of(masks.tar, masks.manifest) if masks else None
        self._title = title_of(masks.manifest, self._settings) if masks else ""
        confidence = current_confidence(base) if masks else None
        with ExitStack() as stack:
            self._readers = {stage: stack.enter_context(item.open()) for stage, item in self._found.items()}
            if confidence is not None:
                self._readers["confidence"] = stack.enter_context(confidence.open())
            self._stack = stack.pop_all()

    def __enter__(self) -> StoredResults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def segmentation(self, sample: Sample, *, notes: Notes) -> Segmentation:
        """Return a sample with what is stored of it. Samples must be asked for in the order of the base shard.

        Args:
            sample: of the base shard.
            notes: receives what is missing, and why.

        Raises:
            Cuts3dError: the photo or what is stored of it is damaged.
        """
        # Read the photo and what the sidecars hold of it.
        depth_sample, masks_sample = (self._get(stage, sample.key, notes) for stage in ("depth", "pseudo"))
        try:
            image = photo(sample)
            depth = decode_depth(depth_sample).depth if depth_sample else None
            stored = decode_masks(masks_sample) if masks_sample else None
        except SampleError as error:
            raise Cuts3dError(f"{self.base}: {sample.key}: {error}") from error
        # Bring it to one form, and add what the manifest says of the cut.
        if stored and stored.cut:
            notes.lines += _dropped(stored.cut.dropped)
        return segmentation_of(
            np.asarray(image),
            found=stored,
            confidence=self._confidence(sample.key, stored),
            depth=depth,
            settings=self._settings,
            title=self._title,
        )

    def _get(self, stage: str, key: str, notes: Notes) -> Sample | None:
        """Read a sample of a sidecar; None where it is missing, with a note where its stage failed."""
        if stage not in self._readers:
            return None
        sample = self._readers[stage].get(key)
        if sample is None:
            notes.add(f"no {stage}: {self._found[stage].failures.get(key, 'it is not in the sidecar')}")
        return sample

    def _confidence(self, key: str, stored: StoredMasks | None) -> StoredConfidence | None:
        """Read the confidence of a sample's masks; None where nothing is stored.

        Raises:
            Cuts3dError: what is stored is damaged.
        """
        if stored is None or not stored.instances or "confidence" not in self._readers:
            return None
        sample = self._readers["confidence"].get(key)
        if sample is None:
            return None
        try:
            return decode_confidence(sample, Known(masks=len(stored.instances)))
        except SampleError as error:
            raise Cuts3dError(f"{self._readers['confidence'].path}: {key}: {error}") from error


def _dropped(items: Sequence[DroppedCut]) -> list[str]:
    """Return why iterations gave no mask: a line each, or how many for which reason where there are many."""
    if len(items) <= _SINGLE_LINES:
        return [f"cut {item.iteration + 1} gave no mask: {item.reason}" for item in items]
    numbers = Counter(item.reason for item in items)
    reasons = ", ".join(f"{number} {reason}" for reason, number in numbers.most_common())
    return [f"{counted(len(items), 'cut')} gave no mask: {reasons}"]


def _find(shards: Sequence[Path], key: str) -> tuple[Path, Sample]:
    """Find the sample of a key, with its base shard.

    Raises:
        UsageError: no shard holds it.
    """
    for base in shards:
        for sample in read_shard(base):
            if sample.key == key:
                return base, sample
    command = Command("inspect", arguments=(str(shards[0]),))
    raise UsageError(f"no sample '{key}' in {counted(len(shards), 'shard')}: ", command, " lists its keys")
