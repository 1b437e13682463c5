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

from cuts3d_cli.config import (
    ConfidenceConfig,
    Config,
    PseudoConfig,
    output_dict,
    recorded_limits,
    resolve_recorded,
)
from cuts3d_cli.cut.confidence import confidence_counts, mean_confidence, spatial_confidence
from cuts3d_cli.cut.crf import refine_masks
from cuts3d_cli.cut.grid import depth_to_grid, patch_depth
from cuts3d_cli.cut.localcut import grid_spacing
from cuts3d_cli.cut.masks import decode_rle, upsample_nearest
from cuts3d_cli.cut.methods import METHODS, get_method
from cuts3d_cli.devices import worker_count
from cuts3d_cli.engine.driver import finished_sidecar, require_sidecar, run_shards
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import SampleError, ShardError, UsageError
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.names import sidecar
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.stages.features import photo
from cuts3d_cli.stages.loading import finished_depth, stored_depth

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
        cut: the settings that the masks were cut with.
    """

    record: Mapping[str, Any]
    depth: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None
    config: ConfidenceConfig
    cut: PseudoConfig


def run(shards: Sequence[Path], *, config: Config, progress: Progress | None = None) -> StageResult:
    """Score the pseudo-masks of every image.

    Args:
        shards: base shards with pseudo sidecars, and depth sidecars unless the CRF is the source.
        config: sections `confidence` and `run`.
        progress: receives progress events.

    Returns:
        A result for each shard.

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


def current_confidence(base: Path) -> tuple[Path, Manifest] | None:
    """The finished confidence sidecar of a base shard, with its manifest.

    Returns:
        Both, or None if there is none.

    Raises:
        ShardError: the masks were cut anew since it was written.
    """
    found = finished_sidecar(base, "confidence")
    if found is None:
        return None
    tar, manifest = found
    _, pseudo = require_sidecar(base, "pseudo")
    scored = manifest.inputs.get("pseudo")
    if scored is None or scored.sha256 != pseudo.sha256:
        raise ShardError(
            f"{tar} scores other masks than {sidecar(base, 'pseudo').name} holds now: run `cuts3d confidence --shards"
            f" {base}` again, or delete it"
        )
    return tar, manifest


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


def read_confidence(sample: Sample) -> tuple[NDArray[np.float32], list[float]]:
    """What a confidence sidecar holds for one image.

    Returns:
        (M, H, W) float32 in [floor, 1], one map a mask; and the mean of each over its mask.

    Raises:
        SampleError: a member is missing or damaged.
    """
    try:
        counts = decode_npy(sample.members["confidence.npy"])
    except KeyError as error:
        raise SampleError("the stored confidence has no maps") from error
    except ValueError as error:
        raise SampleError(f"the stored confidence cannot be read: {error}") from error
    facts = read_json(sample, "confidence.json")
    if counts.ndim != 3 or counts.dtype != np.uint8 or counts.max(initial=0) > facts["levels"]:
        raise SampleError(
            f"the stored confidence is {counts.dtype} of shape {counts.shape}, up to {counts.max(initial=0)}, not uint8"
            f" (M, H, W) up to {facts['levels']}"
        )
    maps = spatial_confidence(counts, levels=facts["levels"], floor=facts["floor"])
    scores = [float(score) for score in facts["scores"]]
    if len(scores) != len(maps):
        raise SampleError(f"the stored confidence has {len(maps)} maps and {len(scores)} scores")
    return maps, scores


def _common_tau_knn(shards: Sequence[Path]) -> float:
    """Return the tau_knn that all masks were cut with; they must have been cut in 3D."""
    found = set()
    for base in shards:
        tar, manifest = require_sidecar(base, "pseudo")
        cut = _recorded_cut(tar, manifest)
        if cut.method not in METHODS:
            raise ShardError(
                f"{tar} holds masks of the method '{cut.method}', which is not installed: pass --source crf, or cut"
                f" them again with one of {', '.join(METHODS)}"
            )
        if not get_method(cut.method).cuts_in_3d(cut):
            raise ShardError(
                f"{tar} holds masks that were cut in 2D, without a threshold to vary: run `cuts3d pseudo` with --method"
                " cuts3d --cut local, or pass --source crf"
            )
        found.add(cut.tau_knn)
    if len(found) != 1:
        raise ShardError(
            f"the shards were cut with different tau_knn ({', '.join(f'{tau:g}' for tau in sorted(found))}): pass"
            " --tau-knn, or score them in runs of their own"
        )
    return found.pop()


def _recorded_cut(tar: Path, manifest: Manifest) -> PseudoConfig:
    """Return the settings that the masks of a pseudo sidecar were cut with."""
    return resolve_recorded(tar, "pseudo", manifest.config["pseudo"]).pseudo


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
    cut = task.cut
    depth = patch_depth(task.depth, (grid[0], grid[1]), clip=cut.depth_clip, sampling=cut.depth_sampling)
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
                k=cut.knn,
                background_level=cut.background_level,
                capacity=cut.capacity,
                solver=cut.min_cut,
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
    refined = refine_masks(task.image, masks, iterations=task.cut.crf_iterations)
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
    cut = _recorded_cut(pseudo_tar, pseudo)
    with ExitStack() as stack:
        # Of depth and photos only what the source asks for is read.
        depths = stack.enter_context(SidecarReader(finished_depth(base)[0])) if config.source == "depth" else None
        photos = stack.enter_context(SidecarReader(base)) if config.source == "crf" else None
        for sample in read_shard(pseudo_tar):
            try:
                record = read_json(sample, "pseudo.json")
                depth = stored_depth(depths.get(sample.key), None) if depths else None
                image = _square(photos.get(sample.key), cut.crf_size, max_pixels=max_pixels) if photos else None
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
