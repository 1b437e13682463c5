"""Opens a dataset: finds its files, reads its annotations, and checks that all its photos are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, Benchmark
from cuts3d_cli.evaluation.datasets.files import (
    Photos,
    base_folders,
    count_photos,
    first_complete,
    missing_paths,
    photo_head,
)
from cuts3d_cli.evaluation.datasets.ground_truth import GroundTruth, TrueImage, list_ground_truth
from cuts3d_cli.evaluation.datasets.parsed import ParsedDataset, instances_in_pixels
from cuts3d_cli.evaluation.metrics import Instance
from cuts3d_cli.wording import counted, enumerated, listed


class IncompleteDatasetError(DatasetError):
    """Some images or photos of a dataset are missing; with `partial` the others can be evaluated."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A ground truth with its photos.

    Attributes:
        name: of the benchmark; for a user's own, the name of the file without its suffix.
        title: for people; for a user's own, the folder and name of the file.
        masks: whether the instances have masks; else only boxes.
        truth: the annotations, of one class.
        paths: image id -> photo.
        missing: number of images that were left out because their photo is missing.
    """

    name: str
    title: str
    masks: bool
    truth: GroundTruth
    paths: Mapping[int, Path]
    missing: int = 0


@dataclass(frozen=True, kw_only=True)
class Availability:
    """What of a benchmark is there.

    Attributes:
        benchmark: the benchmark.
        annotations: the files or folders that were found; None if they are missing.
        photos: the folders that were found; None if they are missing.
        count: number of photos in them, which may be more than the benchmark has.
        state: "ready"; "incomplete" if some photos are missing; "missing" if the annotations or all photos are.
        note: what is missing, and where it was expected; "" if nothing is.
    """

    benchmark: Benchmark
    annotations: tuple[Path, ...] | None
    photos: tuple[Path, ...] | None
    count: int
    state: Literal["ready", "incomplete", "missing"]
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark and its state as plain JSON values."""
        return {
            "name": self.benchmark.name,
            "title": self.benchmark.title,
            "masks": self.benchmark.masks,
            "state": self.state,
            "images": self.benchmark.images,
            "found": self.count,
            "annotations": [str(path) for path in self.annotations or ()],
            "photos": [str(path) for path in self.photos or ()],
            "note": self.note,
            "page": self.benchmark.page,
            "rule": self.benchmark.rule,
        }


def list_datasets(root: Path) -> list[Availability]:
    """Check which benchmarks are below a folder, without reading their annotations.

    Args:
        root: the folder with coco/, lvis/, VOCdevkit/, ...; nothing of it need exist.
    """
    return [_locate(benchmark, root) for benchmark in BENCHMARKS.values()]


def open_benchmark(
    benchmark: Benchmark, root: Path, *, partial: bool = False, say: Callable[[str], None] | None = None
) -> Dataset:
    """Open a benchmark.

    Args:
        benchmark: from `BENCHMARKS`.
        root: the folder with coco/, lvis/, VOCdevkit/, ..., or the benchmark's own.
        partial: take what is there of an incomplete benchmark.
        say: prints a status line before what takes long.

    Returns:
        The benchmark, with those of its images whose photos are there.

    Raises:
        IncompleteDatasetError: images or photos are missing, and `partial` is not set.
        DatasetError: the annotations or all photos are missing, or something is damaged.
    """
    # Find the annotations and the folders of photos.
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder: name the folder with the datasets (root)")
    found = _locate(benchmark, root, count=False)
    if found.annotations is None or found.photos is None:
        raise DatasetError(f"{benchmark.name}: {found.note}; get it from {benchmark.page}")
    # Read the annotations, which must be of the whole benchmark.
    parsed = benchmark.read(found.annotations)
    if len(parsed.images) != benchmark.images and not partial:
        raise IncompleteDatasetError(
            f"{benchmark.name}: {found.annotations[0]} has {counted(len(parsed.images), 'image')}, the benchmark"
            f" {benchmark.images}: get all of it from {benchmark.page}, or set partial to evaluate what is there"
        )
    # Find the photo of each image.
    photos = Photos(found.photos)
    paths = {
        number: photos.find(image.file, extensions=benchmark.extensions) for number, image in parsed.images.items()
    }
    names = {number: image.file for number, image in parsed.images.items()}
    there = _present(paths, names, what=benchmark.name, where=found.photos[0], page=benchmark.page, partial=partial)
    return _dataset(benchmark, parsed, there, say=say or (lambda line: None))


def open_own(annotations: Path, images: Path, *, partial: bool = False) -> Dataset:
    """Open a user's own COCO JSON.

    Args:
        annotations: the JSON, as `list_ground_truth` takes it.
        images: the folder of its photos; leading folders of its file names may be missing in it.
        partial: leave out images whose photo is missing.

    Returns:
        The dataset, with those of its images whose photos are there.

    Raises:
        UsageError: the JSON is unusable.
        IncompleteDatasetError: photos are missing, and `partial` is not set.
        DatasetError: the folder or all photos are missing.
    """
    # Load the JSON, and find the photo of each image.
    truth = list_ground_truth(annotations)
    if not images.is_dir():
        raise DatasetError(f"{images} is not a folder: name the folder of the photos of {annotations} (images)")
    photos = Photos((images,))
    names = {number: image.file for number, image in truth.images.items()}
    paths = {number: photos.find(name) for number, name in names.items()}
    there = _present(paths, names, what=str(annotations), where=images, page=None, partial=partial)
    # Read the annotations of the images that have one, in the frame of the upright photo.
    kept = truth.read({number: photo_head(path) for number, path in there.items()})
    items = [item for group in kept.instances.values() for item in group]
    return Dataset(
        name=annotations.stem,
        title="/".join(annotations.parts[-2:]),
        masks=bool(items) and all(item.mask is not None for item in items),
        truth=kept,
        paths={number: there[number] for number in kept.images},
        missing=len(names) - len(kept.images),
    )


def _locate(benchmark: Benchmark, root: Path, *, count: bool = True) -> Availability:
    """Find the files of a benchmark below a folder; count its photos unless that takes too long."""
    # Look for the annotations and for the photos, which may be in different folders.
    bases = base_folders(root, benchmark.folders)
    annotations, photos = first_complete(bases, benchmark.annotations), first_complete(bases, benchmark.photos)
    # Name what is missing.
    missing = [
        path
        for found, alternatives in ((annotations, benchmark.annotations), (photos, benchmark.photos))
        if found is None
        for path in missing_paths(bases or [root / benchmark.folders[0]], alternatives)
    ]
    words = [f"no {path}" for path in missing]
    note = f"there is {enumerated(words)}" if missing else ""
    # Count the photos: an archive may have been unpacked in part.
    number = count_photos(photos) if photos and count else 0
    short = bool(count and photos and not missing and number < benchmark.images)
    if photos and short:
        note = f"{number} of {benchmark.images} photos in {' and '.join(map(str, photos))}"
    return Availability(
        benchmark=benchmark,
        annotations=annotations,
        photos=photos,
        count=number,
        state="incomplete" if short else "missing" if missing else "ready",
        note=note,
    )


def _present(
    paths: Mapping[int, Path | None],
    names: Mapping[int, str],
    *,
    what: str,
    where: Path,
    page: str | None,
    partial: bool,
) -> dict[int, Path]:
    """Return the photos that are there, which must be all of them unless `partial` is set."""
    there = {number: path for number, path in paths.items() if path is not None}
    missing = [names[number] for number in paths if number not in there]
    if not there:
        raise DatasetError(
            f"{what}: none of its {counted(len(names), 'photo')} is in {where}"
            f" ({listed(missing) or 'it has none'}): is it the"
            " right folder?"
        )
    if missing and not partial:
        fetch = f"get them from {page}, or " if page else ""
        raise IncompleteDatasetError(
            f"{what}: {len(missing)} of {len(names)} photos are missing in {where} ({listed(missing)}): {fetch}set"
            " partial to evaluate what is there"
        )
    return there


def _dataset(
    benchmark: Benchmark, parsed: ParsedDataset, paths: Mapping[int, Path], *, say: Callable[[str], None]
) -> Dataset:
    """Join annotations and photos, whose sizes are read where the annotations do not give them."""
    unsized = sum(parsed.images[number].size is None for number in paths)
    if unsized:
        say(f"{benchmark.name}: reading the sizes of {counted(unsized, 'photo')}")
    images: dict[int, TrueImage] = {}
    instances: dict[int, Sequence[Instance]] = {}
    for number, path in paths.items():
        image = parsed.images[number]
        size = image.size or photo_head(path).size
        if size is None:
            raise DatasetError(f"{path} is not a photo, or is damaged: fetch it again")
        images[number] = TrueImage(file=image.file, width=size[0], height=size[1])
        instances[number] = instances_in_pixels(image, size)
    return Dataset(
        name=benchmark.name,
        title=benchmark.title,
        masks=benchmark.masks,
        truth=GroundTruth(images=images, instances=instances, warnings=parsed.warnings),
        paths=paths,
        missing=max(benchmark.images - len(paths), 0),
    )
