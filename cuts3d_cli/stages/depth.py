"""`cuts3d depth`: reads base shards, writes a depth map for every image."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuts3d_cli.config import Config, DepthConfig, recorded_limits, recorded_precision
from cuts3d_cli.depth.base import DepthBackend, DepthSpec
from cuts3d_cli.depth.catalogue import depth_spec, load_depth
from cuts3d_cli.depth.maps import normalise
from cuts3d_cli.depth.pretrained import pretrained_files
from cuts3d_cli.devices import choose_device, choose_precision
from cuts3d_cli.effects import recorded
from cuts3d_cli.engine.batch_size import BatchSize
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.pool import WorkerPool
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import Message, SampleError, Setting, ShardError, WeightsError
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.shards.reader import Sample, read_shard
from cuts3d_cli.sidecars.depth import StoredDepth, encode
from cuts3d_cli.sidecars.photos import has_sensor_map, photo_pixels, sensor_map
from cuts3d_cli.stages.pack_notes import missing_counts, missing_notes
from cuts3d_cli.stages.reading import bytes_to_read
from cuts3d_cli.wording import Say

_Given = tuple[NDArray[np.uint8], NDArray[np.float32] | None]
"""A photo, and the map of a sensor for a network that needs one."""
_LATER_FIELDS = ("gives", "zoedepth_flip")
"""Fields that older manifests lack: they are recorded where they are set, so that finished shards stay finished."""


def run(
    shards: Sequence[Path],
    *,
    config: Config,
    progress: Progress | None = None,
    say: Say | None = None,
    loaded_before: Sequence[DepthBackend] = (),
) -> StageResult:
    """Estimate, or take from the sensor, the depth of every image.

    Args:
        shards: base shards.
        config: sections `depth` and `run`.
        progress: receives progress events.
        say: prints a status line.
        loaded_before: the network of these settings, where it is loaded already.

    Returns:
        A result for each shard.

    Raises:
        WeightsError: the network's weights are unavailable.
        ShardError: a shard is missing or damaged.
    """
    settings, spec = config.depth, depth_spec(config.depth.backend)
    device = choose_device(config.run.device) if spec.load else "cpu"
    pool = WorkerPool.for_reading(config.run, device=device) if spec.load else WorkerPool(0)
    weights = _weight_files(settings, spec)
    if say and spec.load is not None and not spec.prompted and _first_has_map(shards):
        unused = f"the photos have depth maps, which {spec.name} does not use: "
        say(Message(unused, Setting("depth.backend", "sensor"), " takes them"))
    if spec.load is None:

        def outcomes(base: Path) -> Iterator[Outcome]:
            for sample in read_shard(base):
                yield _from_sensor(sample, spec)

        def info() -> Mapping[str, Any]:
            return {"device": device}

    else:
        choose_precision(config.run.precision, device=device)  # refuses before anything is read
        precision = recorded_precision(config.run)
        batch_size = BatchSize.of(config.run, device=device, say=say)

        @functools.cache
        def loaded() -> DepthBackend:
            if loaded_before:
                return loaded_before[0]
            return load_depth(settings, device=device, precision=config.run.precision)

        def outcomes(base: Path) -> Iterator[Outcome]:
            backend = loaded()  # not before a shard needs it: where all are finished, no weights are asked for
            prompted = backend.spec.prompted
            prepare = functools.partial(_given, prompted=prompted, max_pixels=config.run.max_image_pixels)
            samples = read_shard(base)

            def predict(given: Sequence[_Given]) -> Sequence[NDArray[np.float32]]:
                prompts = [prompt for _, prompt in given if prompt is not None]
                further: Mapping[str, Any] = {"prompts": prompts} if prompted else {}
                return backend.predict([pixels for pixels, _ in given], max_side=settings.max_side, **further)

            results = infer_in_batches(
                samples if prompted else map(bytes_to_read, samples),
                batch_size=batch_size,
                prepare=prepare,
                infer=predict,
                pool=pool,
            )
            for item in results:
                if item.output is None:
                    yield Outcome(key=item.sample.key, failure=item.failure)
                else:
                    yield _to_outcome(item.sample.key, item.output, backend.spec)

        @functools.cache
        def info() -> Mapping[str, Any]:
            return {"device": device, **precision, "network": _provenance(loaded())}

    with pool:
        result = run_shards(
            shards,
            stage="depth",
            config={"depth": _recorded(settings, spec), **recorded_limits(config.run)},
            inputs=lambda base: {"base": base, **weights},
            outcomes=outcomes,
            if_exists=config.run.if_exists,
            files={"weights": "depth.weights"},
            sharing=Sharing.from_config(config.run),
            info=info,
            progress=progress,
        )
    if say:
        done = replace(result, shards=[shard for shard in result.shards if shard.status == "done"])
        for note in missing_notes(done):
            say(note)
    return result


def _first_has_map(shards: Sequence[Path]) -> bool:
    """Tell whether the first photo has a sensor's map. That a shard cannot be read is told when it is its turn."""
    try:
        return any(map(has_sensor_map, islice(read_shard(shards[0]), 1))) if shards else False
    except ShardError:
        return False


def _given(sample: Sample, *, prompted: bool, max_pixels: int) -> _Given:
    """Return what a network is given of a sample; runs in a worker process.

    Raises:
        SampleError: the photo, or the map that the network needs, cannot be used.
    """
    return photo_pixels(sample, max_pixels=max_pixels), sensor_map(sample).metres if prompted else None


def _recorded(settings: DepthConfig, spec: DepthSpec) -> dict[str, Any]:
    """Return what the manifest records and hashes."""
    # Given weights are inputs: what they hold decides, not where they lie.
    values = {name: value for name, value in recorded("depth", settings).items() if name != "weights"}
    for name in _LATER_FIELDS:
        if not values[name]:
            del values[name]
    return {**values, "backend": spec.name}


def _weight_files(settings: DepthConfig, spec: DepthSpec) -> dict[str, Path]:
    """Return the files of the given weights by role; those of a folder by their paths in it, hidden ones left out."""
    path = settings.weights or spec.folder
    if path is None or spec.load is None:
        return {}
    if path.is_dir():
        return {f"weights/{file.relative_to(path).as_posix()}": file for file in pretrained_files(spec, path)}
    if not path.is_file():
        raise WeightsError(f"{path}: no such file or folder; for {spec.name}: ", *spec.way_out)
    return {"weights": path}


def _provenance(backend: DepthBackend) -> dict[str, Any]:
    """Return what was loaded, for the manifest."""
    spec = backend.spec
    folder = os.path.commonpath([file.parent for file in backend.files]) if backend.files else ""
    files = {file.relative_to(folder).as_posix(): digest_file(file).sha256 for file in backend.files}
    return {"model": spec.model, "direction": spec.direction, "unit": spec.unit, "files": files}


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
