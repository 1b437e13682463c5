"""`cuts3d viz --shards`: draws what the sidecars of one sample hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cuts3d_cli.errors import Command, Cuts3dError, SampleError, UsageError
from cuts3d_cli.inspection.viz import Notes, Picture, picture_path, save
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars import Known
from cuts3d_cli.sidecars.confidence import StoredConfidence, current_confidence
from cuts3d_cli.sidecars.confidence import decode as decode_confidence
from cuts3d_cli.sidecars.depth import decode as decode_depth
from cuts3d_cli.sidecars.finished import finished
from cuts3d_cli.sidecars.masks import StoredMasks
from cuts3d_cli.sidecars.masks import decode as decode_masks
from cuts3d_cli.sidecars.photos import photo
from cuts3d_cli.sidecars.segmentation import segmentation_of, settings_of, title_of
from cuts3d_cli.wording import Say


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
    # Read the photo and what the sidecars hold of it.
    depth_sample, _ = _stored(base, "depth", key, notes)
    masks_sample, manifest = _stored(base, "pseudo", key, notes)
    try:
        image = photo(sample)
        depth = decode_depth(depth_sample).depth if depth_sample else None
        stored = decode_masks(masks_sample) if masks_sample else None
    except SampleError as error:
        raise Cuts3dError(f"{base}: {key}: {error}") from error
    confidence = _confidence(base, key, stored)
    # Bring it to one form, and add what the manifest says of the cut.
    if stored and stored.cut:
        notes.lines += [f"iteration {item.iteration + 1} gave no mask: {item.reason}" for item in stored.cut.dropped]
    settings = settings_of(sidecar(base, "pseudo"), manifest) if manifest else None
    made_by = title_of(manifest, settings) if manifest else ""
    segmentation = segmentation_of(
        np.asarray(image), found=stored, confidence=confidence, depth=depth, settings=settings, title=made_by
    )
    title = f"{base.name}: {key}" + (f": {made_by}" if made_by else "")
    return save(segmentation, target, title=title, notes=notes.lines)


def _confidence(base: Path, key: str, stored: StoredMasks | None) -> StoredConfidence | None:
    """Read the confidence of a sample's masks; None where nothing is stored.

    Raises:
        ShardError: the masks were cut again since they were scored.
        Cuts3dError: what is stored is damaged.
    """
    found = current_confidence(base) if stored and stored.instances else None
    if found is None or stored is None:
        return None
    with found.open() as reader:
        sample = reader.get(key)
    if sample is None:
        return None
    try:
        return decode_confidence(sample, Known(masks=len(stored.instances)))
    except SampleError as error:
        raise Cuts3dError(f"{found.tar}: {key}: {error}") from error


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
    raise UsageError(f"no sample '{key}' in {len(shards)} shards: ", command, " lists its keys")


def _stored(base: Path, stage: str, key: str, notes: Notes) -> tuple[Sample | None, Manifest | None]:
    """Read a sample of a sidecar and the sidecar's manifest; None, with a note, where it is missing."""
    found = finished(base, stage)
    if found is None:
        notes.add(f"no {stage}", way_out=[": run ", Command(stage, shards=base)])
        return None, None
    with found.open() as reader:
        sample = reader.get(key)
    if sample is None:
        notes.add(f"no {stage}: {found.failures.get(key, 'it is not in the sidecar')}")
    return sample, found.manifest
