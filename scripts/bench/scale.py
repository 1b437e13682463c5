"""Benchmark of scale: images per second against workers, and peak memory against the number of images."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common import Report, Row, Table, interleaved, log, ratios
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars import features
from executable import command, cuts3d, neutral_environment
from scenes.files import write_depth


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large images are cut. Their features are given, so that no weights are needed and no network is waited for.

    Attributes:
        backbone: whose features they are said to be.
        grid: side of its grid of patches.
        crf: side at which the CRF works, pixels.
    """

    backbone: str
    grid: int
    crf: int


PAPER = Size(backbone="dino-vits8", grid=60, crf=480)
SMALL = Size(backbone="dino-vits16", grid=30, crf=240)
"""A quarter of the paper's patches and pixels, so that a thousand images take a minute."""
SIDE = 480
"""To which images are resized for either backbone, pixels."""
CHANNELS = 32
"""Of the given features."""
WIDTH, HEIGHT = 320, 240
OBJECTS = 3
METRES = (1.9, 1.0, 1.3, 1.6)
"""Distances of the background and of each object."""
SHARD_SIZE = 1000
"""Of `cuts3d pack`: the places of so many images are held in memory."""
_POLL_SECONDS = 0.1
_MEGABYTE = 1e6


def scale(*, counts: Sequence[int], workers: Sequence[int], repeats: int, speed_images: int) -> Report:
    """Run `cuts3d pseudo` on synthetic images.

    Args:
        counts: numbers of images, smallest first; memory is measured with the largest of `workers`.
        workers: numbers of processes.
        repeats: rounds of the speed measurement.
        speed_images: images of the speed measurement.

    Returns:
        Images per second for each number of workers; peak memory for each number of images.

    Raises:
        CommandError: a command failed.
    """
    with tempfile.TemporaryDirectory(prefix="cuts3d-bench-") as name:
        folder = Path(name)
        speed = _speed(folder, workers=workers, repeats=repeats, images=speed_images)
        memory = _memory(folder, counts=counts, workers=max(workers))
    skipped = [] if memory else ["peak memory: it is read from /proc, which this system lacks"]
    return Report(
        name="scale",
        tables=[Table("images per second", speed), *([Table("peak memory", memory)] if memory else [])],
        notes=[
            f"Synthetic images of {WIDTH}x{HEIGHT} with {OBJECTS} objects, features given; speed at {_told(PAPER)}, as"
            f" the paper has it, memory at {_told(SMALL)}; shards of {SHARD_SIZE} images at most. Seconds are those of"
            f" `cuts3d pseudo --json`, including the start of its processes. Repeats: {repeats}, interleaved; medians,"
            " ratios of pairs.",
            "Memory is the high-water mark of the resident set (VmHWM), including shared libraries, of the main process"
            " and of its largest worker; 'growth' is relative to the first row.",
        ],
        skipped=skipped,
    )


def _speed(folder: Path, *, workers: Sequence[int], repeats: int, images: int) -> list[Row]:
    """Time one run by its number of workers, and so many runs of one worker each that know nothing of each other.

    The latter is as much as the machine gives: cores share memory, caches and clock.
    """
    shards = synthetic_shards(folder / "speed", images, size=PAPER)
    copies = [shutil.copytree(shards, folder / f"copy-{number}" / shards.name) for number in range(max(workers))]

    def run(number: int) -> float:
        log(f"scale: {images} images, {number} workers")
        return pseudo(shards, workers=number, size=PAPER).seconds

    def apart(number: int) -> float:
        log(f"scale: {number} runs of {images} images side by side")
        with ThreadPoolExecutor() as pool:
            runs = pool.map(partial(pseudo, workers=1, size=PAPER), copies[:number])
            return mean(one.seconds for one in runs)

    actions = {f"{number} workers": partial(run, number) for number in workers}
    actions |= {f"{number} apart": partial(apart, number) for number in workers if number > 1}
    seconds: Mapping[str, Sequence[float]] = interleaved(actions, repeats=repeats).results
    alone = seconds[f"{workers[0]} workers"]
    rows: list[Row] = []
    for number in workers:
        own, others = seconds[f"{number} workers"], seconds.get(f"{number} apart")
        rate = images / median(own)
        most = None if others is None else number * images / median(others)
        row: Row = {"workers": number, "images": images, "seconds": median(own), "images per second": rate}
        row |= {**ratios(alone, own), "so many runs apart, images per second": most}
        rows.append(row | {"share of these": None if most is None else rate / most})
    return rows


def _memory(folder: Path, *, counts: Sequence[int], workers: int) -> list[Row]:
    if not Path("/proc/self/status").is_file():
        return []
    rows: list[Row] = []
    for images in counts:
        log(f"scale: memory of {images} images")
        shards = synthetic_shards(folder / "memory", images, size=SMALL)
        run = pseudo(shards, workers=workers, size=SMALL)
        shutil.rmtree(folder / "memory")
        first = rows[0] if rows else {"main, MB": run.main, "largest worker, MB": run.worker}
        rows.append(
            {
                "images": images,
                "masks": run.masks,
                "workers": workers,
                "main, MB": run.main,
                "growth, MB": run.main - first["main, MB"],
                "largest worker, MB": run.worker,
                "growth of worker, MB": run.worker - first["largest worker, MB"],
                "images per second": images / run.seconds,
            }
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of `cuts3d pseudo`.

    Attributes:
        seconds: as it reports them.
        masks: number of its masks.
        main: peak memory of the main process, megabytes; 0 where the system does not tell.
        worker: peak memory of the largest worker, likewise.
    """

    seconds: float
    masks: int
    main: float
    worker: float


def _told(size: Size) -> str:
    return f"{size.grid}x{size.grid} patches and a CRF of {size.crf} pixels"


def pseudo(shards: Path, *, workers: int, size: Size) -> Run:
    """Run `cuts3d pseudo` on shards, without the user's settings, and poll its memory.

    Args:
        shards: the folder of the base shards; they have depth and features.
        workers: processes that cut.
        size: that they were made for.

    Raises:
        RuntimeError: it failed.
    """
    words = command(
        *("pseudo", "--shards", shards.name, "--backbone", size.backbone, "--size", SIDE, "--crf-size", size.crf),
        *("--workers", workers, "--if-exists", "overwrite", "--json"),
    )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(words, cwd=shards.parent, env=neutral_environment(), stdout=out, stderr=errors)
        peaks: dict[int, float] = {}
        while process.poll() is None:
            for number in (process.pid, *_children(process.pid)):
                peaks[number] = max(peaks.get(number, 0.0), _peak(number))
            time.sleep(_POLL_SECONDS)
        out.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}: {errors.read().decode()[-500:]}")
        result = json.loads(out.read())
    main = peaks.pop(process.pid, 0.0)
    return Run(
        seconds=result["seconds"],
        masks=result["counts"]["masks"],
        main=main,
        worker=max(peaks.values(), default=0.0),
    )


def synthetic_shards(folder: Path, images: int, *, size: Size) -> Path:
    """Write base shards of synthetic images with finished depth and features sidecars.

    Args:
        folder: receives the shards in its subfolder shards/; created if missing.
        images: number of images.
        size: of their features.

    Returns:
        The folder of the shards.

    Raises:
        CommandError: a command failed.
    """
    # Photos and depth maps, packed by the commands.
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        labels = _labels(number, HEIGHT, WIDTH)
        colours = np.array([(70, 90, 110), (200, 60, 40), (210, 70, 50), (190, 80, 60)])[labels]
        noise = np.random.default_rng(number).normal(0, 6, colours.shape)
        photo = Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8))
        photo.save(folder / "images" / f"{number:06d}.jpg")
        write_depth(folder / "depth" / f"{number:06d}.png", np.array(METRES, dtype=np.float32)[labels])
    run = partial(cuts3d, folder=folder, environment=neutral_environment())
    run("pack", "images", "--depth-dir", "depth", "--out", "shards", "--name", "synthetic", "--shard-size", SHARD_SIZE)
    run("depth", "--shards", "shards", "--backend", "sensor")

    # Features that no network has computed.
    def vectors(base: Path) -> Iterator[Outcome]:
        for sample in read_shard(base):
            made = _features(int(sample.key), grid=size.grid)
            stored = features.StoredFeatures(features=made, backbone=size.backbone, size=SIDE, tensor="made")
            yield Outcome(key=sample.key, members=features.encode(stored))

    run_shards(
        sorted((folder / "shards").glob("synthetic-[0-9]*[0-9].tar")),
        stage="features",
        config={"features": {"backbone": size.backbone, "size": SIDE}},
        inputs=lambda base: {"base": base},
        outcomes=vectors,
        if_exists="overwrite",
    )
    return folder / "shards"


def _labels(number: int, height: int, width: int) -> NDArray[np.intp]:
    """Draw an image's labels, (height, width): 0 is background; objects 1, 2 and 3 in a row, each touching the next."""
    rng = np.random.default_rng([number, 1])
    edges = np.linspace(0.1, 0.9, OBJECTS + 1) + rng.uniform(-0.04, 0.04, OBJECTS + 1)
    tops = rng.uniform(0.15, 0.35, OBJECTS)
    y = ((np.arange(height) + 0.5) / height)[:, None]
    x = ((np.arange(width) + 0.5) / width)[None, :]
    labels = np.zeros((height, width), dtype=np.intp)
    for index in range(OBJECTS):
        inside = (x >= edges[index]) & (x < edges[index + 1]) & (y >= tops[index]) & (y < tops[index] + 0.5)
        labels[inside] = index + 1
    return labels


def _features(number: int, *, grid: int) -> NDArray[np.float16]:
    """Draw an image's features, (CHANNELS, grid, grid): those of objects are similar, the background's are not."""
    rng = np.random.default_rng([number, 2])
    centres = np.random.default_rng(0).standard_normal((2, CHANNELS))
    what = np.minimum(_labels(number, grid, grid), 1)
    vectors = centres[what] + 0.4 * rng.standard_normal((grid, grid, CHANNELS))
    return np.ascontiguousarray(np.moveaxis(vectors, -1, 0)).astype(np.float16)


def _children(process: int) -> list[int]:
    """Return the processes that any thread of a process has started; none where the system does not tell."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text(encoding="ascii").split()]
        except OSError:  # the thread has ended since
            continue
    return found


def _peak(process: int) -> float:
    """Return the largest resident set that a process has had, megabytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] * 1024 / _MEGABYTE if peaks else 0.0
