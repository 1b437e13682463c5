"""`cuts3d pseudo`: reads base shards and their depth, writes the pseudo-masks of every image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import Config, output_dict, recorded_limits
from cuts3d_cli.cut.cuts3d import NO_STRUCTURE_REASON, check_tau_knn
from cuts3d_cli.cut.timing import StepTimer
from cuts3d_cli.depths.maps import decode_depth_png
from cuts3d_cli.errors import SampleError
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.shards.writer import to_json_bytes
from cuts3d_cli.stages.batches import infer_in_batches
from cuts3d_cli.stages.cutting import CutTask, cut_image, needs_depth, to_record
from cuts3d_cli.stages.devices import worker_count
from cuts3d_cli.stages.driver import require_sidecar, run_shards
from cuts3d_cli.stages.features import FeatureExtractor, Say, photo, read_features, stored_features
from cuts3d_cli.stages.pool import WorkerPool, result_of
from cuts3d_cli.stages.results import Outcome, Progress, StageResult


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Cut the pseudo-masks of every image.

    Features come from the features sidecar where there is one, else they are computed on the way. Either gives the
    same masks.

    Args:
        shards: base shards; with their depth sidecars, unless the method needs none.
        config: sections `pseudo`, `features` and `run`.
        progress: told how far it is.
        say: told in a line what is being fetched.

    Returns:
        What became of every shard.

    Raises:
        ShardError: a shard is damaged, a depth sidecar is missing, or a features sidecar is of another backbone.
        UsageError: tau_knn does not fit the grid.
        WeightsError: the backbone's weights cannot be had.
    """
    settings = config.pseudo
    extractor = FeatureExtractor(config, say=say)
    tau_ncut = extractor.spec.tau_ncut if settings.tau_ncut is None else settings.tau_ncut
    with_depth = needs_depth(settings)
    if settings.method == "cuts3d" and settings.cut == "local":
        check_tau_knn(settings.tau_knn, extractor.grid)

    def inputs(base: Path) -> Mapping[str, Path]:
        files = {"base": base}
        if with_depth:
            files["depth"], _ = finished_depth(base)
        stored = stored_features(base, extractor)
        if stored:
            files["features"], _ = stored
        else:
            files["weights"] = extractor.weights
        return files

    with WorkerPool(worker_count(config.run.workers), memory=config.run.worker_memory) as pool:

        def outcomes(base: Path) -> Iterator[Outcome]:
            make_task = functools.partial(_task, config=config, tau_ncut=tau_ncut)
            prepared = _prepare(base, config=config, extractor=extractor, with_depth=with_depth)
            yield from _cut_all(prepared, make_task=make_task, pool=pool, method=settings.method)

        return run_shards(
            shards,
            stage="pseudo",
            config={
                "pseudo": {**output_dict(settings), "tau_ncut": tau_ncut},
                "features": extractor.recorded,
                **recorded_limits(config.run),
            },
            inputs=inputs,
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            info={"workers": pool.workers},
            progress=progress,
        )


def finished_depth(base: Path) -> tuple[Path, Manifest]:
    """The finished depth sidecar of a base shard, with its manifest.

    Raises:
        ShardError: there is none; the line says how to make it.
    """
    return require_sidecar(
        base,
        "depth",
        further=" (with --backend sensor if depth maps were packed with the images), or cut in 2D with --method"
        " maskcut",
    )


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """An image with what it takes to cut it, or the reason why it cannot be."""

    key: str
    image: Image.Image | None = None
    features: NDArray[np.float16] | None = None
    depth: NDArray[np.float32] | None = None
    failure: str | None = None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class _Input:
    image: Image.Image
    depth: NDArray[np.float32] | None


def _prepare(base: Path, *, config: Config, extractor: FeatureExtractor, with_depth: bool) -> Iterator[_Prepared]:
    timer = StepTimer()
    stored = stored_features(base, extractor)
    with ExitStack() as stack:
        depths = None
        reasons: dict[str, str] = {}
        if with_depth:
            depth_tar, depth_manifest = finished_depth(base)
            depths = stack.enter_context(SidecarReader(depth_tar))
            reasons = _failures(depth_manifest)

        def prepare(sample: Sample) -> _Input:
            with timer.step("read"):
                image = photo(sample, max_pixels=config.run.max_image_pixels)
                depth = stored_depth(depths.get(sample.key), reasons.get(sample.key)) if depths else None
                return _Input(image=image, depth=depth)

        def infer(batch: Sequence[_Input]) -> Sequence[NDArray[np.float16]]:
            with timer.step("features"):
                return extractor.extract([item.image for item in batch])

        def from_sidecar(tar: Path, manifest: Manifest) -> Iterator[_Prepared]:
            features, failures = stack.enter_context(SidecarReader(tar)), _failures(manifest)
            for sample in read_shard(base):
                try:
                    item = prepare(sample)
                    with timer.step("read"):
                        vectors = read_features(features.get(sample.key), failures.get(sample.key))
                    yield _Prepared(
                        key=sample.key, image=item.image, features=vectors, depth=item.depth, seconds=timer.take()
                    )
                except SampleError as error:
                    yield _Prepared(key=sample.key, failure=str(error), seconds=timer.take())

        def from_network() -> Iterator[_Prepared]:
            results = infer_in_batches(read_shard(base), batch_size=config.run.batch_size, prepare=prepare, infer=infer)
            for item in results:
                if item.prepared is None or item.output is None:
                    yield _Prepared(key=item.sample.key, failure=item.failure, seconds=timer.take())
                else:
                    yield _Prepared(
                        key=item.sample.key,
                        image=item.prepared.image,
                        features=item.output,
                        depth=item.prepared.depth,
                        seconds=timer.take(),
                    )

        yield from from_sidecar(*stored) if stored else from_network()


def _failures(manifest: Manifest) -> dict[str, str]:
    """Why samples are not in a sidecar, by key."""
    return {item["key"]: item["reason"] for item in manifest.failed}


def _task(item: _Prepared, *, config: Config, tau_ncut: float) -> CutTask:
    assert item.image is not None
    assert item.features is not None
    return CutTask(
        image=resize_square(item.image, config.pseudo.crf_size),
        size=(item.image.height, item.image.width),
        features=item.features,
        depth=item.depth,
        config=config.pseudo,
        tau_ncut=tau_ncut,
    )


def _cut_all(
    prepared: Iterator[_Prepared],
    *,
    make_task: Callable[[_Prepared], CutTask],
    pool: WorkerPool,
    method: str,
) -> Iterator[Outcome]:
    """Cut images in the pool and give the outcomes back in order."""
    pairs = ((item, None if item.failure else make_task(item)) for item in prepared)
    for item, future in pool.in_order(cut_image, pairs):
        yield _outcome(item, future, method=method)


def _outcome(item: _Prepared, future: Future[Any] | None, *, method: str) -> Outcome:
    if future is None or item.image is None:
        return Outcome(key=item.key, failure=item.failure, seconds=item.seconds)
    try:
        result = result_of(future)
    except SampleError as error:
        return Outcome(key=item.key, failure=str(error), seconds=item.seconds)
    record = to_record(result, size=(item.image.height, item.image.width), method=method)
    return Outcome(
        key=item.key,
        members={"pseudo.json": to_json_bytes(record)},
        dropped=result.dropped,
        counts={
            "masks": len(result.instances),
            "dropped": len(result.dropped),
            "without_mask": int(not result.instances),
            "dense_fallbacks": result.extraction.fallbacks,
            "stopped_early": int(result.extraction.stopped is not None),
            "no_structure": int(result.extraction.stopped == NO_STRUCTURE_REASON),
        },
        seconds={**item.seconds, **result.seconds},
    )


def stored_depth(sample: Sample | None, reason: str | None) -> NDArray[np.float32]:
    """The depth map of a sample of a depth sidecar.

    Args:
        sample: of the sidecar; None if it holds none of that key.
        reason: why it failed there, if that is known.

    Returns:
        (h, w) float32 in [0, 1], NaN where nothing was measured.

    Raises:
        SampleError: there is none, or it is damaged.
    """
    if sample is None or "depth.png" not in sample.members:
        raise SampleError(f"it has no depth: {reason or 'the depth sidecar has nothing for it'}")
    return decode_depth_png(sample.members["depth.png"])
