"""`cuts3d viz --shards`: draws what the sidecars of one sample hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import resolve_recorded
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.cut.methods import METHODS, get_method
from cuts3d_cli.errors import Command, Cuts3dError, SampleError, UsageError
from cuts3d_cli.figures.overlay import upsample_grid
from cuts3d_cli.inspection.viz import Notes, Picture, picture_path, save
from cuts3d_cli.segmentation import Cut, Segmentation
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
    size = (image.height, image.width)
    cut = stored.cut if stored else None
    if cut:
        notes.lines += [f"iteration {item.iteration + 1} gave no mask: {item.reason}" for item in cut.dropped]
    masks = [item.pixels() for item in stored.instances] if stored else []
    boxes = np.array([item.box for item in stored.instances] if stored else [], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segmentation = Segmentation(
        image=np.asarray(image),
        masks=np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
        boxes=boxes,
        scores=np.array(confidence.scores if confidence else np.ones(len(masks)), dtype=np.float32),
        confidence=np.asarray(confidence.maps) if confidence else None,
        depth=None if depth is None else np.asarray(upsample_grid(depth, size)),
        importance=_importance(depth, cut.grid if cut else None, base=base, manifest=manifest),
        cuts=_cuts(stored),
        stopped=cut.stopped if cut else None,
    )
    return save(segmentation, target, title=f"{base.name}: {key}", notes=notes.lines)


def _cuts(stored: StoredMasks | None) -> list[Cut]:
    """Return the cuts that led to stored masks."""
    return [
        Cut(
            eigenvector=None,
            bipartition=decode_rle(item.cut.bipartition),
            instance=decode_rle(item.cut.patch_mask),
            source=item.cut.source,
            sink=item.cut.sink,
            outcome="kept",
            mask=number,
        )
        for number, item in enumerate(stored.instances if stored else ())
        if item.cut
    ]


def _importance(
    depth: NDArray[np.float32] | None, grid: tuple[int, int] | None, *, base: Path, manifest: Manifest | None
) -> NDArray[np.float32] | None:
    """Compute the Spatial Importance of a sample by the recorded settings; None where nothing was sharpened."""
    if depth is None or manifest is None or grid is None or "pseudo" not in manifest.config:
        return None
    settings = resolve_recorded(sidecar(base, "pseudo"), "pseudo", manifest.config["pseudo"]).pseudo
    if settings.method not in METHODS:
        return None
    on_grid = patch_depth(depth, grid, clip=settings.depth_clip, sampling=settings.depth_sampling)
    return get_method(settings.method).importance(on_grid, settings=settings)


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
