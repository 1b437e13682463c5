"""`cuts3d features`: reads base shards, writes the patch features of every image. Also computes them for `pseudo`."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import MAX_IMAGE_PIXELS, Config, recorded_limits
from cuts3d_cli.engine.batches import infer_in_batches
from cuts3d_cli.engine.driver import finished_sidecar, run_shards
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Sharing
from cuts3d_cli.errors import SampleError, ShardError
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.manifest import Manifest, digest_file
from cuts3d_cli.shards.reader import Sample, image_member, read_shard
from cuts3d_cli.sidecars.npy import decode_npy
from cuts3d_cli.wording import first_line

if TYPE_CHECKING:
    pass

Say = Callable[[str], None]


def run(
    shards: Sequence[Path], *, config: Config, progress: Progress | None = None, say: Say | None = None
) -> StageResult:
    """Compute the features of every image.

    Args:
        shards: base shards.
        config: sections `features` and `run`.
        progress: told how far it is.
        say: told in a line what is being fetched.

    Returns:
        What became of every shard.

    Raises:
        WeightsError: the backbone's weights cannot be had.
        ShardError: a shard is missing or damaged.
    """
    extractor = FeatureExtractor(config, say=say)
    decode = functools.partial(photo, max_pixels=config.run.max_image_pixels)

    def outcomes(base: Path) -> Iterator[Outcome]:
        facts = to_json_bytes({**extractor.recorded, "tensor": extractor.spec.tensor})
        results = infer_in_batches(
            read_shard(base), batch_size=config.run.batch_size, prepare=decode, infer=extractor.extract
        )
        for item in results:
            if item.output is None:
                yield Outcome(key=item.sample.key, failure=item.failure)
            else:
                members = {"features.npy": _to_npy(item.output), "features.json": facts}
                yield Outcome(key=item.sample.key, members=members)

    return run_shards(
        shards,
        stage="features",
        config={"features": extractor.recorded, **recorded_limits(config.run)},
        inputs=lambda base: {"base": base, "weights": extractor.weights},
        outcomes=outcomes,
        if_exists=config.run.if_exists,
        sharing=Sharing.of(config.run),
        info={"device": extractor.device},
        progress=progress,
    )


def photo(sample: Sample, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The decoded photo of a sample.

    Args:
        sample: of a base shard.
        max_pixels: a photo with more is refused.

    Raises:
        SampleError: there is none, or it cannot be decoded.
    """
    _, data = image_member(sample)
    return decode_image(data, max_pixels=max_pixels)


def stored_features(base: Path, extractor: FeatureExtractor) -> tuple[Path, Manifest] | None:
    """The finished features sidecar of a shard, with its manifest.

    Args:
        base: the base shard.
        extractor: what the run asks for.

    Returns:
        Both, or None if there is no sidecar that was finished.

    Raises:
        ShardError: it holds features of another backbone, size or file of weights.
    """
    found = finished_sidecar(base, "features")
    if found is None:
        return None
    tar, manifest = found
    recorded = manifest.config.get("features", {})
    if recorded != extractor.recorded:
        raise ShardError(
            f"{tar} holds features of {recorded.get('backbone')} at {recorded.get('size')}, this run asks for"
            f" {extractor.spec.name} at {extractor.size}: pass --backbone and --size to match, or delete the file"
        )
    if extractor.asks_for_weights:
        used = manifest.inputs.get("weights")
        if used is None or digest_file(extractor.weights, known=used).sha256 != used.sha256:
            raise ShardError(
                f"{tar} holds features of other weights than --weights {extractor.weights}: run `cuts3d features` with"
                " them, or delete the file"
            )
    return tar, manifest


def read_features(sample: Sample | None, reason: str | None) -> NDArray[np.float16]:
    """The features of a sample of a features sidecar.

    Args:
        sample: None where the sidecar has nothing for the image.
        reason: why that is so, as the sidecar's manifest has it.

    Returns:
        (C, H, W) float16.

    Raises:
        SampleError: the sample failed there, or is damaged.
    """
    if sample is None or "features.npy" not in sample.members:
        raise SampleError(f"it has no features: {reason or 'the features sidecar has nothing for it'}")
    try:
        features = decode_npy(sample.members["features.npy"])
    except ValueError as error:
        raise SampleError(f"the stored features cannot be read: {first_line(error)}") from error
    if features.ndim != 3 or features.dtype != np.float16 or not features.size:
        raise SampleError(f"the stored features are {features.dtype} of shape {features.shape}, not float16 (C, H, W)")
    return features


def _to_npy(features: NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    return buffer.getvalue()
