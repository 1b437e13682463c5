"""`cuts3d pseudo`: reads base shards and their depth, writes the pseudo-masks of every image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from cuts3d_cli.config import Config, PseudoConfig, recorded_limits
from cuts3d_cli.cut.crf import check_backend
from cuts3d_cli.cut.image import CutTask, cut_image
from cuts3d_cli.cut.iterations import NO_STRUCTURE_REASON
from cuts3d_cli.cut.methods import get_method
from cuts3d_cli.devices import graph_device
from cuts3d_cli.effects import recorded
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool, result_of
from cuts3d_cli.engine.prefetch import prefetched
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import SampleError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.features.threshold import PHOTOS, with_threshold
from cuts3d_cli.sidecars.depth import finished_depth
from cuts3d_cli.sidecars.masks import encode, from_cut
from cuts3d_cli.stages.features import stored_features
from cuts3d_cli.stages.loading import ImageCut, load_shard, sample_features, with_features
from cuts3d_cli.stages.pseudo_notes import cut_notes, depth_counts, focal_counts
from cuts3d_cli.stages.reading import Loaded
from cuts3d_cli.timing import add_seconds
from cuts3d_cli.wording import Say


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Cut the pseudo-masks of every image.

    Features come from the features sidecar where there is one, else they are computed on the way. Either gives the
    same masks.

    Args:
        shards: base shards; with their depth sidecars, unless the method needs none.
        config: sections `pseudo`, `features` and `run`.
        progress: receives progress events.
        say: prints a status line.

    Returns:
        A result for each shard.

    Raises:
        ShardError: a shard is damaged, a depth sidecar is missing, or a features sidecar is of another backbone.
        UsageError: there is no such method, or its settings do not fit the grid.
        WeightsError: the backbone's weights are unavailable.
    """
    extractor = FeatureExtractor(config, say=say)
    settings = with_threshold(
        config.pseudo,
        spec=extractor.spec,
        features=partial(sample_features, shards, config=config, extractor=extractor, count=PHOTOS),
        say=say,
    )
    method = get_method(settings.method)
    method.check(settings, extractor.grid)
    check_backend(settings.crf_backend)
    with_depth = method.needs_depth(settings)

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
    with WorkerPool.of(config.run) as pool:
        # Where all features are stored and graphs are of the workers, no device is looked for.
        grows_on = device or (extractor.device if config.run.batch_size == "auto" else "cpu")
        batch_size = BatchSize.of(config.run, device=grows_on, say=say)
        cut = _cutter(settings, extractor=extractor, batch_size=batch_size, device=device, pool=pool)

        def outcomes(base: Path) -> Iterator[Outcome]:
            loaded = load_shard(base, config=config, extractor=extractor, with_depth=with_depth, pool=pool)
            # Without workers, reading ahead in a thread pays where a device computes; on the cores alone it does not.
            in_thread = device is not None and not pool.workers
            images = prefetched(loaded, ahead=2 * batch_size.current) if in_thread else loaded
            with closing(images):
                for image in cut(images):
                    yield _outcome(image, settings=settings)

        result = run_shards(
            shards,
            stage="pseudo",
            config={
                "pseudo": recorded("pseudo", settings),
                "features": extractor.recorded,
                **recorded_limits(config.run),
            },
            inputs=inputs,
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            files={"weights": "features.weights"},
            sharing=Sharing.from_config(config.run),
            info=lambda: {"workers": pool.workers, "graphs": device or "workers", **extractor.recorded_precision},
            progress=progress,
        )
    if say is not None:
        for note in cut_notes(result, settings=settings):
            say(note)
    return result


def _cutter(
    settings: PseudoConfig, *, extractor: FeatureExtractor, batch_size: BatchSize, device: str | None, pool: WorkerPool
) -> Callable[[Iterable[Loaded]], Iterator[ImageCut]]:
    """Return what cuts images in order: graphs in batches on a device, or one by one in the workers without one."""
    if device is not None:
        from cuts3d_cli.stages.pseudo_batched import BatchedCutter  # torch, which stored features do without otherwise

        return BatchedCutter(
            config=settings, extract=extractor.extract_on_device, device=device, batch_size=batch_size, pool=pool
        ).cut

    def task(image: Loaded) -> CutTask | None:
        if image.features is None or image.crf_image is None:
            return None
        return CutTask(
            image=image.crf_image,
            size=image.size,
            features=image.features,
            depth=image.depth,
            view=image.view,
            config=settings,
        )

    def cut(images: Iterable[Loaded]) -> Iterator[ImageCut]:
        complete = with_features(images, extract=extractor.extract_on_device, batch_size=batch_size)
        for image, future in pool.in_order(cut_image, ((image, task(image)) for image in complete)):
            result, failure = None, image.failure
            if future is not None:
                try:
                    result = result_of(future)
                except SampleError as error:
                    failure = str(error)
            seconds = add_seconds(image.seconds, result.seconds if result else {})
            yield ImageCut(
                key=image.key,
                size=image.size,
                result=result,
                failure=failure,
                seconds=seconds,
                is_relative=image.is_relative,
                is_flattened=image.is_flattened,
                focal=image.focal,
            )

    return cut


def _outcome(image: ImageCut, *, settings: PseudoConfig) -> Outcome:
    if image.result is None:
        return Outcome(key=image.key, failure=image.failure, seconds=image.seconds)
    result = image.result
    return Outcome(
        key=image.key,
        members=encode(from_cut(result, size=image.size, method=settings.method, focal=image.focal)),
        dropped=result.dropped,
        counts={
            "masks": len(result.instances),
            "dropped": len(result.dropped),
            "without_mask": int(not result.instances),
            "eigenproblems": result.extraction.eigenproblems,
            "dense_fallbacks": result.extraction.fallbacks,
            "stopped_early": int(result.extraction.stopped is not None),
            "no_structure": int(result.extraction.stopped == NO_STRUCTURE_REASON),
            **depth_counts(image, settings=settings),
            **focal_counts(image, settings=settings),
        },
        seconds=image.seconds,
    )
