"""`cuts3d pack`: turns a folder of photos, or a COCO JSON with its images, into base shards."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.config import MAX_IMAGE_PIXELS, IfExists, RunConfig, recorded_limits
from cuts3d_cli.engine.claims import Claim
from cuts3d_cli.engine.driver import publish_manifest
from cuts3d_cli.engine.results import Progress, Silent, StageResult
from cuts3d_cli.engine.sharing import Job, Sharing, share
from cuts3d_cli.errors import SampleError, ShardError, UsageError
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES
from cuts3d_cli.shards.manifest import Currency, InputDigest, Manifest, is_current
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.sidecars.photos import SensorFile, decode_sensor_npy, decode_sensor_png, encode
from cuts3d_cli.stages.listing import Listing, Photo, list_source

STAGE = "pack"
MAX_ASPECT_ERROR = 0.01
"""A depth map whose width : height differs from the photo's by more than this part is of another view."""
_MIN_DIGITS = 3
_UNFIT_NAME = re.compile(r"^[-.\s]|[/\\<>{}*?\[\]\x00-\x1f\x7f]|^$")


class PackResult(StageResult):
    """What became of a packing. Failed photos carry `file` and `reason`, besides their shard and key."""

    @property
    def samples(self) -> int:
        """Photos that are in the shards."""
        return self.count("samples_out")

    @property
    def without_depth(self) -> int:
        """Photos packed without a depth map though a folder of maps was given."""
        return self.count("without_depth")


@dataclass(frozen=True, kw_only=True)
class _Settings:
    depth_dir: Path | None
    depth_scale: float
    shard_size: int
    max_image_pixels: int

    def to_config(self, kind: str) -> dict[str, Any]:
        config: dict[str, Any] = {"source": kind, "shard_size": self.shard_size, "depth": self.depth_dir is not None}
        config |= recorded_limits(RunConfig(max_image_pixels=self.max_image_pixels))
        return config | ({"depth_scale": self.depth_scale} if self.depth_dir is not None else {})


@dataclass(frozen=True, kw_only=True)
class _DepthMap:
    path: Path
    kind: Literal["png", "npy"]


def run(
    *,
    source: Path,
    out: Path,
    name: str,
    images: Path | None = None,
    depth_dir: Path | None = None,
    depth_scale: float = 0.001,
    shard_size: int = 1000,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    if_exists: IfExists = "resume",
    sharing: Sharing | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Pack photos, as they are, into `NAME-000.tar`, `NAME-001.tar`, ...

    Each sample is `KEY.jpg|png|webp`, the file's own bytes, and `KEY.json`: `id`, `source` (path from the root), and
    `width` and `height` of the upright photo in pixels. A depth map is added as `KEY.sensor.png` or `KEY.sensor.npy`,
    again the file's own bytes, and as `depth` in the JSON, with `scale` and `unit`: value times scale is metres. See
    `listing.assign_keys` for KEY. The order and number of photos in a shard are settled by the listing: a photo that
    cannot be read leaves a gap and moves no other.

    Args:
        source: a folder of any layout, or a COCO JSON (its annotations are not packed).
        out: folder for the shards, made if missing.
        name: first part of the shards' names.
        images: the folder that the COCO JSON's file names start from; see `listing.list_source`.
        depth_dir: a folder that holds a map under the same path as each photo, ending in `.png` (16 bits, one channel)
            or `.npy` (floats, metres). Photos without a map are packed and counted.
        depth_scale: metres that one unit of a PNG map stands for.
        shard_size: photos in a shard.
        max_image_pixels: photos and depth maps with more are left out, as failed.
        if_exists: keep finished shards whose photos and settings are the same, redo all, or refuse.
        sharing: with other processes that pack the same.
        progress: told how far it is.

    Returns:
        What became of every shard, with the photos that could not be read, or whose depth map is damaged or of
        another aspect ratio.

    Raises:
        UsageError: a path or number is impossible, or there is no photo.
        ShardError: shards exist and `if_exists` is "fail", shards of another packing have the same name, or the disk
            is full.
    """
    begun = time.perf_counter()
    settings = _Settings(
        depth_dir=depth_dir, depth_scale=depth_scale, shard_size=shard_size, max_image_pixels=max_image_pixels
    )
    _check(settings, source=source, name=name)
    listing = list_source(source, images=images, leave_out=[depth_dir] if depth_dir is not None else [])
    plan = plan_shards(listing.photos, out=out, name=name, shard_size=shard_size)
    _make_room(plan, out=out, name=name, if_exists=if_exists)
    watcher, sharing = progress or Silent(), sharing or Sharing()
    plan = {tar: plan[tar] for tar in sharing.part_of(list(plan))}
    watcher.begin([(tar, len(photos)) for tar, photos in plan.items()])
    config = settings.to_config(listing.kind)

    @functools.cache  # it asks the system about every photo
    def inputs(tar: Path) -> dict[str, InputDigest]:
        return {"listing": _digest(listing.root, plan[tar], settings)}

    def state(job: Job) -> Currency | None:
        return is_current(job.tar, stage=STAGE, config=config, inputs=inputs(job.tar)) if job.tar.exists() else None

    def work(job: Job, claim: Claim) -> Manifest:
        return _pack_shard(
            job.tar, plan[job.tar], listing, settings, inputs=inputs(job.tar), claim=claim, watcher=watcher
        )

    results = share(
        [Job(tar, tar) for tar in plan], state=state, work=work, if_exists=if_exists, sharing=sharing, watcher=watcher
    )
    return PackResult(stage=STAGE, shards=results, seconds=time.perf_counter() - begun)


def _check(settings: _Settings, *, source: Path, name: str) -> None:
    if _UNFIT_NAME.search(name):
        raise UsageError(f"--name {name!r} cannot be a shard's name: use letters, digits, '_' and '-'")
    if settings.shard_size < 1:
        raise UsageError(f"--shard-size is {settings.shard_size}: a shard needs at least one image")
    if not (math.isfinite(settings.depth_scale) and settings.depth_scale > 0):
        raise UsageError(f"--depth-scale is {settings.depth_scale}: it must be a positive number of metres a unit")
    if settings.depth_dir is not None:
        if not settings.depth_dir.is_dir():
            raise UsageError(f"--depth-dir {settings.depth_dir} is not a folder")
        if source.is_dir() and settings.depth_dir.samefile(source):
            raise UsageError(f"--depth-dir {settings.depth_dir} is the folder of the photos: keep maps in their own")


def plan_shards(photos: Sequence[Photo], *, out: Path, name: str, shard_size: int) -> dict[Path, Sequence[Photo]]:
    """Which photos go into which shard.

    Args:
        photos: all of them, in order.
        out: folder of the shards.
        name: first part of their names.
        shard_size: photos in a shard.

    Returns:
        Base shard -> its photos.
    """
    count = math.ceil(len(photos) / shard_size)
    digits = max(_MIN_DIGITS, len(str(count - 1)))
    return {
        out / f"{name}-{number:0{digits}d}.tar": photos[number * shard_size : (number + 1) * shard_size]
        for number in range(count)
    }


def _make_room(plan: Mapping[Path, Any], *, out: Path, name: str, if_exists: IfExists) -> None:
    """Make the folder; refuse what would leave shards of two packings side by side under one name."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = sorted(os.listdir(out))
    except OSError as error:
        raise UsageError(f"folder {out} cannot be used: {error.strerror}") from error
    shards = [file for file in present if re.fullmatch(re.escape(name) + r"-[0-9]+\.tar", file)]
    planned = {tar.name for tar in plan}
    if strangers := [file for file in shards if file not in planned]:
        raise ShardError(
            f"{out / strangers[0]} is of another packing, this one ends at {max(planned)}: remove it and what follows "
            "it, or choose another --name or --out"
        )
    if if_exists == "fail" and shards:
        raise ShardError(
            f"{out / shards[0]} exists: pass --if-exists resume to keep what is finished and matches, or --if-exists "
            "overwrite to redo all"
        )


def _digest(root: Path, photos: Sequence[Photo], settings: _Settings) -> InputDigest:
    """Identify the files of a shard by their names, sizes and times of change, so that no photo need be read."""
    hasher, size = hashlib.sha256(), 0
    for photo in photos:
        maps = _depth_maps(photo, settings)
        files = [_state(root / photo.file), *([found.kind, *_state(found.path)] for found in maps)]
        line = json.dumps([photo.file, photo.id, photo.key, *files]).encode("ascii") + b"\n"
        hasher.update(line)
        size += len(line)
    return InputDigest(file="listing", size=size, mtime_ns=0, sha256=hasher.hexdigest())


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except (OSError, ValueError):  # a missing file has no state; the reason is told when it is to be read
        return []
    return [state.st_size, state.st_mtime_ns]


def _pack_shard(
    tar: Path,
    photos: Sequence[Photo],
    listing: Listing,
    settings: _Settings,
    *,
    inputs: Mapping[str, InputDigest],
    claim: Claim,
    watcher: Progress,
) -> Manifest:
    begun = time.perf_counter()
    failed: list[dict[str, str]] = []
    with_depth = 0
    written: list[Manifest] = []

    def finish() -> None:
        counts = {"samples_in": len(photos), "samples_out": writer.samples, "failed": len(failed)}
        if settings.depth_dir is not None:
            counts |= {"with_depth": with_depth, "without_depth": writer.samples - with_depth}
        manifest = Manifest(
            stage=STAGE,
            config=settings.to_config(listing.kind),
            inputs=dict(inputs),
            counts=counts,
            failed=failed,
            info={"root": str(listing.root.absolute()), "keys_made_longer": listing.renamed},
            seconds={"total": round(time.perf_counter() - begun, 3)},
            sha256=writer.sha256,
            size=writer.size,
        )
        publish_manifest(tar, manifest, claim=claim)
        written.append(manifest)

    writer = ShardWriter(tar, before_publishing=claim.check_before_publishing, after_publishing=finish)
    with writer:
        for photo in photos:
            try:
                members = _members(photo, listing.root, settings)
            except SampleError as error:
                failed.append({"key": photo.key, "file": photo.file, "reason": str(error)})
                watcher.advance(failed=True)
                continue
            writer.write(photo.key, members)
            with_depth += any(extension.startswith("sensor.") for extension in members)
            watcher.advance(failed=False)
    return written[0]


def _members(photo: Photo, root: Path, settings: _Settings) -> dict[str, bytes]:
    """Read a photo and its depth map.

    Raises:
        SampleError: with the reason why the photo is left out.
    """
    if photo.problem is not None:
        raise SampleError(photo.problem)
    data = _read(root / photo.file)
    width, height = decode_image(data, max_pixels=settings.max_image_pixels).size
    sensor = None
    maps = list(_depth_maps(photo, settings))
    if len(maps) > 1:
        raise SampleError(f"there are two depth maps, {maps[0].path.name} and {maps[1].path.name}: keep one")
    for found in maps:
        content = _read(found.path)
        _check_map(found, content, settings, width=width, height=height)
        sensor = SensorFile(data=content, kind=found.kind, scale=settings.depth_scale)
    return encode(
        data,
        extension=photo.file.rpartition(".")[2].lower(),
        id=photo.id,
        source=photo.file,
        size=(height, width),
        sensor=sensor,
    )


def _read(path: Path) -> bytes:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise SampleError(f"{path.name} is not a plain file")
        if state.st_size > MAX_MEMBER_BYTES:
            raise SampleError(f"{path.name} has {state.st_size} bytes, more than {MAX_MEMBER_BYTES}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SampleError(f"{path.name} does not exist") from error
    except OSError as error:
        raise SampleError(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in a COCO JSON's file name
        raise SampleError(f"its name cannot be a file's: {error}") from error


def _depth_maps(photo: Photo, settings: _Settings) -> Iterator[_DepthMap]:
    """Find the depth maps of a photo, one of each kind: same path, `.png` or `.npy` in small or capital letters."""
    if settings.depth_dir is None or photo.problem is not None or "\0" in photo.file:
        return
    stem = settings.depth_dir / photo.file.rpartition(".")[0]
    kinds: tuple[Literal["png", "npy"], ...] = ("png", "npy")
    for kind in kinds:
        for ending in (kind, kind.upper()):
            path = stem.with_name(f"{stem.name}.{ending}")
            if path.exists():
                yield _DepthMap(path=path, kind=kind)
                break


def _check_map(found: _DepthMap, data: bytes, settings: _Settings, *, width: int, height: int) -> None:
    try:
        if found.kind == "png":
            depth = decode_sensor_png(data, scale=settings.depth_scale, max_pixels=settings.max_image_pixels)
        else:
            depth = decode_sensor_npy(data)
    except SampleError as error:
        raise SampleError(f"depth map {found.path.name}: {error}") from error
    rows, columns = depth.shape
    ratio = (columns * height) / (rows * width)
    if not 1 / (1 + MAX_ASPECT_ERROR) <= ratio <= 1 + MAX_ASPECT_ERROR:
        raise SampleError(
            f"depth map {found.path.name} is {columns}x{rows}, the upright photo {width}x{height}: "
            "they differ in aspect ratio"
        )
