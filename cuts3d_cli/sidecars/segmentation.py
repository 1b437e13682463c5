"""All that the sidecars hold of one photo, as a `Segmentation`: nothing is cut again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import PseudoConfig, resolve_recorded
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.cut.methods import METHODS, get_method
from cuts3d_cli.figures.overlay import upsample_grid
from cuts3d_cli.segmentation import Cut, Segmentation
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.detections import StoredDetections
from cuts3d_cli.sidecars.masks import StoredMask, StoredMasks


def segmentation_of(
    image: NDArray[np.uint8],
    *,
    found: StoredMasks | StoredDetections | None,
    confidence: StoredConfidence | None = None,
    depth: NDArray[np.float32] | None = None,
    settings: PseudoConfig | None = None,
    title: str = "",
) -> Segmentation:
    """Bring what is stored of a photo to one form; only the Spatial Importance is computed, from the stored depth.

    Args:
        image: (h, w, 3) uint8, RGB, upright.
        found: masks or detections of the photo; None where there are none.
        confidence: of these masks; None where they have no scores.
        depth: (H, W) float32 in [0, 1], larger is farther, NaN where nothing was measured, at any size; None without.
        settings: by which the masks were cut; None where that is not known, and there is no Spatial Importance.
        title: what made it, in a few words.

    Returns:
        The segmentation. Eigenvectors are not stored, and missing in its cuts; detections have no cuts.
    """
    instances = found.instances if found else ()
    pixels = [item.pixels() for item in instances]
    boxes = np.array([item.box for item in instances], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    cut = found.cut if isinstance(found, StoredMasks) else None
    own = [1.0 if item.score is None else item.score for item in instances]
    return Segmentation(
        image=image,
        masks=np.stack(pixels) if pixels else np.zeros((0, *image.shape[:2]), dtype=bool),
        boxes=boxes,
        scores=np.array(confidence.scores if confidence else own, dtype=np.float32),
        confidence=np.asarray(confidence.maps) if confidence else None,
        depth=None if depth is None else np.asarray(upsample_grid(depth, image.shape[:2])),
        importance=_importance(depth, cut.grid if cut else None, settings),
        cuts=None if isinstance(found, StoredDetections) else _cuts(instances),
        stopped=cut.stopped if cut else None,
        title=title,
    )


def settings_of(tar: Path, manifest: Manifest) -> PseudoConfig | None:
    """Return the settings by which the masks of a sidecar were cut.

    Args:
        tar: the sidecar, for messages.
        manifest: of the sidecar.

    Returns:
        The settings; None where none are recorded, or the method is not one of this version.

    Raises:
        UsageError: a recorded value is impossible.
    """
    if "pseudo" not in manifest.config:
        return None
    settings = resolve_recorded(tar, "pseudo", manifest.config["pseudo"]).pseudo
    return settings if settings.method in METHODS else None


def title_of(manifest: Manifest, settings: PseudoConfig | None) -> str:
    """Return what made the masks or detections of a sidecar, in a few words: the method and the backbone, or the file.

    Args:
        manifest: of the sidecar.
        settings: as `settings_of` returns them.

    Returns:
        As in "CutS3D (sharpened, LocalCut), dino-vitb8 at 480", or "model-final.safetensors"; "" where none is known.
    """
    parts = [get_method(settings.method).title(settings)] if settings else []
    features = manifest.config.get("features")
    if isinstance(features, dict) and features.get("backbone"):
        parts.append(_backbone(features))
    parts += [digest.file for role, digest in manifest.inputs.items() if role.partition("/")[0] == "checkpoint"][:1]
    return ", ".join(parts)


def _backbone(features: dict[str, Any]) -> str:
    size = features.get("size")
    return str(features["backbone"]) if size is None else f"{features['backbone']} at {size}"


def _cuts(instances: Sequence[StoredMask]) -> list[Cut]:
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
            number=item.cut.iteration + 1,
        )
        for number, item in enumerate(instances)
        if item.cut
    ]


def _importance(
    depth: NDArray[np.float32] | None, grid: tuple[int, int] | None, settings: PseudoConfig | None
) -> NDArray[np.float32] | None:
    """Compute the Spatial Importance by the recorded settings; None where nothing was sharpened."""
    if depth is None or grid is None or settings is None:
        return None
    on_grid = patch_depth(depth, grid, clip=settings.depth_clip, sampling=settings.depth_sampling)
    return get_method(settings.method).importance(on_grid, settings=settings)
