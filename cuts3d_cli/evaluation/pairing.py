"""Pairs the images of a ground truth with the photos of shards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.ground_truth import ListedImage
from cuts3d_cli.paths import base_name, plain_path
from cuts3d_cli.wording import listed

_ROBOFLOW = re.compile(r"(?P<stem>.+)_(?P<ending>jpe?g|png|webp|bmp|tiff?)\.rf\.[0-9a-z]{8,}\.[a-z]+")
"""Roboflow's name of a photo: `dog_jpg.rf.0123456789abcdef.jpg`, once `dog.jpg`; in lower-case letters."""
_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?P<name>.+)")
"""Label Studio's name of an upload: `1a2b3c4d-dog.jpg`."""


@dataclass(frozen=True, kw_only=True)
class ShardImage:
    """A photo of a base shard.

    Attributes:
        shard: the base shard.
        key: of the sample.
        source: path of the photo below the folder that was packed.
        coco_id: its id in the COCO JSON that the shard was packed from; None if it was packed from something else.
        size: (width, height) of the upright photo in pixels; None if it is not known.
    """

    shard: Path
    key: str
    source: str
    coco_id: int | str | None
    size: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Which photo is which image.

    Attributes:
        photos: image number -> photo.
        missing: numbers of images without a photo.
        extra: photos that are not images of the ground truth.
        by_base_name: numbers of images that were paired by the last part of their name, though the folders before
            differ.
        by_old_name: numbers of images that were paired by the name that they had before an annotation tool changed it.
    """

    photos: Mapping[int, ShardImage]
    missing: Sequence[int]
    extra: Sequence[ShardImage]
    by_base_name: Sequence[int]
    by_old_name: Sequence[int]


def pair_images(images: Mapping[int, ListedImage], photos: Sequence[ShardImage], *, path: Path) -> Pairing:
    """Pair the images of a ground truth with photos.

    A photo is the image of the same path; where several images have that path, the one of its id. Otherwise it is the
    image of the id that it had in the COCO JSON it was packed from, if the base names agree: paths may begin at another
    root. Otherwise it is the image whose path ends as its own does, where only one does. What is left is paired by base
    names as they were before Roboflow, Label Studio or Windows changed them, where those are unique. Sizes play no
    part.

    Args:
        images: image number -> image.
        photos: of all shards.
        path: of the ground truth, for messages.

    Returns:
        The pairing.

    Raises:
        UsageError: a photo could be several images, or several photos could be one.
    """
    # Pair by path and by id.
    by_file = _grouped({image: facts.file for image, facts in images.items()})
    by_id = {facts.id: image for image, facts in images.items()}
    paired: dict[int, ShardImage] = {}
    left = []
    for photo in photos:
        found = _by_path_or_id(photo, images, by_file, by_id, path=path)
        if found is None:
            left.append(photo)
        else:
            _pair(paired, found, photo, path=path)
    # Pair what is left by the ends of paths, which must leave no doubt, and by base names that tools have changed.
    left, by_base_name = _pair_by_ends(paired, left, images, path=path)
    extra, by_old_name = _pair_by_old_name(paired, left, images)
    missing = [image for image in images if image not in paired]
    return Pairing(photos=paired, missing=missing, extra=extra, by_base_name=by_base_name, by_old_name=by_old_name)


def _by_path_or_id(
    photo: ShardImage,
    images: Mapping[int, ListedImage],
    by_file: Mapping[str, list[int]],
    by_id: Mapping[int | str, int],
    *,
    path: Path,
) -> int | None:
    """Return the number of the image that a photo is by its path, or by the id that it was packed with."""
    source = plain_path(photo.source)
    exact = by_file.get(source, [])
    if len(exact) == 1:
        return exact[0]
    number = None if photo.coco_id is None else by_id.get(photo.coco_id)
    if exact and number not in exact:
        raise UsageError(
            f"{path}: the images {listed([images[image].id for image in exact])} have the same file_name"
            f" {photo.source}: leave one of them"
        )
    if number is not None and base_name(images[number].file) == base_name(source):
        return number
    return None


def _pair_by_ends(
    paired: dict[int, ShardImage], photos: Sequence[ShardImage], images: Mapping[int, ListedImage], *, path: Path
) -> tuple[list[ShardImage], list[int]]:
    """Pair photos by the longest ends of paths that only one image and one photo share.

    Returns:
        The photos that are left, and the numbers of images whose folders differ from those of their photo.
    """
    names = {image: facts.file.split("/") for image, facts in images.items() if image not in paired}
    sources = {place: plain_path(photo.source).split("/") for place, photo in enumerate(photos)}
    different: list[int] = []
    # Begin with the longest ends; a base name is an end of one part.
    longest = max((len(parts) for parts in (*names.values(), *sources.values())), default=0)
    for length in range(longest, 0, -1):
        candidates = _by_end(names, length)
        for end, places in _by_end(sources, length).items():
            found = candidates.get(end, [])
            if len(found) == len(places) == 1:
                image, photo = found[0], photos[places[0]]
                _pair(paired, image, photo, path=path)
                one, other = names.pop(image), sources.pop(places[0])
                if length < min(len(one), len(other)):
                    different.append(image)
            elif found and length == 1:
                raise UsageError(
                    f"{path}: several of its images or of the photos are called {end} (images"
                    f" {listed([images[image].id for image in found])}; photos"
                    f" {listed([photos[place].source for place in places])}): write the photos' paths into its"
                    " 'file_name's, or pass fewer shards"
                )
    return [photos[place] for place in sources], different


def _pair_by_old_name(
    paired: dict[int, ShardImage], photos: Sequence[ShardImage], images: Mapping[int, ListedImage]
) -> tuple[list[ShardImage], list[int]]:
    """Pair photos by base names as they were before a tool changed them, where those are unique.

    Returns:
        The photos that are left, and the numbers of the images that were paired.
    """
    names = _grouped({image: _old_name(facts.file) for image, facts in images.items() if image not in paired})
    sources = _grouped({place: _old_name(plain_path(photo.source)) for place, photo in enumerate(photos)})
    pairs = {
        places[0]: names[name][0]
        for name, places in sources.items()
        if len(places) == 1 and len(names.get(name, [])) == 1
    }
    for place, image in pairs.items():
        paired[image] = photos[place]
    return [photo for place, photo in enumerate(photos) if place not in pairs], list(pairs.values())


def _by_end(paths: Mapping[int, Sequence[str]], length: int) -> dict[str, list[int]]:
    """Group paths, given as their parts, by their last parts; shorter ones are left out."""
    return _grouped({number: "/".join(parts[-length:]) for number, parts in paths.items() if len(parts) >= length})


def _grouped(names: Mapping[int, str]) -> dict[str, list[int]]:
    """Return name -> the numbers that have it."""
    groups: dict[str, list[int]] = {}
    for number, name in names.items():
        groups.setdefault(name, []).append(number)
    return groups


def _old_name(path: str) -> str:
    """Return the base name that a photo had before annotation tools changed it, in lower-case letters."""
    name = unquote(base_name(path)).lower()
    if found := _ROBOFLOW.fullmatch(name):
        return f"{found['stem']}.{found['ending']}"
    found = _LABEL_STUDIO.fullmatch(name)
    return found["name"] if found else name


def _pair(paired: dict[int, ShardImage], image: int, photo: ShardImage, *, path: Path) -> None:
    """Pair an image with a photo, unless it has one already."""
    other = paired.setdefault(image, photo)
    if other is not photo:
        raise UsageError(
            f"{path}: image {image} is both {other.key} of {other.shard} and {photo.key} of {photo.shard}: pass one of"
            " the shards"
        )
