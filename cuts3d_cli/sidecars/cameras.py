"""The camera among the facts about a photo: `{"camera": {"fx": ..., "fy": ...}}`, in pixels of the upright photo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cuts3d_cli.cut.focal import Focal, in_pixels
from cuts3d_cli.sidecars.fields import Record

CAMERA = "camera"
"""The field of the facts."""


def camera_facts(focal: Focal, *, size: tuple[int, int]) -> dict[str, float]:
    """Return what is stored of the camera of a photo.

    Args:
        focal: of the photo.
        size: (height, width) of the photo, pixels.
    """
    return {"fx": focal.x * size[1], "fy": focal.y * size[0]}


def check_camera(facts: Record) -> None:
    """Check what the facts about a photo say of its camera, as far as no photo is needed.

    Raises:
        ValueError: a number is missing or impossible.
    """
    if not facts.has(CAMERA):
        return
    camera = facts.object(CAMERA)
    for name in ("fx", "fy"):
        if camera.number(name) <= 0:
            camera.fail(name)


def stored_focal(facts: Mapping[str, Any], *, size: tuple[int, int]) -> Focal | None:
    """Return the focal length that the facts about a photo give.

    Args:
        facts: checked, see `check_camera`.
        size: (height, width) of the photo, pixels.

    Raises:
        ValueError: no lens has such a focal length; the reason follows "it".
    """
    camera = facts.get(CAMERA)
    if not isinstance(camera, Mapping):
        return None
    return in_pixels(float(camera["fx"]), float(camera["fy"]), size=size, source="intrinsics")
