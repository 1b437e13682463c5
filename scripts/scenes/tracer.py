"""A ray caster in numpy: ellipsoids, boxes and cylinders on a table in front of a wall. Not in the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.textures import Floats, Noise, Shifted, Texture, ramp

_LIGHT_GRID = 3
"""The area light is sampled on a square grid with this many cells a side, jittered at each pixel."""


class Scene(NamedTuple):
    """One rendered scene. All arrays are aligned pixel by pixel."""

    image: NDArray[np.uint8]
    """(height, width, 3) RGB."""
    depth: Floats
    """(height, width) metres along the optical axis, larger is farther, no holes."""
    instances: NDArray[np.int32]
    """(height, width): 0 is background, 1..n the visible part of each object, numbered from left to right."""


@dataclass(frozen=True)
class Solid:
    """A unit sphere, cube ([-1, 1]^3) or cylinder (radius 1, |y| <= 1) under an affine map; part of one object."""

    shape: Literal["sphere", "box", "cylinder"]
    centre: Floats
    axes: Floats
    """(3, 3), whose columns are the images of the unit axes."""
    instance: int
    texture: Texture
    shift: Floats = field(default_factory=lambda: np.zeros(3, np.float32))
    """(3,) offset of the texture's noise, so that equal objects are not copies."""

    def local(self, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
        """Transform rays, (n, 3) each, to the frame of the unit solid."""
        inverse = np.linalg.inv(self.axes).T.astype(np.float32)
        return (origins - self.centre) @ inverse, directions @ inverse

    def hit(self, origins: Floats, directions: Floats) -> Floats:
        """Intersect rays with the solid.

        Args:
            origins: (n, 3), outside or on the solid.
            directions: (n, 3), of any length.

        Returns:
            (n,) float32, the ray parameter of the first hit; inf where there is none.
        """
        o, d = self.local(origins, directions)
        d = np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
        if self.shape == "box":
            a, b = (-1 - o) / d, (1 - o) / d
            near, far = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
        else:
            columns = [0, 1, 2] if self.shape == "sphere" else [0, 2]
            oc, dc = o[:, columns], d[:, columns]
            aa = np.einsum("ij,ij->i", dc, dc)
            bb = np.einsum("ij,ij->i", oc, dc)
            cc = np.einsum("ij,ij->i", oc, oc) - 1
            root = bb * bb - aa * cc
            width = np.sqrt(np.maximum(root, 0))
            near = np.where(root > 0, (-bb - width) / aa, np.inf)
            far = np.where(root > 0, (-bb + width) / aa, -np.inf)
            if self.shape == "cylinder":
                a, b = (-1 - o[:, 1]) / d[:, 1], (1 - o[:, 1]) / d[:, 1]
                near, far = np.maximum(near, np.minimum(a, b)), np.minimum(far, np.maximum(a, b))
        return np.where((near < far) & (near > 1e-4), near, np.inf).astype(np.float32)

    def frame(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Transform points on the solid to its own frame, and compute normals; edges are slightly rounded.

        Args:
            points: (n, 3), in the frame of the scene.

        Returns:
            Points and normals in the frame of the unit solid, and normals in that of the scene; (n, 3) each.
        """
        inverse = np.linalg.inv(self.axes).astype(np.float32)
        p = (points - self.centre) @ inverse.T
        if self.shape == "sphere":
            normal = p
        elif self.shape == "box":
            normal = np.sign(p) * np.abs(p) ** 48
        else:
            radial = np.hypot(p[:, 0], p[:, 2])[:, None]
            side = p * np.array([1, 0, 1], np.float32) / np.maximum(radial, 1e-6)
            normal = side * radial**24
            normal[:, 1] = np.sign(p[:, 1]) * np.abs(p[:, 1]) ** 24
        world = normal @ inverse
        return p, unit(normal), unit(world)


def unit(vectors: Floats) -> Floats:
    """Normalise vectors to length 1; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def rotation(yaw: float, tilt: float = 0.0, roll: float = 0.0) -> Floats:
    """Return a (3, 3) rotation: roll about z, then tilt about x, then yaw about y, radians."""
    cy, sy, cx, sx, cz, sz = (f(a) for a in (yaw, tilt, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_y @ about_x @ about_z).astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the table, in units of an object's radius; y is up, z leads away from the camera."""

    height: float
    pitch: float
    """Radians below the horizon."""
    focal: float
    """In image heights."""
    shift: tuple[float, float]
    """Position of the optical axis: right and down from the centre of the image, in image heights."""

    def rays(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Return the rays through positions in the image.

        Args:
            columns: (n,), image heights to the right of the centre.
            rows: (n,), image heights below the centre.

        Returns:
            Origins and directions, (n, 3) each. The directions have length 1 along the optical axis, so that a ray's
            parameter is the depth.
        """
        x, y = (columns - self.shift[0]) / self.focal, (self.shift[1] - rows) / self.focal
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        directions = np.stack([x, y * c - s, y * s + c], axis=1).astype(np.float32)
        origins = np.zeros_like(directions)
        origins[:, 1] = self.height
        return origins, directions


@dataclass(frozen=True)
class World:
    """The contents of a scene; lengths are in units of an object's radius, of which each is `metre` metres."""

    camera: Camera
    solids: list[Solid]
    floor: Texture
    wall: Texture
    wall_at: float
    light: Floats
    """(3,) centre of the area light."""
    light_size: float
    light_colour: Floats
    sky: Floats
    bounce: Floats
    metre: float

    def trace(self, origins: Floats, directions: Floats) -> tuple[Floats, NDArray[np.int32]]:
        """Find what rays hit first: its depth, (n,), and the index of the solid, (n,); -1 is the floor, -2 the wall."""
        floor = np.where(directions[:, 1] < -1e-6, -origins[:, 1] / np.minimum(directions[:, 1], -1e-6), np.inf)
        wall = (self.wall_at - origins[:, 2]) / np.maximum(directions[:, 2], 1e-6)
        depth = np.minimum(floor, wall).astype(np.float32)
        what = np.where(floor < wall, -1, -2).astype(np.int32)
        for index, solid in enumerate(self.solids):
            t = solid.hit(origins, directions)
            closer = t < depth
            depth[closer] = t[closer]
            what[closer] = index
        return depth, what


def shade(world: World, origins: Floats, directions: Floats, noise: Noise, rng: np.random.Generator) -> Floats:
    """Compute the colours that are seen along rays.

    Args:
        world: the scene.
        origins: (n, 3).
        directions: (n, 3).
        noise: of the textures.
        rng: jitters the samples of the light.

    Returns:
        (n, 3) linear RGB, not clipped.
    """
    # Find the surface that each ray hits: its colour, gloss and normals.
    depth, what = world.trace(origins, directions)
    points = origins + directions * depth[:, None]
    count = len(points)
    albedo = np.zeros((count, 3), np.float32)
    gloss = np.zeros(count, np.float32)
    plain = np.zeros((count, 3), np.float32)
    bumped = np.zeros((count, 3), np.float32)
    for index in np.unique(what):
        chosen = what == index
        if index < 0:
            flat = np.array([0, 1, 0] if index == -1 else [0, 0, -1], np.float32)
            surface = (world.floor if index == -1 else world.wall)(
                points[chosen], np.tile(flat, (chosen.sum(), 1)), noise
            )
            plain[chosen] = flat
            bump = surface.bump
        else:
            solid = world.solids[index]
            local, local_normal, plain[chosen] = solid.frame(points[chosen])
            surface = solid.texture(local, local_normal, Shifted(noise, solid.shift))
            bump = surface.bump @ unit(solid.axes.T)
        albedo[chosen], gloss[chosen] = np.clip(surface.albedo, 0.004, 0.95), surface.gloss
        bumped[chosen] = unit(plain[chosen] + bump)

    # Direct light: cast a shadow ray to a jittered point in each cell of the light.
    view = unit(-directions)
    start = points + plain * 2e-3
    diffuse = np.zeros(count, np.float32)
    shine = np.zeros(count, np.float32)
    for row in range(_LIGHT_GRID):
        for column in range(_LIGHT_GRID):
            jitter = (rng.random((count, 2), dtype=np.float32) + np.array([row, column])) / _LIGHT_GRID - 0.5
            lamp = np.tile(world.light, (count, 1))
            lamp[:, [0, 2]] += world.light_size * jitter.astype(np.float32)
            to_lamp = (lamp - start).astype(np.float32)
            open_ = np.einsum("ij,ij->i", to_lamp, plain) > 0
            for solid in world.solids:
                idx = np.flatnonzero(open_)
                open_[idx] = solid.hit(start[idx], to_lamp[idx]) >= 1
            to_lamp = unit(to_lamp)
            lit = open_ * np.maximum(np.einsum("ij,ij->i", to_lamp, bumped), 0)
            diffuse += lit
            half = unit(to_lamp + view)
            shine += (lit > 0) * np.maximum(np.einsum("ij,ij->i", half, bumped), 0) ** 90
    diffuse /= _LIGHT_GRID**2
    shine /= _LIGHT_GRID**2

    # Ambient light: sky from above, the table's colour from below, less where other objects are near.
    up = 0.5 + 0.5 * bumped[:, 1:2]
    ambient = world.sky * up + world.bounce * (1 - up)
    openness = np.ones(count, np.float32)
    for index, solid in enumerate(world.solids):
        away = solid.centre - points
        distance = np.linalg.norm(away, axis=1)
        radius = np.float32(np.abs(np.linalg.det(solid.axes)) ** (1 / 3))
        covered = np.maximum(np.einsum("ij,ij->i", away, plain) / distance + 0.25, 0) / 1.25
        covered = covered * np.minimum((radius / np.maximum(distance, radius)) ** 2, 1)
        own = (what >= 0) & (np.array([s.instance for s in world.solids] + [0, 0])[what] == solid.instance)
        openness *= np.where(own | (what == index), 1, 1 - 0.85 * covered)
    on_solid = what >= 0
    openness *= np.where(on_solid, 0.45 + 0.55 * ramp(points[:, 1] + 0.4 * (plain[:, 1] > 0.5), -0.1, 0.8), 1)
    colour = albedo * (diffuse[:, None] * world.light_colour + ambient * openness[:, None])
    fresnel = gloss * (0.05 + 0.6 * (1 - np.clip(np.einsum("ij,ij->i", view, bumped), 0, 1)) ** 4)
    mirrored = 2 * np.einsum("ij,ij->i", view, bumped)[:, None] * bumped - view
    surroundings = world.sky * (0.6 + 0.4 * mirrored[:, 1:2]) * openness[:, None]
    return colour + fresnel[:, None] * surroundings + (gloss * shine)[:, None] * world.light_colour * 1.6


def pixels(height: int, width: int) -> tuple[Floats, Floats]:
    """Return columns and rows of all pixel centres, in image heights from the centre of the image, flattened."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return (columns.ravel() + 0.5 - width / 2) / height, (rows.ravel() + 0.5 - height / 2) / height


def instance_map(world: World, what: NDArray[np.int32]) -> NDArray[np.int32]:
    """Map indices of solids, (n,), negative for table and wall, to instance ids, (n,), 0 for table and wall."""
    lookup = np.array([solid.instance for solid in world.solids] + [0, 0], np.int32)
    return lookup[what]


def render(world: World, *, height: int, width: int, rng: np.random.Generator) -> Scene:
    """Render the photo, the depth map and the masks of a scene.

    Args:
        world: the scene.
        height: of the image, pixels.
        width: of the image, pixels.
        rng: draws the textures, the light samples and the grain.
    """
    # One ray a pixel for depth, masks and colour.
    columns, rows = pixels(height, width)
    origins, directions = world.camera.rays(columns, rows)
    depth, what = world.trace(origins, directions)
    noise = Noise(rng)
    colour = shade(world, origins, directions, noise, rng)

    # Nine rays a pixel where the solid changes: antialiased outlines at little cost.
    grid = what.reshape(height, width)
    edge = np.zeros((height, width), bool)
    for axis in (0, 1):
        step = np.diff(grid, axis=axis) != 0
        before, after = (slice(None, -1), slice(1, None)) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        edge[before] |= step
        edge[after] |= step
    chosen = np.flatnonzero(edge)
    offsets = (np.mgrid[:3, :3].reshape(2, -1).T - 1) / 3
    refined = np.zeros((len(chosen), 3), np.float32)
    for dy, dx in offsets:
        o, d = world.camera.rays(columns[chosen] + np.float32(dx / height), rows[chosen] + np.float32(dy / height))
        refined += np.minimum(shade(world, o, d, noise, rng), 1.5)
    colour[chosen] = refined / len(offsets)

    image = develop(colour.reshape(height, width, 3), rng)
    metres = (depth * np.float32(world.metre)).reshape(height, width).astype(np.float32)
    return Scene(image, metres, instance_map(world, what).reshape(height, width))


def develop(linear: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn linear light, (h, w, 3), into an 8-bit photo: exposure, soft shoulder, vignette, lens blur, grain."""
    height, width = linear.shape[:2]
    level = np.percentile(linear.mean(axis=2), 97)
    exposed = linear * np.float32(0.8 / max(float(level), 1e-3))
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    exposed = exposed * (1 - 0.13 * (rows**2 + columns**2))[..., None]
    exposed = np.where(exposed > 0.7, 0.7 + 0.3 * (1 - np.exp(-(exposed - 0.7) / 0.3)), exposed)
    photo = np.clip(exposed, 0, 1).astype(np.float32) ** np.float32(1 / 2.2)
    photo += (photo.mean(axis=2, keepdims=True) - photo) * np.float32(0.14)
    photo = cv2.GaussianBlur(photo, (0, 0), 0.55)
    grain = rng.standard_normal(photo.shape, dtype=np.float32) * 0.009
    grain += rng.standard_normal((*photo.shape[:2], 1), dtype=np.float32) * 0.006
    return np.asarray(np.clip((photo + grain) * 255 + 0.5, 0, 255), dtype=np.uint8)
