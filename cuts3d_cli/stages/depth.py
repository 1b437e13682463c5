"""`cuts3d depth`: reads base shards, writes a depth map for every image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import Config, DepthConfig, recorded_limits
from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.depth.catalogue import DEPTHS, load_depth
from cuts3d_cli.depth.maps import normalise
from cuts3d_cli.devices import choose_device
from cuts3d_cli.effects import recorded
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import SampleError, WeightsError
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars.depth import StoredDepth, encode
from cuts3d_cli.sidecars.photos import photo_pixels, sensor_map
from cuts3d_cli.stages.pack_notes import missing_counts, missing_notes
from cuts3d_cli.wording import Say

Predict = Callable[[Sequence[NDArray[np.uint8]]], Sequence[NDArray[np.float32]]]


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Estimate, or take from the sensor, the depth of every image.

    Args:
        shards: base shards.
        config: sections `depth` and `run`.
        progress: receives progress events.
        say: prints a status line.

    Returns:
        A result for each shard.

    Raises:
        WeightsError: the network's weights are unavailable.
        ShardError: a shard is missing or damaged.
    """
    settings = config.depth
    device = choose_device(config.run.device) if settings.backend != "sensor" else "cpu"
    # Given weights are inputs: what they hold decides, not where they lie.
    shaping = {name: value for name, value in recorded("depth", settings).items() if name != "weights"}
    decode = functools.partial(photo_pixels, max_pixels=config.run.max_image_pixels)
    weights = _weight_files(settings)
    if settings.backend == "sensor":
        spec = DEPTHS["sensor"]

        def outcomes(base: Path) -> Iterator[Outcome]:
            for sample in read_shard(base):
                yield _from_sensor(sample, spec)

    else:

        @functools.cache
        def loaded() -> DepthBackend:
            return load_depth(settings, device=device, half=config.run.half)

        def outcomes(base: Path) -> Iterator[Outcome]:
            backend = loaded()  # not before a shard needs it: where all are finished, no weights are asked for

            def predict(images: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.float32]]:
                return backend.predict(images, max_side=settings.max_side)

            results = infer_in_batches(
                read_shard(base), batch_size=config.run.batch_size, prepare=decode, infer=predict
            )
            for item in results:
                if item.output is None:
                    yield Outcome(key=item.sample.key, failure=item.failure)
                else:
                    yield _to_outcome(item.sample.key, item.output, backend.spec)

    result = run_shards(
        shards,
        stage="depth",
        config={"depth": shaping, **recorded_limits(config.run)},
        inputs=lambda base: {"base": base, **weights},
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        files={"weights": "depth.weights"},
        sharing=Sharing.from_config(config.run),
        info={"device": device},
        progress=progress,
    )
    if say:
        done = replace(result, shards=[shard for shard in result.shards if shard.status == "done"])
        for note in missing_notes(done, command="pack"):
            say(note)
    return result


def _weight_files(settings: DepthConfig) -> dict[str, Path]:
    """Return the files of `depth.weights` by role; those of a folder by their paths in it, hidden ones left out."""
    path = settings.weights
    if path is None or settings.backend == "sensor":
        return {}
    if path.is_dir():
        files = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
        return {
            f"weights/{name.as_posix()}": files[name]
            for name in sorted(files)
            if not any(part.startswith(".") for part in name.parts)
        }
    if not path.is_file():
        hint = DEPTHS[settings.backend].weights_hint
        raise WeightsError(f"{path}: no such file or folder; for {settings.backend}: ", *hint)
    return {"weights": path}


def _from_sensor(sample: Sample, spec: DepthSpec) -> Outcome:
    try:
        found = sensor_map(sample)
    except SampleError as error:
        return Outcome(key=sample.key, failure=str(error))
    return _to_outcome(sample.key, found.metres, spec, counts=missing_counts(found.missing))


def _to_outcome(
    key: str, raw: NDArray[np.float32], spec: DepthSpec, *, counts: Mapping[str, int] | None = None
) -> Outcome:
    try:
        normalised = normalise(raw, direction=spec.direction, unit=spec.unit, zero_is_missing=spec.name == "sensor")
    except SampleError as error:
        return Outcome(key=key, failure=str(error))
    stored = StoredDepth(
        depth=normalised.depth,
        minimum=normalised.minimum,
        maximum=normalised.maximum,
        unit=spec.unit,
        direction=spec.direction,
        conversion=normalised.conversion,
        model=spec.model if spec.name != "sensor" else "sensor",
        backend=spec.name,
    )
    return Outcome(key=key, members=encode(stored), counts=counts or {})
