"""Pairs the images of a ground truth with the photos of shards."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.ground_truth import TrueImage
from cuts3d_cli.wording import listed


@dataclass(frozen=True, kw_only=True)
class ShardImage:
    """A photo of a base shard.

    Attributes:
        shard: the base shard.
        key: of the sample.
        source: path of the photo below the folder that was packed.
        coco_id: its id in the COCO JSON that the shard was packed from; None if it was packed from something else.
        size: (width, height) of the upright photo in pixels; None if it is not recorded.
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
        photos: image id -> photo.
        missing: ids of images without a photo.
        extra: photos that are not images of the ground truth.
        by_base_name: ids of images that were paired by the last part of their name, though the folders before differ.
    """

    photos: Mapping[int, ShardImage]
    missing: Sequence[int]
    extra: Sequence[ShardImage]
    by_base_name: Sequence[int]


def pair_images(images: Mapping[int, TrueImage], photos: Sequence[ShardImage], *, path: Path) -> Pairing:
    """Pair the images of a ground truth with photos.

    A photo is the image of the same path; where several images have that path, the one of its id. Otherwise it is the
    image of the id that it had in the COCO JSON it was packed from, if the base names agree: paths may begin at another
    root. Otherwise it is the image of the same base name, where that is unique among the remaining images and photos.

    Args:
        images: image id -> image.
        photos: of all shards.
        path: of the ground truth, for messages.

    Returns:
        The pairing.

    Raises:
        UsageError: a photo could be several images, several photos could be one, or the sizes of a pair differ.
    """
    # Pair by path and by id.
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
    # Pair what is left by base name.
    extra, by_base_name = _pair_by_base_name(paired, left, images, path=path)
    # A pair of different sizes is no pair.
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
    """Return the id of the image that a photo is by its path, or by the id that it was packed with."""
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
    """Pair the remaining photos by base name.

    Returns:
        The photos that are not images, and the ids of images whose folders differ from those of their photo.
    """
    # Group the remaining images and photos by base name.
    candidates: dict[str, list[int]] = {}
    for image, facts in images.items():
        if image not in paired:
            candidates.setdefault(_base_name(facts.file), []).append(image)
    of_name: dict[str, list[ShardImage]] = {}
    for photo in left:
        of_name.setdefault(_base_name(photo.source), []).append(photo)
    # Pair those that are alone with their name on both sides.
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
    """Pair an image with a photo, unless it has one already."""
    other = paired.setdefault(image, photo)
    if other is not photo:
        raise UsageError(
            f"{path}: image {image} is both {other.key} of {other.shard} and {photo.key} of {photo.shard}: pass one of"
            " the shards"
        )


def _base_name(file: str) -> str:
    return posixpath.basename(posixpath.normpath(file))


def _is_end_of_other(first: str, second: str) -> bool:
    """Tell whether one of two paths ends with the other."""
    pairs = zip(reversed(first.split("/")), reversed(second.split("/")), strict=False)
    return all(one == other for one, other in pairs)
