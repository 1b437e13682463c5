"""Opens a dataset: finds its files, reads its annotations, and makes sure that its photos are all there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cuts3d_cli.errors import DatasetError
from cuts3d_cli.evaluation.datasets.catalogue import BENCHMARKS, Benchmark
from cuts3d_cli.evaluation.datasets.coco import GroundTruth, TrueImage, read_ground_truth
from cuts3d_cli.evaluation.datasets.files import (
    Photos,
    base_folders,
    count_photos,
    first_lack,
    first_whole,
    upright_size,
)
from cuts3d_cli.evaluation.datasets.parsed import Parsed, on_image
from cuts3d_cli.evaluation.metrics import Instance
from cuts3d_cli.wording import listed


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A ground truth with its photos.

    Attributes:
        name: on the command line; the name of the file without its suffix for a user's own.
        title: for people; the folder and name of the file for a user's own.
        masks: whether it has masks; else only boxes.
        truth: the annotations, of one class.
        paths: the photo of each image.
        missing: images that were left out since their photo is missing.
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
        benchmark: which.
        annotations: those that were found; None if none were.
        photos: the folders that were found; None if none were.
        count: photos in them; there may be more than the benchmark has.
        state: "ready", "incomplete" if some photos are missing, "missing" if annotations or all photos are.
        note: what is missing, and where it was looked for; "" if nothing is.
    """

    benchmark: Benchmark
    annotations: tuple[Path, ...] | None
    photos: tuple[Path, ...] | None
    count: int
    state: Literal["ready", "incomplete", "missing"]
    note: str

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
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
    """Look which benchmarks lie below a folder, without reading their annotations.

    Args:
        root: the folder with coco/, lvis/, VOCdevkit/, ...; none of it need exist.
    """
    return [_look(benchmark, root) for benchmark in BENCHMARKS.values()]


def open_benchmark(
    benchmark: Benchmark, root: Path, *, partial: bool = False, say: Callable[[str], None] | None = None
) -> Dataset:
    """Open a benchmark.

    Args:
        benchmark: from `BENCHMARKS`.
        root: the folder with coco/, lvis/, VOCdevkit/, ..., or the benchmark's own.
        partial: take what is there of a benchmark that is not complete.
        say: told what takes long, and warnings.

    Raises:
        DatasetError: annotations or photos are not there or not all there, or are damaged.
    """
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder: name the folder with the datasets, see `cuts3d eval --list`")
    found = _look(benchmark, root, count=False)
    if found.annotations is None or found.photos is None:
        raise DatasetError(f"{benchmark.name}: {found.note}; get it from {benchmark.page}")
    parsed = benchmark.read(found.annotations)
    if len(parsed.images) != benchmark.images and not partial:
        raise DatasetError(
            f"{benchmark.name}: {found.annotations[0]} has {len(parsed.images)} images, the benchmark"
            f" {benchmark.images}: get all of it from {benchmark.page}, or pass --partial to evaluate what is there"
        )
    photos = Photos(found.photos)
    paths = {
        number: photos.find(image.file, extensions=benchmark.extensions) for number, image in parsed.images.items()
    }
    names = {number: image.file for number, image in parsed.images.items()}
    there = _present(paths, names, what=benchmark.name, where=found.photos[0], page=benchmark.page, partial=partial)
    return _dataset(benchmark, parsed, there, say=say or (lambda line: None))


def open_own(annotations: Path, images: Path, *, partial: bool = False) -> Dataset:
    """Open a COCO JSON of the user's own.

    Args:
        annotations: the JSON, which `read_ground_truth` reads.
        images: folder that its file names start from; leading folders of theirs may be missing in it.
        partial: leave out images whose photo is missing.

    Raises:
        UsageError: the JSON is unusable.
        DatasetError: the folder or photos in it are missing.
    """
    truth = read_ground_truth(annotations)
    if not images.is_dir():
        raise DatasetError(f"{images} is no folder: pass the folder of the photos of {annotations} with --images")
    photos = Photos((images,))
    names = {number: image.file for number, image in truth.images.items()}
    paths = {number: photos.find(name) for number, name in names.items()}
    there = _present(paths, names, what=str(annotations), where=images, page=None, partial=partial)
    kept = GroundTruth(
        images={number: truth.images[number] for number in there},
        instances={number: truth.instances[number] for number in there},
        warnings=truth.warnings,
    )
    items = [item for group in kept.instances.values() for item in group]
    return Dataset(
        name=annotations.stem,
        title="/".join(annotations.parts[-2:]),
        masks=bool(items) and all(item.mask is not None for item in items),
        truth=kept,
        paths=there,
        missing=len(names) - len(there),
    )


def _look(benchmark: Benchmark, root: Path, *, count: bool = True) -> Availability:
    bases = base_folders(root, benchmark.folders)
    annotations, photos = first_whole(bases, benchmark.annotations), first_whole(bases, benchmark.photos)
    lacks = [
        path
        for found, ways in ((annotations, benchmark.annotations), (photos, benchmark.photos))
        if found is None
        for path in first_lack(bases or [root / benchmark.folders[0]], ways)
    ]
    words = [f"no {path}" for path in lacks]
    note = f"there is {' and '.join([', '.join(words[:-1]), words[-1]] if words[1:] else words)}" if lacks else ""
    number = count_photos(photos) if photos and count else 0
    short = bool(count and photos and not lacks and number < benchmark.images)
    if photos and short:
        note = f"{number} of {benchmark.images} photos in {' and '.join(map(str, photos))}"
    return Availability(
        benchmark=benchmark,
        annotations=annotations,
        photos=photos,
        count=number,
        state="incomplete" if short else "missing" if lacks else "ready",
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
    there = {number: path for number, path in paths.items() if path is not None}
    missing = [names[number] for number in paths if number not in there]
    if not there:
        raise DatasetError(
            f"{what}: none of its {len(names)} photos is in {where} ({listed(missing) or 'it has none'}): is it the"
            " right folder?"
        )
    if missing and not partial:
        fetch = f"get them from {page}, or " if page else ""
        raise DatasetError(
            f"{what}: {len(missing)} of {len(names)} photos are missing in {where} ({listed(missing)}): {fetch}pass"
            " --partial to evaluate what is there"
        )
    return there


def _dataset(benchmark: Benchmark, parsed: Parsed, paths: Mapping[int, Path], *, say: Callable[[str], None]) -> Dataset:
    unsized = sum(parsed.images[number].size is None for number in paths)
    if unsized:
        say(f"{benchmark.name}: reading the sizes of {unsized} photos")
    images: dict[int, TrueImage] = {}
    instances: dict[int, Sequence[Instance]] = {}
    for number, path in paths.items():
        image = parsed.images[number]
        size = image.size or upright_size(path)
        images[number] = TrueImage(file=image.file, width=size[0], height=size[1])
        instances[number] = on_image(image, size)
    return Dataset(
        name=benchmark.name,
        title=benchmark.title,
        masks=benchmark.masks,
        truth=GroundTruth(images=images, instances=instances, warnings=parsed.warnings),
        paths=paths,
        missing=max(benchmark.images - len(paths), 0),
    )
