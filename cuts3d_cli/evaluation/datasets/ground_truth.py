"""A user's own ground truth: a COCO or LVIS JSON with boxes or masks, of any categories, all of which become one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuts3d_cli.config import MAX_IMAGE_PIXELS
from cuts3d_cli.cut.masks import rle_area
from cuts3d_cli.errors import UsageError
from cuts3d_cli.evaluation.datasets.annotations import (
    ReadAnnotation,
    Remark,
    Remarks,
    box_of,
    mask_of_box,
    name_of,
    read_annotation,
    shown,
)
from cuts3d_cli.evaluation.datasets.coco_json import id_of, load_lists
from cuts3d_cli.evaluation.datasets.frames import Frame, PhotoHead, Size, about_frames, frames_of
from cuts3d_cli.evaluation.metrics import Box, Instance
from cuts3d_cli.json_reading import is_number
from cuts3d_cli.paths import file_of
from cuts3d_cli.wording import listed

_PSEUDO = re.compile(r"pseudo[-_ ]?(mask|label)", re.IGNORECASE)
"""In the description of files of pseudo-masks."""
_WIDE = 0.9
"""Share of its image that the box of a crowd region covers, from which on there is a warning."""
_NEAR = 2.0
"""Pixels by which the edges of a box and of its mask's box may differ: tools round in many ways."""


@dataclass(frozen=True, kw_only=True)
class TrueImage:
    """An image of a ground truth.

    Attributes:
        file: its file name, with folders if any, as a plain path.
        width: of the image, pixels.
        height: of the image, pixels.
        id: in the file; None where it is the number under which the image is known.
    """

    file: str
    width: int
    height: int
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """A ground truth of one class.

    Attributes:
        images: image number -> image.
        instances: image number -> instances in the order of the file, crowd regions among them; of every image.
        warnings: one line each: what is odd about the file, and what is left out of it.
        annotations: number of annotations in the file that belong to the images, or to none.
        dropped: how many of them are left out.
    """

    images: Mapping[int, TrueImage]
    instances: Mapping[int, Sequence[Instance]]
    warnings: Sequence[str]
    annotations: int = 0
    dropped: int = 0


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """An image of a ground truth, before its annotations are read.

    Attributes:
        file: its file name, with folders if any, as a plain path.
        id: in the file, as `id_of` returns it.
        size: (width, height) that the file gives, pixels; None where it gives none.
    """

    file: str
    id: int | str
    size: Size | None


@dataclass(frozen=True, kw_only=True)
class ListedGroundTruth:
    """A ground truth of which the images are known, and the annotations not yet read.

    Attributes:
        path: of the JSON.
        images: image number -> image; the number is the id in the file where all ids are whole numbers, else the place.
        entries: image number -> its annotations as they are in the JSON, each with what messages call it; of every
            image.
        dropped: annotations that belong to no image, or stand in the file twice.
        remarks: on these, and on ids.
        warnings: one line each: what is odd about the images.
    """

    path: Path
    images: Mapping[int, ListedImage]
    entries: Mapping[int, Sequence[tuple[object, Any]]]
    dropped: int
    remarks: Sequence[tuple[Remark, object, str]]
    warnings: Sequence[str]

    def read(self, photos: Mapping[int, PhotoHead] | None = None) -> GroundTruth:
        """Read the annotations of some images.

        An annotation of which a part cannot be read is taken by what is valid in it (`datasets.annotations`), and left
        out only where nothing is. Where some annotations have a mask and others have none, the masks are left out,
        since an evaluation by masks would miss instances; a mask that is damaged is replaced by its box instead. An
        image is left out whose size is unknown, or another than its photo's; where width and height are swapped,
        `datasets.frames` finds out what is meant. The warnings name all of it.

        Args:
            photos: image number -> what its photo says, for the images to read; all images by default.

        Returns:
            The ground truth; sizes, boxes and masks are those of the upright photos.

        Raises:
            UsageError: no image, or no annotation, is usable.
        """
        # Find the frame of each image's annotations.
        heads = dict.fromkeys(self.images, PhotoHead(size=None)) if photos is None else photos
        sizes = {number: self.images[number].size for number in heads}
        frames = frames_of(sizes, heads, {number: [item for _, item in self.entries[number]] for number in heads})
        kept = {number: frame for number, frame in frames.items() if frame is not None}
        unfit = [self._misfit(number, heads[number]) for number in heads if number not in kept]
        files = {number: self.images[number].file for number in kept}
        warnings = [*self.warnings, *about_frames(self.path, files, sizes, kept)]
        if unfit:
            line = f"{len(unfit)} of {len(heads)} images are of another size than their photo, or of none"
            warnings.append(f"{self.path}: {line}, and left out: {listed(unfit)}")
            if not kept:
                raise UsageError(f"{warnings[-1]}: they must be the same photos at the same size")
        # Read the annotations one by one, and collect them by image.
        remarks = Remarks()
        for remark, name, reason in self.remarks:
            remarks.add(remark, name, reason)
        instances: dict[int, list[Instance]] = {number: [] for number in kept}
        for number, frame in kept.items():
            for name, entry in self.entries[number]:
                item = _instance(entry, frame.size, name=name, remarks=remarks)
                if item is not None:
                    instances[number].append(frame.turned(item))
        read = sum(map(len, instances.values()))
        total = sum(len(self.entries[number]) for number in kept) + self.dropped
        # Refuse what leaves nothing to compare; compare boxes alone where not every instance has a mask.
        without = remarks.count(Remark.WITHOUT_MASK)
        lines = remarks.lines(self.path, total=total, without=[Remark.WITHOUT_MASK] if without == read else [])
        if total and not read:
            raise UsageError(f"{lines[0]}: not one of its annotations can be used")
        _refuse_fractions(self.path, instances)
        if without:
            instances = {number: [replace(item, mask=None) for item in items] for number, items in instances.items()}
        return GroundTruth(
            images={number: _true_image(number, self.images[number], frame) for number, frame in kept.items()},
            instances=instances,
            warnings=warnings + lines,
            annotations=total,
            dropped=total - read,
        )

    def _misfit(self, number: int, head: PhotoHead) -> str:
        """Return the sizes of an image that has no frame."""
        image = self.images[number]
        given = "no width and height" if image.size is None else f"{image.size[0]}x{image.size[1]}"
        photo = "unknown" if head.size is None else f"{head.size[0]}x{head.size[1]}"
        return f"{image.file} ({given}, its photo {photo})"


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a COCO JSON with a ground truth, without its photos. Raises as `list_ground_truth` and its `read`."""
    return list_ground_truth(path).read()


def list_ground_truth(path: Path) -> ListedGroundTruth:
    """Load a COCO JSON, find its images, and which annotation belongs to which.

    Ids may be whole numbers from 0, texts, or numbers written as texts. Categories play no part.

    A file of pseudo-masks is recognised by its `info.description`, which says "pseudo-masks" in the files of `cuts3d`,
    of MaskCut and of its successors. A single category `fg`, or a width and height in each annotation, is no sign:
    proper ground truths have these too.

    Args:
        path: of the JSON.

    Returns:
        What is in the file.

    Raises:
        UsageError: the file is missing, is not a COCO JSON, or holds pseudo-masks; two images of different files have
            one id; or the file has images and none is usable.
    """
    # Load the file, and number its images.
    content = _load(path)
    images, warnings = _images(content, path)
    whole = all(isinstance(image, int) for image in images)
    numbers = {image: image if whole and isinstance(image, int) else place for place, image in enumerate(images)}
    # Give each annotation to its image.
    entries: dict[int, list[tuple[object, Any]]] = {number: [] for number in numbers.values()}
    remarks: list[tuple[Remark, object, str]] = []
    seen: dict[int | str, Any] = {}
    dropped = 0
    for place, annotation in enumerate(content["annotations"]):
        name, fields = name_of(annotation, place), annotation if isinstance(annotation, dict) else {}
        image, own = id_of(fields.get("image_id")), id_of(fields.get("id"))
        if own is not None and seen.setdefault(own, annotation) is not annotation:
            repeated = seen[own] == annotation
            remarks.append((Remark.REPEATED if repeated else Remark.SAME_ID, name, ""))
            if repeated:
                dropped += 1
                continue
        if image is None or image not in numbers:
            remarks.append((Remark.OF_NO_IMAGE, name, f"image_id {shown(fields.get('image_id'))}"))
            dropped += 1
        else:
            entries[numbers[image]].append((name, annotation))
    return ListedGroundTruth(
        path=path,
        images={numbers[image]: found for image, found in images.items()},
        entries=entries,
        dropped=dropped,
        remarks=remarks,
        warnings=warnings,
    )


def _load(path: Path) -> dict[str, Any]:
    """Load the JSON, unless it holds pseudo-masks."""
    content = load_lists(path, error=UsageError, remedy="pass a COCO JSON with the ground truth")
    info = content.get("info")
    description = str(info.get("description", "")) if isinstance(info, dict) else ""
    if _PSEUDO.search(description):
        raise UsageError(
            f"{path} holds pseudo-masks, not a ground truth ('{description}'): pass annotations made by people"
        )
    return content


def _images(content: Mapping[str, Any], path: Path) -> tuple[dict[int | str, ListedImage], list[str]]:
    """Return the usable images by id, and a warning about the others."""
    images: dict[int | str, ListedImage] = {}
    unusable: list[str] = []
    for place, image in enumerate(content["images"]):
        number = id_of(image.get("id")) if isinstance(image, dict) else None
        file = file_of(image) if isinstance(image, dict) else ""
        if number is None or not file:
            unusable.append(f"entry {place} (no {'id' if number is None else 'file_name'})")
            continue
        found = ListedImage(file=file, id=number, size=_size(image))
        other = images.setdefault(number, found)
        if other.file != file:
            raise UsageError(
                f"{path}: image {number}: two images have this id ({other.file}, {file}): make the ids unique"
            )
    if not unusable:
        return images, []
    line = f"{path}: {len(unusable)} of {len(content['images'])} images are unusable and left out: {listed(unusable)}"
    if not images:
        raise UsageError(f"{line}: not one is left")
    return images, [line]


def _size(image: Mapping[str, Any]) -> Size | None:
    """Return the (width, height) of an entry; None where it gives none, or an impossible one."""
    sides = [id_of(image.get(name)) for name in ("width", "height")]
    width, height = (side if isinstance(side, int) and side > 0 else 0 for side in sides)
    return (width, height) if 0 < width * height <= MAX_IMAGE_PIXELS else None


def _true_image(number: int, image: ListedImage, frame: Frame) -> TrueImage:
    width, height = frame.upright_size()
    return TrueImage(file=image.file, width=width, height=height, id=None if image.id == number else str(image.id))


def _instance(entry: Any, size: Size, *, name: object, remarks: Remarks) -> Instance | None:
    """Read an annotation, and note what is wrong or odd about it. Returns None if it is unusable."""
    try:
        read = _placed(read_annotation(entry, size=size), size)
        item = read.instance
        if Remark.MASK in read.remarks:
            item = replace(item, mask=mask_of_box(item.box, size=size))
    except ValueError as error:
        remarks.add(Remark.UNUSABLE, name, str(error))
        return None
    x, y, width, height = item.box
    odd = {
        Remark.WITHOUT_MASK: item.mask is None,
        Remark.OVER_THE_EDGE: x < -1 or y < -1 or x + width > size[0] + 1 or y + height > size[1] + 1,
        Remark.WIDE_CROWD: item.crowd and width * height >= _WIDE * size[0] * size[1],
        Remark.SCORED: is_number(entry.get("score")),
    }
    for remark, reason in {**read.remarks, **{remark: "" for remark, true in odd.items() if true}}.items():
        remarks.add(remark, name, reason)
    return item


def _placed(read: ReadAnnotation, size: Size) -> ReadAnnotation:
    """Check that the box of an annotation is in its image and around its mask; else take the mask's.

    Raises:
        ValueError: the box lies outside the image, and there is no mask.
    """
    box, mask = read.instance.box, read.instance.mask
    outside = box[0] > size[0] or box[1] > size[1] or box[0] + box[2] < 0 or box[1] + box[3] < 0
    flaw = f"its bbox {list(box)} lies outside its image, which is {size[0]}x{size[1]}" if outside else ""
    if mask is None:
        if outside:
            raise ValueError(f"{flaw}: it must be [x, y, width, height], in pixels")
        if not box[2] * box[3]:
            raise ValueError(f"its bbox {list(box)} covers nothing")
        return read
    own = box_of(mask)
    if not rle_area(mask) or not (outside or (Remark.PART not in read.remarks and not _agree(box, own))):
        return read
    remarks = {**read.remarks, Remark.ANOTHER_BOX: flaw or f"its bbox {list(box)}, not {list(own)}"}
    return ReadAnnotation(instance=replace(read.instance, box=own), remarks=remarks)


def _refuse_fractions(path: Path, instances: Mapping[int, Sequence[Instance]]) -> None:
    """Raise UsageError where all boxes lie in the first pixel: they are fractions of width and height."""
    boxes = [item.box for items in instances.values() for item in items]
    if boxes and all(x + width <= 1 and y + height <= 1 for x, y, width, height in boxes):
        raise UsageError(
            f"{path}: all boxes lie within one pixel, as {list(boxes[0])} does: COCO's are in pixels, so multiply"
            " fractions by width and height"
        )


def _agree(box: Box, other: Box) -> bool:
    """Tell whether two boxes are about the same: edges close, or an overlap of more than half of their union."""
    first, second = ((item[0], item[1], item[0] + item[2], item[1] + item[3]) for item in (box, other))
    if all(abs(one - two) <= _NEAR for one, two in zip(first, second, strict=True)):
        return True
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    return width * height > 0.5 * (box[2] * box[3] + other[2] * other[3] - width * height)
