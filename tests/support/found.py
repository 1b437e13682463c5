"""Shards of real photos with masks and detections that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.sidecars import (
    StoredConfidence,
    StoredDetections,
    StoredMask,
    StoredMasks,
    confidence,
    detections,
    masks,
)
from cuts3d_cli.sidecars.finished import require
from tests.support.photos import encoded, packed

WIDTH, HEIGHT = 40, 30
Masks = Sequence[NDArray[np.bool_]]


def rectangle(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


PLAIN = rectangle(2, 3, 12, 13)
RING = rectangle(8, 5, 26, 25) & ~rectangle(12, 9, 20, 20)
PARTS = rectangle(28, 2, 34, 8) | rectangle(30, 15, 38, 28)
FOUND: Mapping[str, Masks | None] = {
    "sub/a.jpg": [PLAIN, RING, PARTS],
    "sub/c\u00e9.PNG": [RING],
    "empty.jpg": [],
    "failed.jpg": None,
}
"""Photo -> its masks; None where the stage failed."""


def base_shards(folder: Path, files: Sequence[str], *, shard_size: int = 100) -> list[Path]:
    """Shards folder/s-000.tar, ... of gray photos."""
    for file in files:
        path = folder / "source" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
        path.write_bytes(encoded(pixels, "PNG" if file.lower().endswith("png") else "JPEG"))
    result = packed(folder / "source", folder / "shards", shard_size=shard_size)
    return [item.shard for item in result.shards]


def with_masks(folder: Path, found: Mapping[str, Masks | None] = FOUND, *, shard_size: int = 100) -> list[Path]:
    """Shards with a pseudo sidecar."""
    bases = base_shards(folder, list(found), shard_size=shard_size)
    for base in bases:
        cut(base, found)
    return bases


def cut(base: Path, found: Mapping[str, Masks | None], *, stage: str = "pseudo") -> None:
    """Write a sidecar of masks."""
    _write(base, stage, {key: None if items is None else _masks(items) for key, items in _by_key(found).items()})


def score(base: Path, found: Mapping[str, Masks | None], scores: Mapping[str, Sequence[float] | None]) -> None:
    """Write a confidence sidecar; an image failed where its scores are None."""
    keyed = {key: len(items or ()) for key, items in _by_key(found).items() if items is not None}
    by_key = {_key(file): values for file, values in scores.items()}
    members = {}
    for key, count in keyed.items():
        values = by_key.get(key, [0.5] * count)
        members[key] = (
            None
            if values is None
            else confidence.encode(
                StoredConfidence(
                    counts=np.ones((count, 2, 2), dtype=np.uint8), scores=values, levels=6, floor=0.5, source="depth"
                )
            )
        )
    run_shards(
        [base],
        stage="confidence",
        config={},
        inputs=lambda base: {"pseudo": require(base, "pseudo").tar},
        outcomes=lambda base: iter(_outcomes(members)),
        if_exists="overwrite",
    )


def detect(base: Path, found: Mapping[str, Sequence[tuple[Any, ...]]], *, stage: str = "predict") -> None:
    """Write a sidecar of detections, (mask, score) each, or (mask, score, class)."""
    members = {
        _key(file): detections.encode(
            StoredDetections(
                size=(HEIGHT, WIDTH),
                instances=[
                    replace(StoredMask.of(encode_rle(mask)), score=value, class_id=number[0] if number else None)
                    for mask, value, *number in items
                ],
            )
        )
        for file, items in found.items()
    }
    _write(base, stage, members)


def _masks(items: Masks) -> dict[str, bytes]:
    instances = [StoredMask.of(encode_rle(mask)) for mask in items]
    return masks.encode(StoredMasks(size=(HEIGHT, WIDTH), method="cuts3d", instances=instances))


def _write(base: Path, stage: str, members: Mapping[str, Mapping[str, bytes] | None]) -> None:
    run_shards(
        [base],
        stage=stage,
        config={},
        inputs=lambda base: {"base": base},
        outcomes=lambda base: iter(_outcomes({key: members.get(key) for key in _keys(base)})),
        if_exists="overwrite",
    )


def _outcomes(members: Mapping[str, Mapping[str, bytes] | None]) -> list[Outcome]:
    return [
        Outcome(key=key, failure="it is broken") if content is None else Outcome(key=key, members=content)
        for key, content in members.items()
    ]


def _keys(base: Path) -> list[str]:
    from cuts3d_cli.shards.reader import SidecarReader

    with SidecarReader(base) as reader:
        return list(reader.keys)


def _by_key(found: Mapping[str, Masks | None]) -> dict[str, Masks | None]:
    return {_key(file): items for file, items in found.items()}


def _key(file: str) -> str:
    return file.rpartition(".")[0].replace(".", "_")
