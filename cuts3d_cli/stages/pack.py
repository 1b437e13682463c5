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

from cuts3d_cli.config import Config, IfExists, PackConfig, recorded_limits
from cuts3d_cli.depth.maps import has_aspect_of
from cuts3d_cli.engine.driver import refuse_existing, run_jobs, stage_result
from cuts3d_cli.engine.replacing import OwnSettings, settle
from cuts3d_cli.engine.results import Outcome, Progress, StageResult
from cuts3d_cli.engine.sharing import Job, Sharing
from cuts3d_cli.errors import SampleError, Setting, SettingError, ShardError, UsageError
from cuts3d_cli.images import decode_image
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES
from cuts3d_cli.shards.manifest import InputDigest
from cuts3d_cli.sidecars.photos import SensorFile, decode_sensor_npy, decode_sensor_png, encode
from cuts3d_cli.stages.listing import Photo, list_source

STAGE = "pack"
_MIN_DIGITS = 3
_TO_KEEP = ("to keep them, choose another ", Setting("name"), " or ", Setting("out"))
_UNFIT_NAME = re.compile(r"^[-.\s]|[/\\<>{}*?\[\]\x00-\x1f\x7f]|^$")


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Photos to pack, and the shards that they become.

    Attributes:
        source: a folder of any layout, or a COCO JSON (its annotations are not packed).
        out: folder for the shards, made if missing.
        name: first part of the shards' names.
        images: the folder that the COCO JSON's file names start from; see `listing.list_source`.
        depth_dir: a folder that holds a map under the same path as each photo, ending in `.png` (16 bits, one channel)
            or `.npy` (floats, metres). Photos without a map are packed and counted.
    """

    source: Path
    out: Path
    name: str
    images: Path | None = None
    depth_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Maps:
    """Where the depth maps of photos lie, and how they and the photos are read."""

    folder: Path | None
    scale: float
    max_image_pixels: int


@dataclass(frozen=True, kw_only=True)
class _DepthMap:
    path: Path
    kind: Literal["png", "npy"]


def run(packing: Packing, *, config: Config, progress: Progress | None = None) -> StageResult:
    """Pack photos, as they are, into `NAME-000.tar`, `NAME-001.tar`, ...

    Each sample is `KEY.jpg|png|webp`, the file's own bytes, and `KEY.json`: `id`, `source` (path from the root), and
    `width` and `height` of the upright photo in pixels. A depth map is added as `KEY.sensor.png` or `KEY.sensor.npy`,
    again the file's own bytes, and as `depth` in the JSON, with `scale` and `unit`: value times scale is metres. See
    `listing.assign_keys` for KEY. The order and number of photos in a shard are settled by the listing: a photo that
    cannot be read leaves a gap and moves no other.

    Args:
        packing: photos and shards.
        config: sections `pack` and `run`.
        progress: receives progress events.

    Returns:
        The results of all shards. Failed are photos that could not be read, or whose depth map is damaged or of another
        aspect ratio; each carries its `file`.

    Raises:
        UsageError: a path or number is impossible, or there is no photo.
        OtherSettingsError: shards are of other settings, and `run.if_exists` is "resume".
        ShardError: shards exist and `run.if_exists` is "fail", shards of another packing have the same name, or the
            disk is full.
    """
    begun = time.perf_counter()
    progress, sharing, if_exists = progress or Progress(), Sharing.from_config(config.run), config.run.if_exists
    _check(packing, config.pack)
    # List all photos before anything is written: which of them go into which shard depends on all.
    leave_out = [packing.depth_dir] if packing.depth_dir is not None else []
    listing = list_source(packing.source, images=packing.images, leave_out=leave_out)
    plan = plan_shards(listing.photos, out=packing.out, name=packing.name, shard_size=config.pack.shard_size)
    _make_room(plan, packing=packing, if_exists=if_exists)
    maps = _Maps(folder=packing.depth_dir, scale=config.pack.depth_scale, max_image_pixels=config.run.max_image_pixels)

    @functools.cache  # it asks the system about every photo
    def inputs(tar: Path) -> dict[str, InputDigest]:
        return {"listing": _digest(listing.root, plan[tar], maps)}

    def outcomes(tar: Path) -> Iterator[Outcome]:
        for photo in plan[tar]:
            yield _pack(photo, listing.root, maps)

    # Pack this process's part.
    jobs = [Job(tar, tar) for tar in sharing.part_of(list(plan))]
    recorded = _recorded(config, kind=listing.kind, with_maps=packing.depth_dir is not None)
    own = OwnSettings(stage=STAGE, config=recorded)
    others = {job.tar: own.other_values(job.tar) for job in jobs}
    settle(others, if_exists=if_exists, progress=progress, to_keep=_TO_KEEP)
    progress.compared()
    progress.begin([(job.tar, len(plan[job.tar])) for job in jobs])
    results = run_jobs(
        jobs,
        own=own,
        inputs=inputs,
        outcomes=outcomes,
        if_exists=if_exists,
        sharing=sharing,
        info={"root": str(listing.root.absolute()), "keys_made_longer": listing.renamed},
        progress=progress,
    )
    return stage_result(STAGE, results, begun=begun)


def _recorded(config: Config, *, kind: str, with_maps: bool) -> dict[str, Any]:
    """Return what a manifest records of how photos were packed."""
    recorded = {"source": kind, "shard_size": config.pack.shard_size, "depth": with_maps}
    recorded |= recorded_limits(config.run)
    return recorded | ({"depth_scale": config.pack.depth_scale} if with_maps else {})


def _check(packing: Packing, config: PackConfig) -> None:
    """Check names, numbers and folders. Raises UsageError."""
    if _UNFIT_NAME.search(packing.name):
        raise SettingError("name", f"{packing.name!r} cannot be a shard's name: use letters, digits, '_' and '-'")
    if config.shard_size < 1:
        raise SettingError("pack.shard_size", f"is {config.shard_size}: a shard needs at least one image")
    if not (math.isfinite(config.depth_scale) and config.depth_scale > 0):
        problem = f"is {config.depth_scale}: it must be a positive number of metres a unit"
        raise SettingError("pack.depth_scale", problem)
    maps = packing.depth_dir
    if maps is not None:
        if not maps.is_dir():
            raise SettingError("depth_dir", f"{maps} is not a folder")
        if packing.source.is_dir() and maps.samefile(packing.source):
            raise SettingError("depth_dir", f"{maps} is the folder of the photos: keep maps in their own")


def plan_shards(photos: Sequence[Photo], *, out: Path, name: str, shard_size: int) -> dict[Path, Sequence[Photo]]:
    """Return which photos go into which shard.

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


def _make_room(plan: Mapping[Path, Any], *, packing: Packing, if_exists: IfExists) -> None:
    """Make the folder; refuse what would leave shards of two packings side by side under one name."""
    out, name = packing.out, packing.name
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
            "it, or choose another ",
            *(Setting("name"), " or ", Setting("out")),
        )
    if if_exists == "fail" and shards:
        refuse_existing(out / shards[0])


def _digest(root: Path, photos: Sequence[Photo], maps: _Maps) -> InputDigest:
    """Identify the files of a shard by their names, sizes and times of change, so that no photo need be read."""
    hasher, size = hashlib.sha256(), 0
    for photo in photos:
        own = _depth_maps(photo, maps)
        files = [_state(root / photo.file), *([found.kind, *_state(found.path)] for found in own)]
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


def _pack(photo: Photo, root: Path, maps: _Maps) -> Outcome:
    """Read a photo with its depth map, and count."""
    failure, members = None, None
    try:
        members = _members(photo, root, maps)
    except SampleError as error:
        failure = str(error)
    counts = {}
    if maps.folder is not None:
        with_depth = members is not None and any(extension.startswith("sensor.") for extension in members)
        counts = {"with_depth": int(with_depth), "without_depth": int(members is not None and not with_depth)}
    return Outcome(key=photo.key, members=members, failure=failure, facts={"file": photo.file}, counts=counts)


def _members(photo: Photo, root: Path, maps: _Maps) -> dict[str, bytes]:
    """Read a photo and its depth map.

    Raises:
        SampleError: with the reason why the photo is left out.
    """
    if photo.problem is not None:
        raise SampleError(photo.problem)
    data = _read(root / photo.file)
    width, height = decode_image(data, max_pixels=maps.max_image_pixels).size
    sensor = None
    own = list(_depth_maps(photo, maps))
    if len(own) > 1:
        raise SampleError(f"there are two depth maps, {own[0].path.name} and {own[1].path.name}: keep one")
    for found in own:
        content = _read(found.path)
        _check_map(found, content, maps, width=width, height=height)
        sensor = SensorFile(data=content, kind=found.kind, scale=maps.scale)
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


def _depth_maps(photo: Photo, maps: _Maps) -> Iterator[_DepthMap]:
    """List the depth maps of a photo, one of each kind: same path, `.png` or `.npy` in small or capital letters."""
    if maps.folder is None or photo.problem is not None or "\0" in photo.file:
        return
    stem = maps.folder / photo.file.rpartition(".")[0]
    kinds: tuple[Literal["png", "npy"], ...] = ("png", "npy")
    for kind in kinds:
        for ending in (kind, kind.upper()):
            path = stem.with_name(f"{stem.name}.{ending}")
            if path.exists():
                yield _DepthMap(path=path, kind=kind)
                break


def _check_map(found: _DepthMap, data: bytes, maps: _Maps, *, width: int, height: int) -> None:
    try:
        if found.kind == "png":
            depth = decode_sensor_png(data, scale=maps.scale, max_pixels=maps.max_image_pixels)
        else:
            depth = decode_sensor_npy(data)
    except SampleError as error:
        raise SampleError(f"depth map {found.path.name}: {error}") from error
    rows, columns = depth.shape
    if not has_aspect_of((height, width), (rows, columns)):
        raise SampleError(
            f"depth map {found.path.name} is {columns}x{rows}, the upright photo {width}x{height}: "
            "they differ in aspect ratio"
        )
