"""`cuts3d features`: reads base shards, writes the patch features of every image. Also computes them for `pseudo`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cuts3d_cli.config import Config, recorded_limits
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import Command, Setting, ShardError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars.features import StoredFeatures, encode
from cuts3d_cli.sidecars.finished import FinishedSidecar, finished
from cuts3d_cli.stages.reading import bytes_to_read, read_square
from cuts3d_cli.wording import Say


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Compute the features of every image.

    Args:
        shards: base shards.
        config: sections `features` and `run`.
        progress: receives progress events.
        say: prints a status line.

    Returns:
        A result for each shard.

    Raises:
        WeightsError: the backbone's weights are unavailable.
        ShardError: a shard is missing or damaged.
    """
    extractor = FeatureExtractor(config, say=say)
    prepare = functools.partial(read_square, size=extractor.size, max_pixels=config.run.max_image_pixels)
    _ = extractor.precision  # refused before anything is read
    pool = WorkerPool.for_reading(config.run, device=extractor.device)

    batch_size = BatchSize.of(config.run, device=extractor.device, say=say)

    def outcomes(base: Path) -> Iterator[Outcome]:
        results = infer_in_batches(
            map(bytes_to_read, read_shard(base)),
            batch_size=batch_size,
            prepare=prepare,
            infer=extractor.extract_squares,
            pool=pool,
        )
        for item in results:
            if item.output is None:
                yield Outcome(key=item.sample.key, failure=item.failure)
            elif not np.isfinite(item.output).all():
                yield Outcome(key=item.sample.key, failure="its features are NaN, or too large for float16")
            else:
                stored = StoredFeatures(
                    features=item.output,
                    backbone=extractor.spec.name,
                    size=extractor.size,
                    tensor=extractor.spec.tensor,
                )
                yield Outcome(key=item.sample.key, members=encode(stored))

    with pool:
        return run_shards(
            shards,
            stage="features",
            config={"features": extractor.recorded, **recorded_limits(config.run)},
            inputs=lambda base: {"base": base, "weights": extractor.weights},
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            files={"weights": "features.weights"},
            sharing=Sharing.from_config(config.run),
            info=lambda: {"device": extractor.device, **extractor.recorded_precision},
            progress=progress,
        )


def stored_features(base: Path, extractor: FeatureExtractor) -> FinishedSidecar | None:
    """Find the finished features sidecar of a shard.

    Args:
        base: the base shard.
        extractor: what the run asks for.

    Returns:
        The sidecar, or None if there is none that was finished.

    Raises:
        ShardError: it holds features of another backbone, size or file of weights.
    """
    found = finished(base, "features")
    if found is None:
        return None
    tar, manifest = found
    recorded = manifest.config.get("features")
    if recorded != extractor.recorded:
        raise ShardError(
            f"{tar} holds features of {_described(recorded)}, this run asks for {_described(extractor.recorded)}: set ",
            Setting("features.backbone"),
            " and ",
            Setting("features.size"),
            " to match, or delete the file",
        )
    if extractor.asks_for_weights:
        used = manifest.inputs.get("weights")
        if used is None or digest_file(extractor.weights, known=used).sha256 != used.sha256:
            raise ShardError(
                f"{tar} holds features of other weights than {extractor.weights}: run ",
                Command(
                    "features",
                    shards=base,
                    settings=(
                        Setting("features.weights", str(extractor.weights)),
                        Setting("run.if_exists", "replace"),
                    ),
                ),
                ", or delete the file",
            )
    return found


def _described(recorded: Any) -> str:
    """Return which features a manifest says that it is of, which another program may have written."""
    known = recorded if isinstance(recorded, dict) else {}
    tensor = f"{known['tensor']} of " if "tensor" in known else ""
    return f"{tensor}{known.get('backbone', 'an unknown backbone')} at {known.get('size', 'an unknown size')}"
