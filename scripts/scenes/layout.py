#!/usr/bin/env python3
"""Render photo-like RGB-D scenes with instance masks: made data for the demo, for tests and for training.

A small ray caster in numpy: ellipsoids, boxes and cylinders on a textured table before a wall, lit by one area light.
Everything is drawn from one seed, so the same seed gives the same scene. Not in the paper.

    python scripts/scenes.py OUT --count 20 --seed 0

writes OUT/images/NNN.png, OUT/depth/NNN.png (uint16 millimetres along the optical axis, 0 = no measurement) and
OUT/annotations.json (COCO, one category, RLE masks).
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenes.objects import CLASSES, METRES, build, look_of, room
from scenes.textures import Floats
from scenes.tracer import Camera, Scene, Solid, World, instance_map, pixels, render

Kind = Literal["touching", "scattered"]

MIN_STEP = 0.25
"""In a touching scene, depth step between neighbours as a share of the scene's depth range. Over twice the longest
edge of the paper's point cloud graph (0.115), so that even a grid cell half on each object is linked to neither."""
MIN_SHARE, MAX_SHARE = 0.16, 0.24
"""In a touching scene, the visible share of the image that each object takes; the least is over the number of objects,
and for images narrower than 4:3 in proportion less."""
MIN_GAP = 0.08
"""In a touching scene, objects at like depths are at least this share of the image's width apart."""
MIN_VISIBLE = 0.55
"""Share of an object's silhouette that must stay visible behind the objects before it."""
_TRIES = 4000


Spot = tuple[float, float, float]
"""x, z and size of an object on the table."""


def _spots_touching(rng: np.random.Generator, objects: int, *, half_width: float) -> list[Spot]:
    """A row in which each object stands well behind or before the next, close enough to overlap in the image."""
    pitch = rng.uniform(1.45, 1.7) * half_width
    gap = rng.uniform(4.4, 5.4)
    behind = (np.arange(objects) + rng.integers(2)) % 2
    if objects <= 3 and rng.random() < 0.3:
        behind = np.arange(objects)[:: rng.choice([-1, 1])]
    return [
        (
            (i - (objects - 1) / 2) * pitch + rng.uniform(-0.1, 0.1),
            gap * level + rng.uniform(-0.3, 0.3),
            rng.uniform(0.95, 1.04) * (1 + 0.06 * level),
        )
        for i, level in enumerate(behind.tolist())
    ]


def _spots_scattered(rng: np.random.Generator, objects: int) -> list[Spot]:
    """Places apart from each other on the table."""
    spots: list[Spot] = []
    while len(spots) < objects:
        x, z, size = rng.uniform(-6.5, 6.5), rng.uniform(-2.0, 10.5), rng.uniform(0.65, 1.2)
        if all(np.hypot(x - other[0], 0.6 * (z - other[1])) > 1.25 * (size + other[2]) for other in spots):
            spots.append((float(x), float(z), float(size)))
    return spots


def _framed(solids: Sequence[Solid], *, height: float, pitch: float, fill: float, aspect: float) -> Camera:
    """A camera whose image the objects fill to `fill` of its width or height, whichever is tighter."""
    c, s = np.cos(pitch), np.sin(pitch)
    x0, x1, y0, y1 = np.inf, -np.inf, np.inf, -np.inf
    for solid in solids:
        reach = np.linalg.norm(solid.axes, axis=1)  # half sizes of the box round an ellipsoid
        if solid.shape != "sphere":
            reach = (
                np.abs(solid.axes).sum(axis=1)
                if solid.shape == "box"
                else np.array([reach[0], abs(solid.axes[1, 1]), reach[2]])
            )
        for corner in np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T:
            x, y, z = solid.centre + reach * corner * (0.8 if solid.shape == "sphere" else 1)
            down, along = (height - y) * c - z * s, z * c + (height - y) * s
            x0, x1, y0, y1 = min(x0, x / along), max(x1, x / along), min(y0, down / along), max(y1, down / along)
    focal = fill * min(aspect / (x1 - x0), 1 / (y1 - y0))
    return Camera(height, pitch, float(focal), (float(-focal * (x0 + x1) / 2), float(-focal * (y0 + y1) / 2)))


class Contact(NamedTuple):
    """How the images of two objects touch."""

    pixels: int
    """Pixel pairs that face each other."""
    step: float
    """The smallest depth step between such pixels, as a share of the image's depth range."""


def contacts(instances: NDArray[np.int32], depth: Floats, *, reach: int = 1) -> dict[tuple[int, int], Contact]:
    """Pairs (i, j), i < j, of objects whose images come within `reach` pixels along a row or column.

    Args:
        instances: (h, w) ids, 0 background.
        depth: (h, w).
        reach: pixels, at least 1.
    """
    span = float(depth.max() - depth.min())
    found: dict[tuple[int, int], Contact] = {}
    for axis in (0, 1):
        for gap in range(1, reach + 1):
            first, second = (np.s_[:-gap], np.s_[gap:]) if axis == 0 else (np.s_[:, :-gap], np.s_[:, gap:])
            a, b = instances[first], instances[second]
            met = (a != b) & (a > 0) & (b > 0)
            jump = np.abs(depth[first] - depth[second])[met] / span
            low, high = np.minimum(a, b)[met], np.maximum(a, b)[met]
            for pair in {(int(i), int(j)) for i, j in zip(low, high, strict=True)}:
                here = jump[(low == pair[0]) & (high == pair[1])]
                before = found.get(pair, Contact(0, np.inf))
                found[pair] = Contact(before.pixels + len(here), min(float(here.min()), before.step))
    return found


def _one_group(pairs: Sequence[tuple[int, int]], objects: int) -> bool:
    group = {1}
    for _ in range(objects):
        group |= {i for pair in pairs if group & set(pair) for i in pair}
    return len(group) == objects


def _acceptable(world: World, *, kind: Kind, objects: int, aspect: float) -> bool:
    """Whether a layout is what `kind` promises, judged on a coarse rendering."""
    height = 96
    width = max(round(height * aspect), 8)
    origins, directions = world.camera.rays(*pixels(height, width))
    depth, what = world.trace(origins, directions)
    ids = instance_map(world, what).reshape(height, width)
    depth = depth.reshape(height, width)
    border = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
    if border.any():
        return False
    for instance in range(1, objects + 1):
        share = float((ids == instance).mean())
        low, high = (
            (MIN_SHARE / objects * min(0.75 * aspect, 1), MAX_SHARE)
            if kind == "touching"
            else (0.006, max(0.12, 0.7 / objects))
        )
        whole = np.zeros(height * width, bool)
        for solid in world.solids:
            if solid.instance == instance:
                whole |= np.isfinite(solid.hit(origins, directions))
        if not low <= share <= high or share < MIN_VISIBLE * whole.mean():
            return False
    if kind == "scattered":
        return not contacts(ids, depth, reach=2)
    near = contacts(ids, depth, reach=round(MIN_GAP * width))
    if any(contact.step < MIN_STEP + 0.02 for contact in near.values()):
        return False
    touching = [pair for pair, contact in contacts(ids, depth).items() if contact.pixels >= height // 12]
    return _one_group(touching, objects)


def render_scene(seed: int, *, height: int = 480, width: int = 640, kind: Kind = "touching", objects: int = 4) -> Scene:
    """Render one scene. Not in the paper.

    "touching": objects of one class and one look in a row, each overlapping the next in the image but standing well
    behind or before it: the depth step between any two whose images touch is at least `MIN_STEP` of the scene's depth
    range. "scattered": objects of several classes that do not touch in the image.

    Args:
        seed: the scene; equal arguments give equal arrays.
        height: of the image, pixels, at least 64.
        width: of the image, pixels, 1.25 to 2 times `height`.
        kind: "touching" or "scattered".
        objects: how many objects: 2 to 5 touching, 1 to 8 scattered.

    Returns:
        the scene; every object is visible and wholly inside the image.

    Raises:
        ValueError: an argument is out of range.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}: it must be one of {', '.join(get_args(Kind))}")
    low, high = (2, 5) if kind == "touching" else (1, 8)
    if not low <= objects <= high:
        raise ValueError(f"objects is {objects}: a {kind} scene has {low} to {high}")
    if height < 64 or not 1.25 * height <= width <= 2 * height:
        raise ValueError(f"the size is {height}x{width}: height must be at least 64, width 1.25 to 2 times the height")
    rng = np.random.default_rng([seed, objects, get_args(Kind).index(kind)])
    world = _layout(rng, kind=kind, objects=objects, aspect=width / height)
    return render(world, height=height, width=width, rng=rng)


def _layout(rng: np.random.Generator, *, kind: Kind, objects: int, aspect: float) -> World:
    """Draw layouts until one is acceptable."""
    one = str(rng.choice(CLASSES))
    names = [one] * objects if kind == "touching" else [str(rng.choice(CLASSES)) for _ in range(objects)]
    look = look_of(rng, one)
    looks = [look if kind == "touching" else look_of(rng, name) for name in names]
    floor, wall = room(rng)
    warm = rng.uniform(-0.08, 0.12)
    metre = METRES[one] / 2
    for _ in range(_TRIES):
        if kind == "touching":
            spots = _spots_touching(rng, objects, half_width=0.86 if one in ("can", "cup") else 1.0)
        else:
            spots = _spots_scattered(rng, objects)
        order = np.argsort([spot[0] for spot in spots])
        solids: list[Solid] = []
        for instance, index in enumerate(order, start=1):
            x, z, size = spots[index]
            solids += build(rng, names[index], looks[index], at=(x, z), size=size, instance=instance)
        middle = np.mean([[spot[0], spot[1]] for spot in spots], axis=0)
        away = rng.uniform(19, 24)
        pitch = np.deg2rad(rng.uniform(6, 15) if kind == "touching" else rng.uniform(22, 36))
        for number, solid in enumerate(solids):
            moved = solid.centre + np.array([-middle[0], 0, away * np.cos(pitch) - middle[1]], np.float32)
            solids[number] = replace(solid, centre=moved.astype(np.float32))
        fill = rng.uniform(0.86, 0.96) if kind == "touching" else rng.uniform(0.75, 0.95)
        camera = _framed(solids, height=0.95 + away * np.sin(pitch), pitch=float(pitch), fill=fill, aspect=aspect)
        farthest = max(float(solid.centre[2]) for solid in solids)
        side = rng.choice([-1, 1])
        world = World(
            camera=camera,
            solids=solids,
            floor=floor,
            wall=wall,
            wall_at=farthest + rng.uniform(3.5, 6.5),
            light=np.array(
                [side * rng.uniform(6, 14), rng.uniform(14, 20), away * 0.9 - rng.uniform(4, 10)], np.float32
            ),
            light_size=float(rng.uniform(3, 7)),
            light_colour=np.array([1 + warm, 1, 1 - warm], np.float32) * np.float32(rng.uniform(0.75, 0.95)),
            sky=np.array([0.95 - warm / 2, 1, 1.05 + warm / 2], np.float32) * np.float32(rng.uniform(0.22, 0.34)),
            bounce=np.array([1.05, 1, 0.92], np.float32) * np.float32(0.13),
            metre=metre,
        )
        if _acceptable(world, kind=kind, objects=objects, aspect=aspect):
            return world
    raise RuntimeError(f"no acceptable layout of {objects} {kind} objects of class {one} in {_TRIES} tries")


# --- On disk ---------------------------------------------------------------------------------------------------------


def write_scenes(
    folder: str | Path,
    *,
    count: int,
    seed: int,
    kind: Kind | Literal["both"] = "touching",
    objects: int | None = None,
    height: int = 480,
    width: int = 640,
    workers: int = 1,
) -> Path:
    """Render scenes into a folder as photos, depth maps and COCO masks.

    Args:
        folder: made if missing; files of the same names are replaced.
        count: how many scenes; scene i has the seed `seed` + i.
        seed: of the first scene.
        kind: see `render_scene`; "both" takes both kinds in turn.
        objects: per scene; None takes 3, 4, 5, 3, ... in turn.
        height: of the images, pixels.
        width: of the images, pixels.
        workers: processes that render; the files do not depend on it.

    Returns:
        the path of annotations.json. Its annotations' masks are compressed RLE, ids count from 1.
    """
    folder = Path(folder)
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    kinds = get_args(Kind) if kind == "both" else (kind,)
    for index in range(count):
        name = f"{index:03d}.png"
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
    with ProcessPoolExecutor(max_workers=workers) as pool:
        found = pool.map(
            functools.partial(_write_scene, height=height, width=width),
            [folder / "images" / str(image["file_name"]) for image in images],
            [folder / "depth" / str(image["file_name"]) for image in images],
            [seed + index for index in range(count)],
            [kinds[index % len(kinds)] for index in range(count)],
            [objects if objects is not None else 3 + index % 3 for index in range(count)],
        )
        for image, masks in zip(images, found, strict=True):
            annotations += [
                {
                    "id": len(annotations) + offset,
                    "image_id": image["id"],
                    "category_id": 1,
                    "iscrowd": 0,
                    **mask,
                }
                for offset, mask in enumerate(masks, start=1)
            ]
    path = folder / "annotations.json"
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return path


def _write_scene(
    photo: Path, depth: Path, seed: int, kind: Kind, objects: int, *, height: int, width: int
) -> list[dict[str, object]]:
    """Render one scene into two files. Returns what is to be said of each instance."""
    from pycocotools import mask as rle

    scene = render_scene(seed, height=height, width=width, kind=kind, objects=objects)
    Image.fromarray(scene.image).save(photo)
    Image.fromarray(np.rint(scene.depth * 1000).astype(np.uint16)).save(depth)
    masks: list[dict[str, object]] = []
    for instance in range(1, objects + 1):
        encoded = rle.encode(np.asfortranarray(scene.instances == instance, dtype=np.uint8))
        masks.append(
            {
                "area": int(rle.area(encoded)),
                "bbox": [float(value) for value in rle.toBbox(encoded)],
                "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
            }
        )
    return masks


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Render RGB-D scenes with instance masks into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20, help="number of scenes (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (0)")
    parser.add_argument(
        "--kind", choices=[*get_args(Kind), "both"], default="touching", help="how the objects stand (touching)"
    )
    parser.add_argument("--objects", type=int, default=None, help="objects per scene (3, 4 and 5 in turn)")
    parser.add_argument("--height", type=int, default=480, help="of the images, pixels (480)")
    parser.add_argument("--width", type=int, default=640, help="of the images, pixels (640)")
    parser.add_argument("--workers", type=int, default=1, help="processes that render (1)")
    options = parser.parse_args(arguments)
    try:
        path = write_scenes(
            options.folder, count=options.count, seed=options.seed, kind=options.kind,
            objects=options.objects, height=options.height, width=options.width, workers=options.workers,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    print(f"{options.count} scenes in {path.parent}")


if __name__ == "__main__":
    main()
