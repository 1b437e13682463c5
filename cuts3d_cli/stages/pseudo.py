"""`cuts3d pseudo`: reads base shards and their depth, writes the pseudo-masks of every image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import Config, output_dict, recorded_limits
from cuts3d_cli.cut.cuts3d import NO_STRUCTURE_REASON, check_tau_knn
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image, needs_depth, to_record
from cuts3d_cli.devices import graph_device, worker_count
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.engine.prefetch import prefetched
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import SampleError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.images import resize_square
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.stages.features import Say, stored_features
from cuts3d_cli.stages.loading import Loaded, PhotoAndDepth, ShardInputs, finished_depth, load_shard
from cuts3d_cli.timing import StepTimer


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

    device = graph_device(config.run.graphs, device=config.run.device)
    with WorkerPool(worker_count(config.run.workers), memory=config.run.worker_memory) as pool:

        def outcomes(base: Path) -> Iterator[Outcome]:
            if device is None:
                make_task = functools.partial(_task, config=config, tau_ncut=tau_ncut)
                prepared = _prepare(base, config=config, extractor=extractor, with_depth=with_depth)
                yield from _cut_all(prepared, make_task=make_task, pool=pool, method=settings.method)
            else:
                loaded = load_shard(base, config=config, extractor=extractor, with_depth=with_depth)
                yield from _cut_batched(
                    loaded, config=config, extractor=extractor, tau_ncut=tau_ncut, device=device, pool=pool
                )

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
            sharing=Sharing.of(config.run),
            info={"workers": pool.workers, "graphs": device or "workers"},
            progress=progress,
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


def _prepare(base: Path, *, config: Config, extractor: FeatureExtractor, with_depth: bool) -> Iterator[_Prepared]:
    timer = StepTimer()
    with ExitStack() as stack:
        inputs = ShardInputs(
            base,
            extractor=extractor,
            with_depth=with_depth,
            max_pixels=config.run.max_image_pixels,
            stack=stack,
        )

        def prepare(sample: Sample) -> PhotoAndDepth:
            with timer.step("read"):
                return inputs.photo(sample)

        def infer(batch: Sequence[PhotoAndDepth]) -> Sequence[NDArray[np.float16]]:
            with timer.step("features"):
                return extractor.extract([item.image for item in batch])

        def from_sidecar() -> Iterator[_Prepared]:
            for sample in read_shard(base):
                try:
                    item = prepare(sample)
                    with timer.step("read"):
                        vectors = inputs.features(sample)
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

        yield from from_sidecar() if inputs.has_features else from_network()


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


def _cut_batched(
    loaded: Iterator[Loaded],
    *,
    config: Config,
    extractor: FeatureExtractor,
    tau_ncut: float,
    device: str,
    pool: WorkerPool,
) -> Iterator[Outcome]:
    """Cut images with their graphs in batches on a device and give the outcomes back in order."""
    from cuts3d_cli.stages.pseudo_batched import BatchedCutter  # torch, which the other way does without

    cutter = BatchedCutter(
        config=config.pseudo,
        tau_ncut=tau_ncut,
        extract=extractor.extract_on_device,
        device=device,
        batch_size=config.run.batch_size,
        pool=pool,
    )
    with closing(prefetched(loaded, ahead=2 * config.run.batch_size)) as images:
        for cut in cutter.cut(images):
            if cut.result is None:
                yield Outcome(key=cut.key, failure=cut.failure, seconds=cut.seconds)
            else:
                yield _done(cut.key, cut.result, size=cut.size, method=config.pseudo.method, seconds=cut.seconds)


def _outcome(item: _Prepared, future: Future[Any] | None, *, method: str) -> Outcome:
    if future is None or item.image is None:
        return Outcome(key=item.key, failure=item.failure, seconds=item.seconds)
    try:
        result = result_of(future)
    except SampleError as error:
        return Outcome(key=item.key, failure=str(error), seconds=item.seconds)
    size = (item.image.height, item.image.width)
    return _done(item.key, result, size=size, method=method, seconds={**item.seconds, **result.seconds})


def _done(key: str, result: CutResult, *, size: tuple[int, int], method: str, seconds: Mapping[str, float]) -> Outcome:
    return Outcome(
        key=key,
        members={"pseudo.json": to_json_bytes(to_record(result, size=size, method=method))},
        dropped=result.dropped,
        counts={
            "masks": len(result.instances),
            "dropped": len(result.dropped),
            "without_mask": int(not result.instances),
            "dense_fallbacks": result.extraction.fallbacks,
            "stopped_early": int(result.extraction.stopped is not None),
            "no_structure": int(result.extraction.stopped == NO_STRUCTURE_REASON),
        },
        seconds=seconds,
    )
