"""The object classes of the rendered scenes, and the rooms they stand in. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from scenes import textures
from scenes.textures import Floats, Texture
from scenes.tracer import Solid, rotation

CLASSES = ("orange", "apple", "tomato", "tennis", "basketball", "can", "cup", "carton")
"""Classes of objects."""
METRES = {
    "orange": 0.09,
    "apple": 0.09,
    "tomato": 0.08,
    "tennis": 0.07,
    "basketball": 0.16,
    "can": 0.09,
    "cup": 0.09,
    "carton": 0.2,
}
"""Typical width of an object of each class, metres."""
_FRUIT_COLOURS = {
    "orange": ((0.95, 0.50, 0.07), (0.98, 0.58, 0.12)),
    "apple": ((0.86, 0.66, 0.22), (0.72, 0.09, 0.11)),
    "tomato": ((0.80, 0.13, 0.07), (0.88, 0.26, 0.09)),
}


def _jittered(rng: np.random.Generator, rgb: Sequence[float], amount: float) -> Floats:
    """Vary an sRGB colour at random. Returns linear RGB, (3,)."""
    shade = rng.uniform(1 - amount, 1 + amount)
    return textures.linear(np.clip(np.asarray(rgb) * shade + rng.uniform(-amount, amount, 3) * 0.25, 0.02, 0.97))


def look_of(rng: np.random.Generator, name: str) -> Texture:
    """Draw a texture for a class of objects; all objects of a touching scene share one.

    Args:
        rng: draws the colours.
        name: one of `CLASSES`.
    """

    def pick(*colours: tuple[float, float, float]) -> Floats:
        return _jittered(rng, colours[rng.integers(len(colours))], 0.08)

    if name in _FRUIT_COLOURS:
        flesh, blush = (_jittered(rng, c, 0.06) for c in _FRUIT_COLOURS[name])
        if name == "apple" and rng.random() < 0.3:
            flesh, blush = textures.linear((0.70, 0.76, 0.30)), textures.linear((0.50, 0.66, 0.16))
        calyx = textures.linear((0.22, 0.36, 0.10)) if name == "tomato" else None
        settings = {"orange": (0.0, 0.20, 0.22), "apple": (2.2, 0.02, 0.5), "tomato": (0.6, 0.02, 0.6)}[name]
        return textures.fruit(flesh, blush, streaks=settings[0], pores=settings[1], gloss=settings[2], calyx=calyx)
    if name == "tennis":
        return textures.tennis(pick((0.80, 0.90, 0.20), (0.76, 0.86, 0.16)), textures.linear((0.93, 0.93, 0.88)))
    if name == "basketball":
        return textures.basketball(
            pick((0.80, 0.38, 0.14), (0.74, 0.32, 0.12), (0.25, 0.35, 0.65)), textures.linear((0.07, 0.06, 0.06))
        )
    if name == "can":
        label = pick((0.75, 0.10, 0.12), (0.10, 0.25, 0.60), (0.10, 0.45, 0.25), (0.90, 0.65, 0.10))
        return textures.can(
            label, pick((0.93, 0.90, 0.80), (0.12, 0.12, 0.16), (0.95, 0.80, 0.20)), bands=rng.uniform(0.18, 0.3)
        )
    if name == "cup":
        glaze = pick((0.90, 0.88, 0.82), (0.30, 0.48, 0.62), (0.65, 0.28, 0.20), (0.35, 0.50, 0.38))
        drink = pick((0.22, 0.11, 0.05), (0.55, 0.36, 0.22))
        return textures.cup(glaze, pick((0.30, 0.24, 0.20), (0.85, 0.78, 0.65)), drink)
    board = pick((0.76, 0.58, 0.40), (0.70, 0.52, 0.35), (0.88, 0.86, 0.82))
    return textures.carton(
        board, pick((0.80, 0.68, 0.48), (0.88, 0.86, 0.80)), pick((0.15, 0.13, 0.12), (0.62, 0.12, 0.10))
    )


def build(
    rng: np.random.Generator, name: str, look: Texture, *, at: tuple[float, float], size: float, instance: int
) -> list[Solid]:
    """Build an object that stands on the table.

    Args:
        rng: draws its attitude and proportions.
        name: one of `CLASSES`.
        look: its texture.
        at: (x, z) on the table, units of the scene.
        size: half its width, units of the scene.
        instance: number of the object, from 1.

    Returns:
        Its solids: a body, and a stem where the class has one.
    """
    # Draw what every class needs: an offset of the noise, so that equal objects are not copies, and a turn.
    shift = rng.uniform(0, 32, 3).astype(np.float32)
    yaw = float(rng.uniform(0, 2 * np.pi))
    x, z = at

    def solid(
        shape: Literal["sphere", "box", "cylinder"], scale: Sequence[float], height: float, attitude: Floats
    ) -> Solid:
        centre = np.array([x, height, z], np.float32)
        return Solid(
            shape, centre, (attitude * np.asarray(scale, np.float32)).astype(np.float32), instance, look, shift
        )

    # Tins, cups, cartons and balls are one solid each.
    if name in ("can", "cup"):
        tall = (1.15 if name == "can" else 1.0) * rng.uniform(0.96, 1.04) * size
        return [solid("cylinder", (0.86 * size, tall, 0.86 * size), tall, rotation(yaw))]
    if name == "carton":
        half = np.array([0.88, 0.95, 0.7]) * rng.uniform(0.94, 1.06, 3) * size
        return [solid("box", half.tolist(), float(half[1]), rotation(float(rng.uniform(-0.35, 0.35))))]
    if name in ("tennis", "basketball"):
        attitude = rotation(yaw, *rng.uniform(0, 2 * np.pi, 2).tolist())
        return [solid("sphere", (size, size, size), size, attitude)]
    # Fruit: a tilted ellipsoid whose lowest point touches the table.
    squash = {"orange": 0.95, "apple": 0.9, "tomato": 0.88}[name] * rng.uniform(0.97, 1.03)
    attitude = rotation(yaw, float(rng.uniform(-0.55, 0.35)), float(rng.uniform(-0.3, 0.3)))
    body = solid("sphere", (size, size * squash, size), 1.0, attitude)
    lowest = float(np.linalg.norm(body.axes[1]))  # the support of an ellipsoid along y
    body = solid("sphere", (size, size * squash, size), lowest, attitude)
    if name == "orange":
        return [body]
    # All but oranges have a stem.
    bark = textures.stone(textures.linear((0.30, 0.24, 0.12)), textures.linear((0.14, 0.10, 0.05)), 3.0)
    stem = attitude @ rotation(0.0, float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.3, 0.3)))
    length = size * rng.uniform(0.12, 0.18)
    foot = body.centre + body.axes[:, 1] * np.float32(0.97) + stem[:, 1] * np.float32(length * 0.8)
    axes = (stem * np.array([0.04 * size, length, 0.04 * size], np.float32)).astype(np.float32)
    return [body, Solid("cylinder", foot.astype(np.float32), axes, instance, bark, shift)]


def room(rng: np.random.Generator) -> tuple[Texture, Texture]:
    """Draw the textures of the table and the wall, in muted colours."""
    wood = (
        ((0.72, 0.58, 0.43), (0.48, 0.35, 0.24)),
        ((0.50, 0.38, 0.30), (0.30, 0.21, 0.16)),
        ((0.80, 0.74, 0.66), (0.60, 0.53, 0.45)),
    )
    plain = ((0.62, 0.64, 0.66), (0.45, 0.50, 0.56), (0.74, 0.71, 0.66), (0.40, 0.44, 0.42), (0.55, 0.56, 0.66))

    def colour(*colours: tuple[float, float, float]) -> Floats:
        return _jittered(rng, colours[rng.integers(len(colours))], 0.07)

    # The table: wood in half of the scenes, else cloth or stone.
    choice = rng.integers(4)
    if choice < 2:
        light, dark = wood[rng.integers(len(wood))]
        floor = textures.wood(_jittered(rng, light, 0.05), _jittered(rng, dark, 0.05), rng.uniform(1.6, 3.0))
    elif choice == 2:
        base = plain[rng.integers(len(plain))]
        floor = textures.cloth(
            _jittered(rng, base, 0.04),
            textures.linear(np.asarray(base) * rng.uniform(0.82, 1.12)),
            rng.uniform(0.8, 2.0),
        )
    else:
        floor = textures.stone(colour(*plain), colour((0.35, 0.34, 0.33), (0.8, 0.8, 0.78)), rng.uniform(0.5, 1.2))
    # The wall: bricks, cloth or plaster.
    choice = rng.integers(4)
    if choice == 0:
        wall = textures.bricks(
            colour((0.55, 0.36, 0.30), (0.66, 0.62, 0.58)), textures.linear((0.66, 0.64, 0.61)), rng.uniform(0.5, 0.9)
        )
    elif choice == 1:
        base = plain[rng.integers(len(plain))]
        wall = textures.cloth(textures.linear(base), textures.linear(np.asarray(base) * 0.93), rng.uniform(0.7, 1.6))
    else:
        wall = textures.stone(colour(*plain, (0.80, 0.79, 0.75)), colour((0.6, 0.6, 0.6)), rng.uniform(0.15, 0.5))
    return floor, wall
