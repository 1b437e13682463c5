"""Small shards with masks and confidence that are known by hand, and training samples made of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.detector.maps import ConfidenceMaps, IndexedMasks
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.sidecars import confidence
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.masks import ImageCut, InstanceCut, StoredMask, StoredMasks, encode
from tests.support.photos import packed

GRID = 8


def photo_of(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A photo with a bright square on a dark ground."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    image[mask_of(number, size)] = (200, 180, 40 + number % 100)
    return image


def mask_of(number: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=bool)
    top, left = size[0] // 4, size[1] // 4 + number % 3
    mask[top : top + size[0] // 2, left : left + size[1] // 2] = True
    return mask


def cut_of(patch_mask: NDArray[np.bool_]) -> InstanceCut:
    """How a mask was cut, as far as training looks at it."""
    code = encode_rle(patch_mask)
    return InstanceCut(
        iteration=0, patch_mask=code, bipartition=code, source=(0, 0), sink=None, core=None, crf_iou=None
    )


def make_shards(
    folder: Path, *, images: int, shard_size: int, confident: bool = True, empty: Sequence[int] = ()
) -> list[Path]:
    """Shards of photos, lying and upright in turn, each with one mask; those in `empty` have none."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    sizes = [(48, 64) if number % 2 else (64, 48) for number in range(images)]
    for number, size in enumerate(sizes):
        Image.fromarray(photo_of(number, size)).save(photos / f"{number:03d}.png")
    out = folder / "shards"
    packed(photos, out, name="a", shard_size=shard_size)
    bases = sorted(out.glob("a-*.tar"))
    firsts = {base: index * shard_size for index, base in enumerate(bases)}

    def numbers(base: Path) -> range:
        return range(firsts[base], min(firsts[base] + shard_size, images))

    def masks(base: Path) -> Any:
        for number in numbers(base):
            size = sizes[number]
            codes = [] if number in empty else [encode_rle(mask_of(number, size))]
            history = cut_of(mask_of(number, (GRID, GRID)))
            stored = StoredMasks(
                size=size,
                method="cuts3d",
                instances=[StoredMask.of(code, cut=history) for code in codes],
                cut=ImageCut(grid=(GRID, GRID), stopped=None, dropped=()),
            )
            yield Outcome(key=f"{number:03d}", members=encode(stored))

    def scores(base: Path) -> Any:
        for number in numbers(base):
            count = 0 if number in empty else 1
            counts = np.full((count, GRID, GRID), 4, dtype=np.uint8)
            stored = StoredConfidence(counts=counts, scores=[0.8] * count, levels=5, floor=0.5, source="depth")
            yield Outcome(key=f"{number:03d}", members=confidence.encode(stored))

    run_shards(bases, stage="pseudo", config={}, inputs=lambda base: {"base": base}, outcomes=masks, if_exists="fail")
    if confident:
        run_shards(
            bases,
            stage="confidence",
            config={},
            inputs=lambda base: {"pseudo": sidecar(base, "pseudo")},
            outcomes=scores,
            if_exists="fail",
        )
    return bases


def sample_of(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], *, confidence: Sequence[float] | None = None
) -> dict[str, Any]:
    """A training sample; an instance's confidence is one number inside of it and 1 elsewhere."""
    size = image.shape[:2]
    stack = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), dtype=bool))
    values = torch.tensor(confidence if confidence is not None else [1.0] * len(masks))
    instances = Instances(size)
    instances.gt_masks = IndexedMasks(stack)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.zeros(len(masks), dtype=torch.int64)
    instances.gt_confidence = ConfidenceMaps.of(torch.where(stack, values[:, None, None], 1.0))
    instances.gt_scores = values
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return {
        "image": pixels,
        "height": size[0],
        "width": size[1],
        "key": "k",
        "shard": "s.tar",
        "instances": instances,
    }


def box(size: tuple[int, int], top: int, left: int, rows: int, columns: int) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + rows, left : left + columns] = True
    return mask
