"""`cuts3d confidence`: reads pseudo-masks and depth, writes a Spatial Confidence map and a score for every mask."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cuts3d_cli.config import PAPER, ConfidenceConfig, Config, output_dict, recorded_limits
from cuts3d_cli.cut.confidence import confidence_counts, mean_confidence, spatial_confidence
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.grid import depth_to_grid
from cuts3d_cli.cut.image import patch_depth
from cuts3d_cli.cut.localcut import grid_spacing
from cuts3d_cli.cut.masks import decode_rle, upsample_nearest
from cuts3d_cli.devices import worker_count
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import SampleError, ShardError, UsageError
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars.depth import finished_depth, stored_depth
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.sidecars.finished import require_sidecar
from cuts3d_cli.sidecars.photos import photo

CRF_LEVELS = 255
"""Probabilities of the CRF are stored in steps of 1/255."""


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The masks of one image, ready to be scored.

    Attributes:
        record: the pseudo sidecar's JSON.
        depth: (h, w) float32 in [0, 1], NaN where nothing was measured; for source "depth".
        image: (s, s, 3) uint8, RGB, the square image of the CRF; for source "crf".
        config: the section of the configuration, tau_knn resolved.
        cut: the configuration that the masks were cut with.
    """

    record: Mapping[str, Any]
    depth: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None
    config: ConfidenceConfig
    cut: Mapping[str, Any]


def run(shards: Sequence[Path], *, config: Config, progress: Progress | None = None) -> StageResult:
    """Score the pseudo-masks of every image.

    Args:
        shards: base shards with pseudo sidecars, and depth sidecars unless the CRF is the source.
        config: sections `confidence` and `run`.
        progress: told how far it is.

    Returns:
        What became of every shard.

    Raises:
        ShardError: a sidecar is missing, or holds masks that were not cut in 3D.
        UsageError: the thresholds do not fit the masks.
    """
    from_depth = config.confidence.source == "depth"

    def inputs(base: Path) -> Mapping[str, Path]:
        tar, _ = require_sidecar(base, "pseudo")
        return {"pseudo": tar, **({"depth": finished_depth(base)[0]} if from_depth else {"base": base})}

    settings = config.confidence
    if from_depth and settings.tau_knn is None:
        settings = replace(settings, tau_knn=_common_tau_knn(shards))

    with WorkerPool(worker_count(config.run.workers), memory=config.run.worker_memory) as pool:

        def outcomes(base: Path) -> Iterator[Outcome]:
            pairs = _tasks(base, config=settings, max_pixels=config.run.max_image_pixels)
            for item, future in pool.in_order(score_masks, pairs):
                yield _outcome(item, future, config=settings)

        return run_shards(
            shards,
            stage="confidence",
            config={"confidence": output_dict(settings), **({} if from_depth else recorded_limits(config.run))},
            inputs=inputs,
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            sharing=Sharing.of(config.run),
            info={"workers": pool.workers},
            progress=progress,
        )


def score_masks(task: ScoreTask) -> NDArray[np.uint8]:
    """Confidence of the masks of one image, in steps: what a worker process does.

    Returns:
        (M, H, W) uint8, one map a mask, in the order of the record.

    Raises:
        SampleError: the depth map is unusable.
        UsageError: the thresholds do not fit the grid.
    """
    instances = task.record["instances"]
    grid = tuple(task.record["grid"] or (0, 0))
    if not instances:
        return np.zeros((0, *grid), dtype=np.uint8)
    with threadpool_limits(limits=1):
        if task.config.source == "crf":
            return _from_crf(task, grid)
        return _from_depth(task, grid)


def _common_tau_knn(shards: Sequence[Path]) -> float:
    """The tau_knn that all masks were cut with; they must have been cut in 3D."""
    found = set()
    for base in shards:
        tar, manifest = require_sidecar(base, "pseudo")
        cut = manifest.config["pseudo"]
        if cut["method"] != "cuts3d" or cut["cut"] != "local":
            raise ShardError(
                f"{tar} holds masks that were cut in 2D, without a threshold to vary: run `cuts3d pseudo` with --method"
                " cuts3d --cut local, or pass --source crf"
            )
        found.add(float(cut["tau_knn"]))
    if len(found) != 1:
        raise ShardError(
            f"the shards were cut with different tau_knn ({', '.join(f'{tau:g}' for tau in sorted(found))}): pass"
            " --tau-knn, or score them in runs of their own"
        )
    return found.pop()


def _check_thresholds(config: ConfidenceConfig, grid: tuple[int, ...]) -> None:
    assert config.tau_knn is not None
    spacing = grid_spacing((grid[0], grid[1]))
    if config.tau_knn_min > config.tau_knn:
        raise UsageError(
            f"--tau-knn-min {config.tau_knn_min:g} is over the masks' tau_knn {config.tau_knn:g}: lower it, but not"
            f" under {spacing:.4f}, the diagonal spacing of the {grid[0]}x{grid[1]} grid"
        )
    if config.tau_knn_min < spacing:
        raise UsageError(
            f"--tau-knn-min {config.tau_knn_min:g} is under the diagonal spacing of the {grid[0]}x{grid[1]} grid,"
            f" {spacing:.4f}, and would take every object apart: raise it"
        )


def _from_depth(task: ScoreTask, grid: tuple[int, ...]) -> NDArray[np.uint8]:
    assert task.depth is not None
    assert task.config.tau_knn is not None
    _check_thresholds(task.config, grid)
    settings = replace(PAPER.pseudo, **{name: task.cut[name] for name in ("depth_sampling", "depth_clip")})
    depth = patch_depth(task.depth, (grid[0], grid[1]), settings)
    return np.stack(
        [
            confidence_counts(
                depth,
                decode_rle(item["bipartition"]),
                source=_source(item, grid),
                sink=None if item["sink"] is None else item["sink"][0] * grid[1] + item["sink"][1],
                tau_knn_min=task.config.tau_knn_min,
                tau_knn=task.config.tau_knn,
                cuts=task.config.cuts,
                k=task.cut["knn"],
                background_level=task.cut["background_level"],
                capacity=task.cut["capacity"],
                solver=task.cut["min_cut"],
            )
            for item in task.record["instances"]
        ]
    )


def _source(item: Mapping[str, Any], grid: tuple[int, ...]) -> int | NDArray[np.int64]:
    """The source node of an instance on record, or the nodes where it was cut with several."""
    if "core" in item:
        return np.flatnonzero(decode_rle(item["core"]))
    row, column = item["source"]
    return int(row * grid[1] + column)


def _from_crf(task: ScoreTask, grid: tuple[int, ...]) -> NDArray[np.uint8]:
    """The CRF's foreground probability of each mask, averaged over the patches (B.5)."""
    assert task.image is not None
    square = task.image.shape[:2]
    masks = [upsample_nearest(decode_rle(item["patch_mask"]), square) for item in task.record["instances"]]
    refined = refine_masks(task.image, masks, iterations=task.cut["crf_iterations"])
    maps = [depth_to_grid(np.clip(share, 0, 1), (grid[0], grid[1]), sampling="area") for _, share in refined]
    return np.rint(np.stack(maps) * CRF_LEVELS).astype(np.uint8)


def _square(sample: Sample | None, size: int, *, max_pixels: int) -> NDArray[np.uint8]:
    if sample is None:
        raise SampleError("the base shard has no such image")
    return resize_square(photo(sample, max_pixels=max_pixels), size)


_Key = tuple[str, str | None, Mapping[str, Any] | None]


def _tasks(base: Path, *, config: ConfidenceConfig, max_pixels: int) -> Iterator[tuple[_Key, ScoreTask | None]]:
    """A task an image that has masks on record; the others were reported by `pseudo` already."""
    pseudo_tar, pseudo = require_sidecar(base, "pseudo")
    cut = pseudo.config["pseudo"]
    with ExitStack() as stack:
        # Of depth and photos only what the source asks for is read.
        depths = stack.enter_context(SidecarReader(finished_depth(base)[0])) if config.source == "depth" else None
        photos = stack.enter_context(SidecarReader(base)) if config.source == "crf" else None
        for sample in read_shard(pseudo_tar):
            try:
                record = read_json(sample, "pseudo.json")
                depth = stored_depth(depths.get(sample.key), None) if depths else None
                image = _square(photos.get(sample.key), cut["crf_size"], max_pixels=max_pixels) if photos else None
            except SampleError as error:
                yield (sample.key, str(error), None), None
                continue
            task = ScoreTask(record=record, depth=depth, image=image, config=config, cut=cut)
            yield (sample.key, None, record), task


def _outcome(item: _Key, future: Future[NDArray[np.uint8]] | None, *, config: ConfidenceConfig) -> Outcome:
    key, failure, record = item
    if future is None or record is None:
        return Outcome(key=key, failure=failure)
    try:
        counts = result_of(future)
    except SampleError as error:
        return Outcome(key=key, failure=str(error))
    levels = CRF_LEVELS if config.source == "crf" else config.cuts
    maps = spatial_confidence(counts, levels=levels, floor=config.floor)
    scores = [
        round(mean_confidence(values, decode_rle(item["patch_mask"])), 6)
        for values, item in zip(maps, record["instances"], strict=True)
    ]
    facts = {"source": config.source, "levels": levels, "floor": config.floor, "scores": scores}
    buffer = io.BytesIO()
    np.save(buffer, counts, allow_pickle=False)
    return Outcome(
        key=key,
        members={"confidence.npy": buffer.getvalue(), "confidence.json": to_json_bytes(facts)},
        counts={"masks": len(scores)},
    )
