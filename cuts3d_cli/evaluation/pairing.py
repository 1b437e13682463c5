"""Finds the images of a ground truth among the photos of shards."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.coco import TrueImage
from cuts3d_cli.wording import listed


@dataclass(frozen=True, kw_only=True)
class ShardImage:
    """A photo of a base shard.

    Attributes:
        shard: the base shard.
        key: of the sample.
        source: path of the photo from the root of what was packed.
        coco_id: its id in the COCO JSON that the shard was packed from; None if it was not.
        size: (width, height) of the upright photo in pixels, if it is recorded.
    """

    shard: Path
    key: str
    source: str
    coco_id: int | None
    size: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which photo is which image.

    Attributes:
        photos: image id -> its photo.
        missing: ids of images without a photo.
        extra: photos that are no image of the ground truth.
        by_base_name: image ids that only the last part of the name told, though the folders before it differ.
    """

    photos: Mapping[int, ShardImage]
    missing: Sequence[int]
    extra: Sequence[ShardImage]
    by_base_name: Sequence[int]


def pair_images(images: Mapping[int, TrueImage], photos: Sequence[ShardImage], *, path: Path) -> Pairing:
    """Pair the images of a ground truth with photos.

    A photo is the image of the same path; where several images have that path, the one of its id. Else it is the image
    of the id that it had in the COCO JSON it was packed from, if the base names agree: folders may be counted from
    another root. Else it is the image of the same base name, where that is unique among what is left of both.

    Args:
        images: by id.
        photos: of all shards.
        path: of the ground truth, for messages.

    Returns:
        The pairing.

    Raises:
        UsageError: a photo could be several images, several photos could be one, or the sizes of a pair differ.
    """
    by_file: dict[str, list[int]] = {}
    for image, facts in images.items():
        by_file.setdefault(facts.file, []).append(image)
    paired: dict[int, ShardImage] = {}
    left = []
    for photo in photos:
        found = _by_path_or_id(photo, images, by_file, path=path)
        if found is None:
            left.append(photo)
        else:
            _pair(paired, found, photo, path=path)
    extra, by_base_name = _pair_by_base_name(paired, left, images, path=path)
    for image, photo in paired.items():
        facts = images[image]
        if photo.size is not None and photo.size != (facts.width, facts.height):
            raise UsageError(
                f"{path}: image {image} ({facts.file}) is {facts.width}x{facts.height}, {photo.key} of {photo.shard} is"
                f" {photo.size[0]}x{photo.size[1]} upright: they must be the same photo at the same size"
            )
    missing = [image for image in images if image not in paired]
    return Pairing(photos=paired, missing=missing, extra=extra, by_base_name=by_base_name)


def _by_path_or_id(
    photo: ShardImage, images: Mapping[int, TrueImage], by_file: Mapping[str, list[int]], *, path: Path
) -> int | None:
    exact = by_file.get(posixpath.normpath(photo.source), [])
    if len(exact) == 1:
        return exact[0]
    number = photo.coco_id
    if exact and number not in exact:
        raise UsageError(
            f"{path}: the images {listed(exact)} have the same file_name {photo.source}: leave one of them"
        )
    if number is not None and number in images and _base_name(images[number].file) == _base_name(photo.source):
        return number
    return None


def _pair_by_base_name(
    paired: dict[int, ShardImage], left: Sequence[ShardImage], images: Mapping[int, TrueImage], *, path: Path
) -> tuple[list[ShardImage], list[int]]:
    """Pair what is left. Returns photos that are no image, and the images whose folders differ from their photo's."""
    candidates: dict[str, list[int]] = {}
    for image, facts in images.items():
        if image not in paired:
            candidates.setdefault(_base_name(facts.file), []).append(image)
    of_name: dict[str, list[ShardImage]] = {}
    for photo in left:
        of_name.setdefault(_base_name(photo.source), []).append(photo)
    extra, different = [], []
    for name, photos in of_name.items():
        found = candidates.get(name)
        if found is None:
            extra += photos
        elif len(found) > 1 or len(photos) > 1:
            raise UsageError(
                f"{path}: several of its images or of the photos are called {name} (images {listed(found)}; photos"
                f" {listed([photo.source for photo in photos])}): write the photos' paths into its 'file_name's, or"
                " pass fewer shards"
            )
        else:
            _pair(paired, found[0], photos[0], path=path)
            if not _is_end_of_other(images[found[0]].file, photos[0].source):
                different.append(found[0])
    return extra, different


def _pair(paired: dict[int, ShardImage], image: int, photo: ShardImage, *, path: Path) -> None:
    other = paired.setdefault(image, photo)
    if other is not photo:
        raise UsageError(
            f"{path}: image {image} is both {other.key} of {other.shard} and {photo.key} of {photo.shard}: pass one of"
            " the shards"
        )


def _base_name(file: str) -> str:
    return posixpath.basename(posixpath.normpath(file))


def _is_end_of_other(first: str, second: str) -> bool:
    pairs = zip(reversed(first.split("/")), reversed(second.split("/")), strict=False)
    return all(one == other for one, other in pairs)
