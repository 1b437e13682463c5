"""Rendered heaps: objects of one look that lie against and on each other. Not in the paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scenes.layout import _framed
from scenes.objects import METRES, build, look_of, room
from scenes.textures import Floats
from scenes.tracer import Scene, Solid, World, render

CLASSES = ("orange", "tennis", "basketball", "tomato", "carton", "can")
"""Classes of objects that make a heap."""
_LOWER = ((-2.1, 0.0), (0.0, 0.0), (2.1, 0.0), (-1.05, 1.85), (1.05, 1.85), (0.0, -1.85))
"""x and z of those that lie on the table, in units of their radius: each touches its neighbours."""
_UPPER = (0.0, 0.6)
"""x and z of the one on top."""


def render_heap(seed: int, *, height: int = 480, width: int = 640) -> Scene:
    """Render seven objects of one class and one look in a heap: six on the table, one on top of them.

    From step to step depth changes by less than the size of an object, in a room several times as deep: what parts the
    objects are the concave edges between them.

    Args:
        seed: of the scene; equal arguments give equal arrays.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        The scene; its camera has a focal length of about 0.9 of the image's width.
    """
    rng = np.random.default_rng([seed, 7])
    name = CLASSES[seed % len(CLASSES)]
    look = look_of(rng, name)
    floor, wall = room(rng)
    warm, side = rng.uniform(-0.08, 0.12), rng.choice([-1, 1])

    # On the table, and on top.
    places = [(x, z, 0.0) for x, z in _LOWER] + [(*_UPPER, 1.62 if name not in ("carton", "can") else 2.0)]
    solids: list[Solid] = []
    away, pitch = 9.0, float(np.deg2rad(rng.uniform(44, 52)))
    turn = rng.uniform(-0.25, 0.25)
    places = [(x * np.cos(turn) - z * np.sin(turn), x * np.sin(turn) + z * np.cos(turn), up) for x, z, up in places]
    for instance, (x, z, up) in enumerate(sorted(places), start=1):
        at = (float(x + rng.uniform(-0.05, 0.05)), float(z + away * np.cos(pitch) + rng.uniform(-0.05, 0.05)))
        for solid in build(rng, name, look, at=at, size=float(rng.uniform(0.97, 1.03)), instance=instance):
            lift: Floats = np.array([0.0, up, 0.0], np.float32)
            solids.append(replace(solid, centre=(solid.centre + lift).astype(np.float32)))
    aspect = width / height
    camera = _framed(solids, height=0.95 + away * np.sin(pitch), pitch=pitch, fill=0.78, aspect=aspect)
    world = World(
        camera=camera,
        solids=solids,
        floor=floor,
        wall=wall,
        wall_at=max(float(solid.centre[2]) for solid in solids) + 12.0,
        light=np.array([side * rng.uniform(5, 9), rng.uniform(14, 20), away * 0.6], np.float32),
        light_size=float(rng.uniform(4, 7)),
        light_colour=np.array([1 + warm, 1, 1 - warm], np.float32) * np.float32(rng.uniform(0.75, 0.95)),
        sky=np.array([0.95 - warm / 2, 1, 1.05 + warm / 2], np.float32) * np.float32(rng.uniform(0.22, 0.34)),
        bounce=np.array([1.05, 1, 0.92], np.float32) * np.float32(0.13),
        metre=METRES[name] / 2,
    )
    return render(world, height=height, width=width, rng=rng)
