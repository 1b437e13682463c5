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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cuts3d_cli.config import Config, IfExists, PackConfig, as_dict, recorded_limits
from cuts3d_cli.cut.focal import Focal
from cuts3d_cli.depth.fitting import FittedMap, MapRules, TurnedMapError, fit_map
from cuts3d_cli.depth.intrinsics import Intrinsics, focal_of
from cuts3d_cli.engine.driver import refuse_existing, run_jobs, stage_result
from cuts3d_cli.engine.replacing import OwnSettings, settle
from cuts3d_cli.engine.results import Outcome, Progress
from cuts3d_cli.engine.sharing import Job, Sharing
from cuts3d_cli.errors import OccupiedError, SampleError, Setting, SettingError, UsageError
from cuts3d_cli.images import Upright, decode_upright
from cuts3d_cli.shards.keys import MAX_MEMBER_BYTES
from cuts3d_cli.shards.manifest import InputDigest
from cuts3d_cli.sidecars.depth_files import MAP_EXTENSIONS, as_sensor_file, read_depth_file
from cuts3d_cli.sidecars.photos import SensorFile, encode
from cuts3d_cli.stages.camera_pairs import Cameras, cameras_of
from cuts3d_cli.stages.depth_pairs import Pairs, pair_maps
from cuts3d_cli.stages.listing import Listing, Photo, left_out_lines, list_source
from cuts3d_cli.stages.listing_many import list_sources
from cuts3d_cli.stages.pack_notes import (
    NEEDS_TURN,
    WITH_CAMERA,
    WITHOUT_CAMERA,
    PackResult,
    camera_notes,
    map_counts,
    pack_notes,
)
from cuts3d_cli.wording import Say

STAGE = "pack"
_MIN_DIGITS = 3
_TO_KEEP = ("to keep them, choose another ", Setting("name"), " or ", Setting("out"))
_UNFIT_NAME = re.compile(r"^[-.\s]|[/\\<>{}*?\[\]\x00-\x1f\x7f]|^$")


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Photos to pack, and the shards that they become.

    Attributes:
        source: a folder of any layout, or a COCO JSON (its annotations are not packed); or several paths, see
            `listing_many.list_sources`.
        out: folder for the shards, made if missing.
        name: first part of the shards' names.
        images: the folder that the COCO JSON's file names start from; see `listing.list_source`.
        depth_dir: a folder of depth maps, see `depth_pairs.pair_maps` and `depth_files.read_depth_file`. Photos without
            a map are packed and counted.
        intrinsics: a file with the camera of all photos, or one a photo; see `camera_files.read_cameras` and
            `camera_pairs.pair_cameras`. Photos without a camera are packed and counted.
    """

    source: Path | Sequence[Path]
    out: Path
    name: str
    images: Path | None = None
    depth_dir: Path | None = None
    intrinsics: Path | None = None

    def listing(self) -> Listing:
        """List the photos.

        Raises:
            UsageError: as `listing.list_source` and `listing_many.list_sources`.
        """
        leave_out = [self.depth_dir] if self.depth_dir is not None else []
        if isinstance(self.source, Path):
            return list_source(self.source, images=self.images, leave_out=leave_out)
        return list_sources(self.source, images=self.images, leave_out=leave_out)


@dataclass(frozen=True, kw_only=True)
class _Maps:
    """The depth maps and cameras of photos, and how they and the photos are read.

    Attributes:
        pairs: which map belongs to which photo; None where there are no maps.
        rules: how maps are to be understood.
        scale: metres a unit of maps of integers.
        max_image_pixels: photos and maps with more fail.
        cameras: which camera belongs to which photo; None where there are none.
        top_heavy: the first map of which many pixels have the largest value, and that value, once there is one.
    """

    pairs: Pairs | None
    rules: MapRules
    scale: float
    max_image_pixels: int
    cameras: Cameras | None = None
    top_heavy: list[tuple[str, float]] = field(default_factory=list)


def run(
    packing: Packing,
    *,
    config: Config,
    listing: Listing | None = None,
    pairs: Pairs | None = None,
    cameras: Cameras | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> PackResult:
    """Pack photos, as they are, into `NAME-000.tar`, `NAME-001.tar`, ...

    Each sample is `KEY.jpg|png|webp`, the file's own bytes, and `KEY.json`: `id`, `source` (path from the root), and
    `width` and `height` of the upright photo in pixels. A depth map is added as `KEY.sensor.png` or `KEY.sensor.npy`,
    again the file's own bytes unless it is of another format or turned along with its photo, and as `depth` in the
    JSON, with `scale` and `unit`: value times scale is metres; and with `missing`, where values besides 0 mean "not
    measured". Given intrinsics are added as `camera`: `fx` and `fy` in pixels of the upright photo. See
    `listing.assign_keys` for KEY. The order and number of photos in a shard are settled by the listing: a photo that
    cannot be read leaves a gap and moves no other.

    Args:
        packing: photos and shards.
        config: sections `pack` and `run`.
        listing: the photos, where they have been listed already.
        pairs: of the photos and the maps in `packing.depth_dir`, where they have been found already.
        cameras: of the photos in `packing.intrinsics`, where they have been found already.
        progress: receives progress events.
        say: receives, at the end, what was left out, and what is doubtful about depth maps and cameras.

    Returns:
        The results of all shards. Failed are photos that could not be read, or whose depth map is damaged or of another
        aspect ratio, or whose camera is of photos of another one; each carries its `file`.

    Raises:
        UsageError: a path or number is impossible, there is no photo, not one depth map or camera belongs to a photo,
            or a camera is impossible.
        OtherSettingsError: shards are of other settings, and `run.if_exists` is "resume".
        OccupiedError: shards exist and `run.if_exists` is "fail", or shards of another packing have the same name.
        ShardError: the disk is full.
    """
    begun = time.perf_counter()
    progress, sharing, if_exists = progress or Progress(), Sharing.from_config(config.run), config.run.if_exists
    rules = _check(packing, config.pack)
    # List all photos before anything is written: which of them go into which shard depends on all.
    listing = listing or packing.listing()
    if packing.depth_dir is not None and pairs is None:
        pairs = pair_maps(listing.photos, packing.depth_dir)
    limit = config.run.max_image_pixels
    if packing.intrinsics is not None and cameras is None:
        cameras = cameras_of(listing.photos, packing.intrinsics, root=listing.root, max_pixels=limit)
    plan = plan_shards(listing.photos, out=packing.out, name=packing.name, shard_size=config.pack.shard_size)
    _make_room(plan, packing=packing, if_exists=if_exists)
    maps = _Maps(pairs=pairs, rules=rules, scale=config.pack.depth_scale, max_image_pixels=limit, cameras=cameras)

    @functools.cache  # it asks the system about every photo
    def inputs(tar: Path) -> dict[str, InputDigest]:
        return {"listing": _digest(listing.root, plan[tar], maps)}

    def outcomes(tar: Path) -> Iterator[Outcome]:
        for photo in plan[tar]:
            yield _pack(photo, listing.root, maps)

    # Pack this process's part.
    jobs = [Job(tar, tar) for tar in sharing.part_of(list(plan))]
    recorded = _recorded(config, kind=listing.kind, with_maps=pairs is not None, with_cameras=cameras is not None)
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
        info=_info(listing),
        progress=progress,
    )
    done = stage_result(STAGE, results, begun=begun)
    result = PackResult(
        stage=done.stage,
        shards=done.shards,
        seconds=done.seconds,
        passed_over=len(listing.passed_over),
        keys_made_longer=listing.renamed,
    )
    # What is doubtful, of shards that were finished before too.
    if say:
        for line in left_out_lines([*listing.results, *(pairs.results if pairs else ())], out=packing.out):
            say(line)
        for note in pack_notes(result, pairs=pairs, top_heavy=next(iter(maps.top_heavy), None)):
            say(note)
        for note in camera_notes(result, cameras=cameras):
            say(note)
    return result


def _info(listing: Listing) -> dict[str, Any]:
    """Return the facts of a listing for the manifests."""
    facts = {"root": str(listing.root.absolute()), "keys_made_longer": listing.renamed}
    return facts | ({"passed_over": len(listing.passed_over)} if listing.kind == "folder" else {})


def _recorded(config: Config, *, kind: str, with_maps: bool, with_cameras: bool) -> dict[str, Any]:
    """Return what a manifest records of how photos were packed."""
    recorded = {"source": kind, "shard_size": config.pack.shard_size, "depth": with_maps}
    recorded |= recorded_limits(config.run)
    if with_maps:
        own, usual = as_dict(config.pack), as_dict(PackConfig())
        recorded["depth_scale"] = own["depth_scale"]
        recorded |= {name: own[name] for name in ("depth_invalid", "depth_orientation") if own[name] != usual[name]}
    return recorded | ({"intrinsics": True} if with_cameras else {})


def _check(packing: Packing, config: PackConfig) -> MapRules:
    """Check names, numbers and folders. Returns how depth maps are to be understood. Raises UsageError."""
    if problem := name_problem(packing.name):
        raise SettingError("name", problem)
    if config.shard_size < 1:
        raise SettingError("pack.shard_size", f"is {config.shard_size}: a shard needs at least one image")
    if not (math.isfinite(config.depth_scale) and config.depth_scale > 0):
        problem = f"is {config.depth_scale}: it must be a positive number of metres a unit"
        raise SettingError("pack.depth_scale", problem)
    maps = packing.depth_dir
    if maps is not None:
        if not maps.is_dir():
            raise SettingError("depth_dir", f"{maps} is not a folder")
        sources = [packing.source] if isinstance(packing.source, Path) else packing.source
        if any(source.is_dir() and maps.samefile(source) for source in sources):
            raise SettingError("depth_dir", f"{maps} is the folder of the photos: keep maps in their own")
    return MapRules.of(invalid=config.depth_invalid, orientation=config.depth_orientation, section="pack.")


def name_problem(name: str) -> str | None:
    """Return why shards cannot be named NAME-000.tar, to follow the name of the setting; None if they can."""
    fits = not _UNFIT_NAME.search(name)
    return None if fits else f"{name!r} cannot be a shard's name: use letters, digits, '_' and '-'"


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
        raise OccupiedError(
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
        own, camera = _depth_maps(photo, maps), _camera(photo, maps)
        files: list[object] = [_state(root / photo.file), *([_role(path), *_state(path)] for path in own)]
        if camera is not None:
            files.append(asdict(camera))
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


def _role(path: Path) -> str:
    return path.suffix[1:].lower()


def _pack(photo: Photo, root: Path, maps: _Maps) -> Outcome:
    """Read a photo with its depth map, and count."""
    failure, members, counts = None, None, {}
    focal: Focal | None = None
    fitted: FittedMap | None = None
    try:
        data, decoded = _photo(photo, root, maps)
        sensor, fitted = _sensor(photo, decoded, maps)
        image, camera = decoded.image, _camera(photo, maps)
        focal = None if camera is None else focal_of(camera, decoded)
        members = encode(
            data,
            extension=photo.extension,
            id=photo.id,
            source=photo.file,
            size=(image.height, image.width),
            sensor=sensor,
            focal=focal,
        )
    except TurnedMapError as error:
        failure, counts = str(error), {NEEDS_TURN: 1}
    except SampleError as error:
        failure = str(error)
    if maps.pairs is not None and members is not None:
        counts = map_counts(fitted, rules=maps.rules)
    elif maps.pairs is not None:
        counts = {"with_depth": 0, "without_depth": 0, **counts}
    if maps.cameras is not None:
        packed = members is not None
        counts |= {WITH_CAMERA: int(packed and focal is not None), WITHOUT_CAMERA: int(packed and focal is None)}
    return Outcome(key=photo.key, members=members, failure=failure, facts={"file": photo.file}, counts=counts)


def _photo(photo: Photo, root: Path, maps: _Maps) -> tuple[bytes, Upright]:
    """Read a photo: its file, and what it shows.

    Raises:
        SampleError: with the reason why the photo is left out.
    """
    if photo.problem is not None:
        raise SampleError(photo.problem)
    data = _read(root / photo.file)
    return data, decode_upright(data, max_pixels=maps.max_image_pixels)


def _sensor(photo: Photo, decoded: Upright, maps: _Maps) -> tuple[SensorFile | None, FittedMap | None]:
    """Read and check the depth map of a photo; nothing where it has none.

    Raises:
        SampleError: with the reason why the photo is left out.
    """
    own = _depth_maps(photo, maps)
    if not own:
        return None, None
    path = own[0]
    if len(own) > 1:
        raise SampleError(f"there are two depth maps, {path.name} and {own[1].name}: keep one")
    data = _read(path)
    try:
        found = read_depth_file(data, max_pixels=maps.max_image_pixels)
    except SampleError as error:
        raise SampleError(f"depth map {path.name}: {error}") from error
    try:
        fitted = fit_map(found.values, decoded, rules=maps.rules)
    except SampleError as error:
        raise type(error)(f"depth map {path.name} {error}") from error
    named = maps.rules.invalid is not None
    if fitted.is_top_heavy and not maps.top_heavy:
        maps.top_heavy.append((path.name, fitted.missing.top))
    return as_sensor_file(data, found, fitted, scale=maps.scale, named=named), fitted


def _camera(photo: Photo, maps: _Maps) -> Intrinsics | None:
    return None if maps.cameras is None else maps.cameras.of.get(photo.file)


def _depth_maps(photo: Photo, maps: _Maps) -> list[Path]:
    """Return the depth maps of a photo, in the order of the kinds."""
    if maps.pairs is None:
        return []
    own = [maps.pairs.folder / file for file in maps.pairs.maps.get(photo.file, ())]
    return sorted(own, key=lambda path: MAP_EXTENSIONS.index(_role(path)))


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
