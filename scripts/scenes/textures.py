"""Procedural textures for the rendered scenes: fruit, balls, tins, cups, cartons, tables and walls. Not in the paper.

A texture maps points in an object's own frame (about [-1, 1]) to colour, gloss and bumps (`Texture`). The functions
that make one take colours in linear RGB, (3,) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""Arrays of real numbers; float32 wherever there are many."""


class Noise:
    """Smooth periodic value noise in 3D, from a table of random numbers."""

    _SIZE = 32

    def __init__(self, rng: np.random.Generator) -> None:
        """Draw the table of random numbers."""
        self._table = rng.random(self._SIZE**3, dtype=np.float32) * 2 - 1

    def __call__(self, points: Floats) -> Floats:
        """Return the noise at (n, 3) points, one lattice cell per unit: (n,) values in [-1, 1]."""
        base = np.floor(points)
        frac = points - base
        frac = frac * frac * (3 - 2 * frac)
        cell = base.astype(np.int32)
        low, high = cell & (self._SIZE - 1), (cell + 1) & (self._SIZE - 1)
        x = (low[:, 0], high[:, 0])
        y = (low[:, 1] * self._SIZE, high[:, 1] * self._SIZE)
        z = (low[:, 2] * self._SIZE**2, high[:, 2] * self._SIZE**2)
        out = np.zeros(len(points), dtype=np.float32)
        weights = [(1 - frac[:, axis], frac[:, axis]) for axis in range(3)]
        for k in (0, 1):
            for j in (0, 1):
                row = z[k] + y[j]
                line = self._table[row + x[0]] * weights[0][0] + self._table[row + x[1]] * weights[0][1]
                out += line * weights[1][j] * weights[2][k]
        return out

    def sum(self, points: Floats, *, frequency: float, octaves: int) -> Floats:
        """Return the fractal sum of several octaves at (n, 3) points: (n,), about [-1, 1]."""
        out = np.zeros(len(points), dtype=np.float32)
        for octave in range(octaves):
            out += self(points * np.float32(frequency * 2.03**octave) + 7.3 * octave) * np.float32(0.5**octave)
        return out * np.float32(0.7)


class Shifted(Noise):
    """The same noise, translated."""

    def __init__(self, noise: Noise, shift: Floats) -> None:
        """Translate `noise` by `shift`, (3,)."""
        self._table = noise._table
        self._shift = shift

    def __call__(self, points: Floats) -> Floats:
        """Return the translated noise at (n, 3) points: (n,) values in [-1, 1]."""
        return super().__call__((points + self._shift).astype(np.float32))


class Surface(NamedTuple):
    """Colour, gloss and bumps at n points."""

    albedo: Floats
    """(n, 3) linear RGB in [0, 1]."""
    gloss: Floats
    """(n,) weight of the highlight, 0 is matt."""
    bump: Floats
    """(n, 3), added to the normal, in the frame of the texture's points."""


Texture = Callable[[Floats, Floats, Noise], Surface]
"""(points (n, 3) in the object's frame, normals (n, 3) in the same frame, noise) -> Surface."""


def linear(rgb: Sequence[float] | Floats) -> Floats:
    """Convert an sRGB colour in [0, 1] to linear light, (3,)."""
    return np.asarray(rgb, dtype=np.float32) ** np.float32(2.2)


def mix(a: Floats, b: Floats, share: Floats) -> Floats:
    """Blend (n, 3) or (3,) colours by (n,) shares in [0, 1]."""
    weight = np.clip(share, 0, 1)[:, None]
    return a * (1 - weight) + b * weight


def ramp(values: Floats, low: float, high: float) -> Floats:
    """Rise smoothly from 0 at `low` to 1 at `high`; fall where `low` > `high`."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def roughness(points: Floats, noise: Noise, *, frequency: float, strength: float) -> Floats:
    """Return a random tilt of the normal at (n, 3) points: (n, 3)."""
    p = points * np.float32(frequency)
    tilt = np.stack([noise(p), noise(p + 11.7), noise(p + 23.1)], axis=1)
    return tilt * np.float32(strength)


def fruit(flesh: Floats, blush: Floats, *, streaks: float, pores: float, gloss: float, calyx: Floats | None) -> Texture:
    """Return the texture of a fruit with its stem at +y.

    Args:
        flesh: base colour.
        blush: colour of the patches or streaks.
        streaks: how far the patches are drawn out into streaks, at least 0.
        pores: strength of the bumps.
        gloss: weight of the highlight.
        calyx: colour of the leaves round the stem; None for a dark dimple.
    """

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        patches = noise.sum(
            points * np.array([1 + streaks, 1 - 0.6 * (streaks > 0), 1 + streaks]), frequency=1.7, octaves=4
        )
        albedo = mix(flesh, blush, ramp(patches, -0.35, 0.45))
        albedo *= (1 + 0.16 * noise.sum(points, frequency=9, octaves=3))[:, None]
        speckles = ramp(noise(points * np.float32(26)), 0.62, 0.8)
        albedo = mix(albedo, np.minimum(albedo * 1.5 + 0.04, 1), speckles * 0.5)
        away = np.hypot(points[:, 0], points[:, 2])
        top = points[:, 1] > 0
        if calyx is None:
            albedo = mix(albedo, albedo * 0.25 + 0.01, ramp(away, 0.3, 0.05) * top)
        else:
            angle = np.arctan2(points[:, 2], points[:, 0])
            reach = 0.14 + 0.36 * np.abs(np.cos(2.5 * angle + 2 * away)) ** 3
            albedo = mix(
                albedo,
                calyx * (1 + 0.4 * noise(points * np.float32(14)))[:, None],
                ramp(away - reach, 0.03, -0.03) * top,
            )
        return Surface(
            albedo, np.full(len(points), gloss, np.float32), roughness(points, noise, frequency=24, strength=pores)
        )

    return texture


def tennis(felt: Floats, seam: Floats) -> Texture:
    """Return the texture of a tennis ball: felt with a curved seam."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        x, y, z = points.T
        line = np.abs(z - 1.25 * (x * x - y * y)) / (1 + 1.6 * np.hypot(x, y))
        fuzz = noise.sum(points, frequency=16, octaves=3)
        albedo = mix(
            felt * (1 + 0.35 * fuzz)[:, None], seam * (1 + 0.1 * fuzz)[:, None], ramp(line + 0.012 * fuzz, 0.055, 0.03)
        )
        return Surface(
            albedo, np.full(len(points), 0.02, np.float32), roughness(points, noise, frequency=22, strength=0.35)
        )

    return texture


def basketball(skin: Floats, line_colour: Floats) -> Texture:
    """Return the texture of a basketball: pebbled leather with dark channels."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        x, y, z = points.T
        lines = np.minimum(np.minimum(np.abs(x), np.abs(y)), np.abs(np.abs(z) - 0.45 - 0.25 * x * x))
        albedo = skin * (1 + 0.2 * noise.sum(points, frequency=5, octaves=4))[:, None]
        albedo = mix(albedo, line_colour, ramp(lines, 0.035, 0.02))
        return Surface(
            albedo, np.full(len(points), 0.12, np.float32), roughness(points, noise, frequency=28, strength=0.3)
        )

    return texture


def can(label: Floats, accent: Floats, *, bands: float) -> Texture:
    """Return the texture of a tin: metal ends and rims, a printed label with a band and three badges.

    Args:
        label: colour of the label.
        accent: colour of the band and the badges.
        bands: half the height of the band, in half heights of the tin.
    """

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        x, y, z = points.T
        radius = np.hypot(x, z)
        angle = np.arctan2(z, x)
        wavy = y + 0.10 * np.sin(3 * angle + 1.0)
        albedo = mix(label, accent, ramp(np.abs(wavy + 0.15), bands + 0.02, bands - 0.02))
        turn = (angle / (2 * np.pi) * 3) % 1 - 0.5
        badge = np.hypot(turn * 2.6, (y - 0.32) * 1.3)
        albedo = mix(albedo, np.full(3, 0.82, np.float32), ramp(badge, 0.36, 0.33))
        albedo = mix(albedo, accent, ramp(badge, 0.26, 0.23))
        letters = (np.abs(y + 0.15) < bands * 0.45) & (noise(np.stack([angle * 4.2, 0 * y, 0 * y], axis=1)) > 0.08)
        albedo = mix(albedo, np.full(3, 0.85, np.float32), letters.astype(np.float32))
        albedo *= (1 + 0.06 * noise.sum(points, frequency=6, octaves=4))[:, None]
        metal = np.maximum(ramp(np.abs(y), 0.86, 0.88), (np.abs(normals[:, 1]) > 0.7).astype(np.float32))
        rings = (
            0.45 + 0.16 * np.cos(radius * 46) * (radius < 0.9) + 0.14 * noise(points * np.array([3, 14, 3], np.float32))
        )
        rings -= 0.28 * ramp(np.abs(radius - 0.9), 0.06, 0.02) * (np.abs(normals[:, 1]) > 0.7)
        albedo = mix(albedo, rings[:, None] * np.array([0.97, 1, 1.02], np.float32), metal)
        return Surface(albedo, 0.28 + 0.35 * metal, roughness(points, noise, frequency=7, strength=0.05))

    return texture


def cup(glaze: Floats, band: Floats, drink: Floats) -> Texture:
    """Return the texture of a glazed cup, full to the rim: its glaze, a band round its foot, the drink."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        radius, y = np.hypot(points[:, 0], points[:, 2]), points[:, 1]
        speckle = noise(points * np.float32(21))
        albedo = glaze * (1 + 0.10 * noise.sum(points, frequency=2.5, octaves=4) - 0.3 * (speckle > 0.66))[:, None]
        edge = 0.03 * noise(points * np.float32(3))
        albedo = mix(albedo, band, ramp(y + edge, -0.42, -0.46))
        inside = ramp(radius, 0.89, 0.87) * (normals[:, 1] > 0.7)
        albedo = mix(albedo, drink * (1 + 0.25 * noise.sum(points, frequency=4, octaves=3))[:, None], inside)
        return Surface(albedo, 0.55 - 0.2 * inside, roughness(points, noise, frequency=3, strength=0.05))

    return texture


def carton(board: Floats, tape: Floats, print_colour: Floats) -> Texture:
    """Return the texture of a cardboard box: fluted board, tape over the top, a printed arrow and a label."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        x, y, z = points.T
        flat = noise.sum(points, frequency=2.2, octaves=5)
        flutes = np.sin(y * 95 + 2 * noise(points * np.float32(3)))
        albedo = board * (1 + 0.10 * flat + 0.03 * flutes)[:, None]
        wear = ramp(np.sort(np.abs(points), axis=1)[:, 1] + 0.03 * noise(points * np.float32(12)), 0.95, 0.995)
        albedo = mix(albedo, np.minimum(board * 1.45, 1), wear * 0.6)
        side = np.abs(normals[:, 1]) < 0.5
        across = np.where(np.abs(normals[:, 0]) > np.abs(normals[:, 2]), z, x)
        taped = (np.abs(x) < 0.16) & ((normals[:, 1] > 0.5) | (side & (np.abs(normals[:, 2]) > 0.5) & (y > 0.55)))
        albedo = mix(albedo, tape * (1 + 0.12 * flat)[:, None], taped * np.float32(0.75))
        sticker = side & (np.abs(across - 0.35) < 0.38) & (np.abs(y + 0.1) < 0.3)
        text = (noise(np.stack([across * 17, np.floor(y * 14), x * 0], axis=1)) > 0.05) & ((y * 14) % 1 > 0.45)
        paper = mix(np.full(3, 0.78, np.float32), np.full(3, 0.05, np.float32), text * np.float32(0.9))
        albedo = mix(albedo, paper, sticker.astype(np.float32))
        arrow = (
            side & (np.abs(across + 0.55) < np.clip(0.25 - np.abs(y + 0.1) * 0.5, 0.0, 0.2)) & (np.abs(y + 0.1) < 0.38)
        )
        albedo = mix(albedo, print_colour, arrow * np.float32(0.85))
        gloss = 0.03 + 0.25 * taped.astype(np.float32)
        return Surface(albedo, gloss, roughness(points, noise, frequency=5, strength=0.05))

    return texture


def wood(light: Floats, dark: Floats, plank: float) -> Texture:
    """Return the texture of planks along x, `plank` units of the scene wide, with grain."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        board = np.floor(points[:, 2] / plank)
        seam = np.abs(points[:, 2] / plank - board - 0.5)
        p = points + np.stack([board * 5.1, board * 2.3, board * 0], axis=1)
        warp = noise(p * np.array([0.5, 1, 2.0], np.float32))
        grain = noise.sum(p * np.array([0.55, 1, 9.0], np.float32) + 0.6 * warp[:, None], frequency=1.2, octaves=5)
        rings = np.sin((p[:, 2] * 5 + 1.6 * warp) * 6)
        albedo = mix(light, dark, 0.5 + 0.55 * grain + 0.14 * rings)
        albedo *= (1 + 0.14 * noise(np.stack([board * 3.7, board, board], axis=1)))[:, None]
        albedo = mix(albedo, dark * 0.35, ramp(seam, 0.485, 0.498))
        return Surface(
            albedo, np.full(len(points), 0.10, np.float32), roughness(points, noise, frequency=9, strength=0.03)
        )

    return texture


def cloth(colour: Floats, second: Floats, check: float) -> Texture:
    """Return the texture of woven cloth with a faint check, one period every `check` units of the scene."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        x, z = points[:, 0], points[:, 2] + points[:, 1]
        weave = noise(points * np.float32(30)) * 0.5 + noise(points * np.array([9, 60, 40], np.float32)) * 0.5
        folds = noise.sum(points, frequency=0.7, octaves=3)
        pattern = 0.5 * ((x / check) % 1 < 0.5) + 0.5 * ((z / check) % 1 < 0.5)
        albedo = mix(colour, second, pattern.astype(np.float32)) * (1 + 0.22 * weave + 0.12 * folds)[:, None]
        return Surface(
            albedo, np.full(len(points), 0.01, np.float32), roughness(points, noise, frequency=2, strength=0.10)
        )

    return texture


def stone(colour: Floats, vein: Floats, frequency: float) -> Texture:
    """Return the texture of concrete, plaster or a veined worktop; `frequency` is that of its clouds."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        clouds = noise.sum(points, frequency=frequency, octaves=5)
        grit = noise(points * np.float32(26))
        lines = np.abs(noise.sum(points + 0.4 * clouds[:, None], frequency=0.7 * frequency, octaves=3))
        albedo = mix(colour * (1 + 0.16 * clouds + 0.07 * grit)[:, None], vein, ramp(lines, 0.06, 0.0) * 0.5)
        return Surface(
            albedo, np.full(len(points), 0.06, np.float32), roughness(points, noise, frequency=6, strength=0.06)
        )

    return texture


def bricks(brick: Floats, mortar: Floats, height: float) -> Texture:
    """Return the texture of a brick wall in running bond; courses are `height` units of the scene high."""

    def texture(points: Floats, normals: Floats, noise: Noise) -> Surface:
        course = np.floor(points[:, 1] / height)
        along = points[:, 0] / (3 * height) + 0.5 * (course % 2)
        piece = np.floor(along)
        gap = np.maximum(np.abs(points[:, 1] / height - course - 0.5), np.abs(along - piece - 0.5) * 3 - 1.0)
        gap = gap + 0.02 * noise(points * np.float32(12))
        tone = noise(np.stack([piece * 3.3, course * 2.7, piece], axis=1))
        albedo = brick * (1 + 0.3 * tone + 0.22 * noise.sum(points, frequency=5, octaves=4))[:, None]
        albedo = mix(albedo, mortar * (1 + 0.1 * tone)[:, None], ramp(gap, 0.42, 0.46))
        return Surface(
            albedo, np.full(len(points), 0.01, np.float32), roughness(points, noise, frequency=10, strength=0.12)
        )

    return texture
