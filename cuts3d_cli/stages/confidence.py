"""`cuts3d confidence`: reads pseudo-masks and depth, writes a Spatial Confidence map and a score for every mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cuts3d_cli.config import (
    ConfidenceConfig,
    Config,
    CutSettings,
    PseudoConfig,
    recorded_limits,
    resolve_recorded,
)
from cuts3d_cli.cut.confidence import (
    CRF_LEVELS,
    Thresholds,
    choose_thresholds,
    confidence_counts,
    crf_counts,
    mean_confidence,
)
from cuts3d_cli.cut.grid import patch_depth
from cuts3d_cli.cut.localcut import grid_spacing
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.cut.methods import METHODS, get_method
from cuts3d_cli.cut.perspective import in_perspective, surface_of
from cuts3d_cli.effects import recorded
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.engine.results import Outcome, Progress, ShardResult, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import Command, SampleError, Setting, ShardError
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.manifest import DERIVED, Manifest
from cuts3d_cli.shards.reader import Sample, SidecarReader
from cuts3d_cli.sidecars.confidence import StoredConfidence, encode
from cuts3d_cli.sidecars.depth import StoredDepth, finished_depth, stored_depth
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.masks import InstanceCut, StoredMasks, node_index
from cuts3d_cli.sidecars.masks import decode as decode_masks
from cuts3d_cli.sidecars.photos import photo
from cuts3d_cli.wording import Say

_TAU_KNN = "confidence.tau_knn"


@dataclass(frozen=True, kw_only=True)
class ScoreTask:
    """The masks of one image, ready to be scored.

    Attributes:
        masks: that are scored, with how they were cut.
        depth: for source "depth".
        image: (s, s, 3) uint8, RGB, the square image of the CRF; for source "crf".
        config: the section of the configuration, tau_knn resolved.
        cut: the settings that the masks were cut with.
    """

    masks: StoredMasks
    depth: StoredDepth | None
    image: NDArray[np.uint8] | None
    config: ConfidenceConfig
    cut: PseudoConfig


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Score the pseudo-masks of every image.

    Args:
        shards: base shards with pseudo sidecars, and depth sidecars unless the CRF is the source.
        config: sections `confidence` and `run`.
        progress: receives progress events.
        say: prints a status line.

    Returns:
        A result for each shard.

    Raises:
        ShardError: a sidecar is missing, or holds masks that were not cut in 3D.
        UsageError: the thresholds do not fit the masks.
    """
    from_depth = config.confidence.source == "depth"

    def inputs(base: Path) -> Mapping[str, Path]:
        tar, _ = require(base, "pseudo")
        return {"pseudo": tar, **({"depth": finished_depth(base)[0]} if from_depth else {"base": base})}

    settings = config.confidence
    if from_depth and settings.tau_knn is None:
        settings = replace(settings, tau_knn=_common_tau_knn(shards))

    limits = {} if from_depth else recorded_limits(config.run)
    with WorkerPool.of(config.run) as pool:

        def outcomes(base: Path) -> Iterator[Outcome]:
            pairs = _tasks(base, config=settings, max_pixels=config.run.max_image_pixels)
            for item, future in pool.in_order(score_masks, pairs):
                yield _outcome(item, future, config=settings)

        result = run_shards(
            shards,
            stage="confidence",
            config={"confidence": recorded("confidence", settings), **limits},
            inputs=inputs,
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            derived=(_TAU_KNN,) if config.confidence.tau_knn is None else (),
            sharing=Sharing.from_config(config.run),
            info={"workers": pool.workers, DERIVED: [_TAU_KNN] if _is_of_masks(settings, shards) else []},
            progress=progress,
        )
    return replace(result, shards=[_with_failed_before(shard) for shard in result.shards])


def _with_failed_before(result: ShardResult) -> ShardResult:
    """Return a result that counts the images that `pseudo` could not cut, and that were not looked at here."""
    if result.status in ("held", "broken"):
        return result
    return replace(result, counts={**result.counts, "failed_before": len(require(result.shard, "pseudo").failures)})


def score_masks(task: ScoreTask) -> NDArray[np.uint8]:
    """Confidence of the masks of one image, in steps: what a worker process does.

    Returns:
        (M, H, W) uint8, one map a mask, in the order of the masks.

    Raises:
        SampleError: the depth map is unusable, or a mask does not say how it was cut.
        UsageError: the thresholds do not fit the grid.
    """
    grid = (task.masks.cut.grid if task.masks.cut else None) or (0, 0)
    cuts = [item.cut for item in task.masks.instances if item.cut is not None]
    if len(cuts) != len(task.masks.instances):
        raise SampleError("its masks do not say how they were cut")
    if not cuts:
        return np.zeros((0, *grid), dtype=np.uint8)
    with threadpool_limits(limits=1):
        if task.config.source == "crf":
            return _from_crf(task, cuts)
        return _from_depth(task, cuts, grid)


def _is_of_masks(config: ConfidenceConfig, shards: Sequence[Path]) -> bool:
    """Return whether the highest threshold is the masks' own, so that it follows them when they are cut anew."""
    if config.source != "depth":
        return False
    try:
        return config.tau_knn == _common_tau_knn(shards)
    except ShardError:  # the masks have no threshold in common
        return False


def _common_tau_knn(shards: Sequence[Path]) -> float | Literal["auto"]:
    """Return the tau_knn that all masks were cut with; they must have been cut in 3D.

    Shards without masks are passed over, as long as there are others: the run lists them.
    """
    found: dict[float | Literal["auto"], Path] = {}
    missing: ShardError | None = None
    for base in shards:
        try:
            tar, manifest = require(base, "pseudo")
        except ShardError as error:
            missing = error
            continue
        cut = _recorded_cut(tar, manifest)
        if cut.method not in METHODS:
            raise ShardError(
                f"{tar} holds masks of the method '{cut.method}', which is not installed: set ",
                Setting("confidence.source", "crf"),
                f", or cut them again with one of {', '.join(METHODS)}",
            )
        if not get_method(cut.method).cuts_in_3d(cut):
            in_3d = (
                Setting("pseudo.method", "cuts3d"),
                Setting("pseudo.cut", "local"),
                Setting("run.if_exists", "replace"),
            )
            raise ShardError(
                f"{tar} holds masks that were cut in 2D, without a threshold to vary: run ",
                Command("pseudo", shards=base, settings=in_3d),
                ", or set ",
                Setting("confidence.source", "crf"),
            )
        found.setdefault(cut.tau_knn, tar)
    if not found and missing is not None:
        raise missing
    if len(found) != 1:
        raise ShardError(
            "the shards were cut with different tau_knn",
            f" ({', '.join(f'{tau} in {tar.name}' for tau, tar in found.items())}): set ",
            Setting("confidence.tau_knn"),
            ", or score them in runs of their own",
        )
    return next(iter(found))


def _recorded_cut(tar: Path, manifest: Manifest) -> PseudoConfig:
    """Return the settings that the masks of a pseudo sidecar were cut with."""
    return resolve_recorded(tar, "pseudo", manifest.config.get("pseudo")).pseudo


def check_thresholds(config: ConfidenceConfig, cut: CutSettings, grid: tuple[int, int]) -> None:
    """Check that the thresholds fit each other and the grid.

    Args:
        config: the section.
        cut: the settings that the masks are cut with.
        grid: (H, W) of the features.

    Raises:
        SettingError: the lowest threshold is over the highest, or under the distance of diagonal neighbours.
    """
    _thresholds(config, cut, spacing=grid_spacing(grid))


def _thresholds(config: ConfidenceConfig, cut: CutSettings, *, spacing: float) -> list[Thresholds]:
    return choose_thresholds(
        cut, spacing=spacing, tau_knn_min=config.tau_knn_min, tau_knn=config.tau_knn, cuts=config.cuts
    )


def _from_depth(task: ScoreTask, cuts: Sequence[InstanceCut], grid: tuple[int, int]) -> NDArray[np.uint8]:
    assert task.depth is not None
    cut, config = task.cut, task.config
    depth = patch_depth(task.depth.depth, grid, clip=cut.depth_clip, sampling=cut.depth_sampling)
    focal = task.masks.cut.focal if task.masks.cut else None
    view = in_perspective(task.depth.distance(), grid=grid, settings=cut, focal=focal)
    surface = surface_of(depth, view, settings=cut)
    thresholds = _thresholds(config, cut, spacing=surface.spacing)
    return np.stack(
        [
            confidence_counts(
                surface,
                decode_rle(item.bipartition),
                source=_source(item, grid),
                sink=None if item.sink is None else node_index(item.sink, grid),
                thresholds=thresholds,
                k=cut.knn,
                capacity=cut.capacity,
                seed=node_index(item.source, grid),
                min_area=cut.min_area,
            )
            for item in cuts
        ]
    )


def _source(item: InstanceCut, grid: tuple[int, int]) -> int | NDArray[np.int64]:
    """Return the source node of a stored mask, or the nodes where it was cut with several."""
    if item.core is not None:
        return np.flatnonzero(decode_rle(item.core))
    return node_index(item.source, grid)


def _from_crf(task: ScoreTask, cuts: Sequence[InstanceCut]) -> NDArray[np.uint8]:
    """Return the CRF's foreground probability of each mask, averaged over the patches (B.5)."""
    assert task.image is not None
    masks = [decode_rle(item.patch_mask) for item in cuts]
    return crf_counts(task.image, masks, iterations=task.cut.crf_iterations, backend=task.cut.crf_backend)


def _square(sample: Sample | None, size: int, *, max_pixels: int) -> NDArray[np.uint8]:
    if sample is None:
        raise SampleError("the base shard has no such image")
    return resize_square(photo(sample, max_pixels=max_pixels), size)


_Key = tuple[str, str | None, StoredMasks | None]


def _tasks(base: Path, *, config: ConfidenceConfig, max_pixels: int) -> Iterator[tuple[_Key, ScoreTask | None]]:
    """A task an image that has masks on record; the others were reported by `pseudo` already."""
    pseudo = require(base, "pseudo")
    cut = _recorded_cut(pseudo.tar, pseudo.manifest)
    with ExitStack() as stack:
        # Of depth and photos only what the source asks for is read.
        depths = stack.enter_context(finished_depth(base).open()) if config.source == "depth" else None
        photos = stack.enter_context(SidecarReader(base)) if config.source == "crf" else None
        for sample in pseudo.samples():
            try:
                stored = decode_masks(sample)
                depth = stored_depth(depths.get(sample.key), None) if depths else None
                image = _square(photos.get(sample.key), cut.crf_size, max_pixels=max_pixels) if photos else None
            except SampleError as error:
                yield (sample.key, str(error), None), None
                continue
            task = ScoreTask(masks=stored, depth=depth, image=image, config=config, cut=cut)
            yield (sample.key, None, stored), task


def _outcome(item: _Key, future: Future[NDArray[np.uint8]] | None, *, config: ConfidenceConfig) -> Outcome:
    key, failure, masks = item
    if future is None or masks is None:
        return Outcome(key=key, failure=failure)
    try:
        counts = result_of(future)
    except SampleError as error:
        return Outcome(key=key, failure=str(error))
    levels = CRF_LEVELS if config.source == "crf" else config.cuts
    stored = StoredConfidence(counts=counts, scores=(), levels=levels, floor=config.floor, source=config.source)
    scores = [
        round(mean_confidence(values, decode_rle(mask.cut.patch_mask)), 6)
        for values, mask in zip(stored.maps, masks.instances, strict=True)
        if mask.cut
    ]
    return Outcome(key=key, members=encode(replace(stored, scores=scores)), counts={"masks": len(scores)})
