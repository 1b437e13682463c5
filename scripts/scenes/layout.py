"""Layouts of rendered scenes: where objects stand, and whether their images touch. Not in the paper.

Everything is drawn from one seed, so that the same seed gives the same scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from scenes.objects import CLASSES, METRES, build, look_of, room
from scenes.textures import Floats
from scenes.tracer import Camera, Scene, Solid, World, instance_map, pixels, render

Kind = Literal["touching", "scattered"]
"""What a scene promises: `render_scene` says what."""
MIN_STEP = 0.25
"""In a touching scene, the least depth step between neighbours, as a share of the scene's depth range. It is over twice
the longest edge of the paper's point cloud graph (0.115), so that even a patch half on each object is linked to
neither."""
MIN_SHARE, MAX_SHARE = 0.16, 0.24
"""In a touching scene, the visible share of the image that each object takes. The least is divided by the number of
objects, and smaller in proportion for images narrower than 4:3."""
MIN_GAP = 0.08
"""In a touching scene, the least distance between objects of similar depth, as a share of the image's width."""
MIN_VISIBLE = 0.55
"""Share of an object's silhouette that must stay visible behind the objects in front of it."""
_TRIES = 4000
"""Layouts that are drawn before giving up."""

Spot = tuple[float, float, float]
"""x, z and size of an object on the table."""


def _spots_touching(rng: np.random.Generator, objects: int, *, half_width: float) -> list[Spot]:
    """Draw a row in which each object stands well behind or in front of the next and overlaps it in the image."""
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
    """Draw places apart from each other on the table."""
    spots: list[Spot] = []
    while len(spots) < objects:
        x, z, size = rng.uniform(-6.5, 6.5), rng.uniform(-2.0, 10.5), rng.uniform(0.65, 1.2)
        if all(np.hypot(x - other[0], 0.6 * (z - other[1])) > 1.25 * (size + other[2]) for other in spots):
            spots.append((float(x), float(z), float(size)))
    return spots


def _framed(solids: Sequence[Solid], *, height: float, pitch: float, fill: float, aspect: float) -> Camera:
    """Return a camera whose image the objects fill to `fill` of its width or height, whichever is tighter."""
    c, s = np.cos(pitch), np.sin(pitch)
    x0, x1, y0, y1 = np.inf, -np.inf, np.inf, -np.inf
    for solid in solids:
        reach = np.linalg.norm(solid.axes, axis=1)  # half sizes of the bounding box of an ellipsoid
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
    """How two objects touch in the image."""

    pixels: int
    """Number of facing pairs of pixels."""
    step: float
    """Smallest depth step between such pixels, as a share of the image's depth range."""


def contacts(instances: NDArray[np.int32], depth: Floats, *, reach: int = 1) -> dict[tuple[int, int], Contact]:
    """Find the pairs of objects whose images come close to each other.

    Args:
        instances: (h, w) ids, 0 is background.
        depth: (h, w).
        reach: distance along a row or column, pixels, at least 1.

    Returns:
        (i, j), i < j, and how they touch.
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
    """Return whether objects 1..n are all linked by the pairs."""
    group = {1}
    for _ in range(objects):
        group |= {i for pair in pairs if group & set(pair) for i in pair}
    return len(group) == objects


def _acceptable(world: World, *, kind: Kind, objects: int, aspect: float) -> bool:
    """Return whether a layout is what `kind` promises, judged on a coarse rendering."""
    # Render depth and instances at a height of 96 pixels.
    height = 96
    width = max(round(height * aspect), 8)
    origins, directions = world.camera.rays(*pixels(height, width))
    depth, what = world.trace(origins, directions)
    ids = instance_map(world, what).reshape(height, width)
    depth = depth.reshape(height, width)
    # Every object lies wholly inside the image, with a visible part of the right size.
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
    # Scattered objects touch nowhere; touching ones form one group, with a depth step at each contact.
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
    behind or in front of it: the depth step between any two whose images touch is at least `MIN_STEP` of the scene's
    depth range. "scattered": objects of several classes that do not touch in the image.

    Args:
        seed: of the scene; equal arguments give equal arrays.
        height: of the image, pixels, at least 64.
        width: of the image, pixels, 1.25 to 2 times `height`.
        kind: "touching" or "scattered".
        objects: number of objects, 2 to 5 touching, 1 to 8 scattered.

    Returns:
        The scene; every object is visible and wholly inside the image.

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
    # Classes, looks and colours are drawn once; only places and the camera are drawn again.
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
        # Build the objects from left to right, numbered from 1, and move them to the middle of the view.
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
        # Frame them with the camera, and put a wall behind and a light above.
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
