"""Benchmark of `cuts3d report`: photos per second, and how long a browser takes to open, filter and sort its page."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common import BenchError, Report, Row, Table, log
from browser import BrowserMissingError, address, open_browser
from cuts3d_cli.cut.masks import encode_rle
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.sidecars import confidence, masks
from cuts3d_cli.sidecars.confidence import StoredConfidence
from cuts3d_cli.sidecars.finished import require
from cuts3d_cli.sidecars.masks import DroppedCut, ImageCut, StoredMask, StoredMasks
from executable import cuts3d, neutral_environment

WIDTH, HEIGHT = 640, 480
SHARD_SIZE = 1000
MOST_MASKS = 6
REASONS = ("too small", "changed too much by the CRF", "repeats the mask before")
FAILURES = ("it has no depth: the depth map has no valid pixel", "it could not be computed: MemoryError")
"""Of one photo in fifty."""
_OPENED = """
const done = arguments[arguments.length - 1];
const look = () => {
  const all = [...document.querySelectorAll(".card img")];
  const seen = all.filter((image) => image.getBoundingClientRect().top < innerHeight);
  if (seen.length && seen.every((image) => image.complete)) done(performance.now() / 1000);
  else setTimeout(look, 5);
};
look();
"""
"""Waits until the photos that are seen are drawn; seconds since the page was asked for."""
_CHANGED = """
const [name, value, done] = arguments;
const field = document.getElementById("controls").elements[name];
const begun = performance.now();
field.value = value;
field.dispatchEvent(new Event("input", { bubbles: true }));
requestAnimationFrame(() => setTimeout(() => done((performance.now() - begun) / 1000)));
"""
"""Changes a control and waits for the next picture; seconds."""


def gallery(*, counts: Sequence[int], repeats: int, out: Path | None = None) -> Report:
    """Make reports of synthetic photos and open them in a headless browser.

    Args:
        counts: numbers of photos.
        repeats: how often each page is opened, in a new browser.
        out: keeps the reports, by their numbers of photos; None for none.

    Returns:
        Seconds of the command, and of a browser to open, filter and sort.

    Raises:
        BenchError: there is no browser.
        CommandError: a command failed.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cuts3d-bench-") as name:
        for count in counts:
            log(f"report: {count} photos")
            shards = synthetic_shards(Path(name) / str(count), count)
            folder = (out or Path(name)) / f"report-{count}"
            begun = time.perf_counter()
            cuts3d("report", shards, "--out", folder, "--steps", 0, environment=neutral_environment())
            seconds = time.perf_counter() - begun
            opened = [_opened(folder / "index.html") for _ in range(repeats)]
            rows.append(
                {
                    "photos": count,
                    "report, s": seconds,
                    "photos per second": count / seconds,
                    "data, MB": (folder / "photos.js").stat().st_size / 1e6,
                    **{f"{what}, s": median(one[what] for one in opened) for what in opened[0]},
                    "open at most, s": max(one["open"] for one in opened),
                }
            )
    notes = [
        f"Photos of {WIDTH}x{HEIGHT} of up to {MOST_MASKS} masks; `--steps 0`. 'open' ends when all photos that are"
        f" seen are drawn; medians of {repeats} browsers, each new, its cache empty."
    ]
    return Report(name="report", tables=[Table("seconds", rows)], notes=notes)


def _opened(page: Path) -> dict[str, float]:
    try:
        with open_browser() as browser:
            browser.set_script_timeout(120)
            browser.get(address(page))
            ask: Any = browser.execute_async_script
            return {
                "open": ask(_OPENED),
                "filter": ask(_CHANGED, "least", "3"),
                "sort": ask(_CHANGED, "sort", "-mean"),
                "search": ask(_CHANGED, "name", "77"),
            }
    except BrowserMissingError as error:
        raise BenchError(str(error)) from error


def synthetic_shards(folder: Path, count: int) -> Path:
    """Write base shards of synthetic photos, with finished sidecars of masks and their confidence.

    Args:
        folder: receives the photos and shards.
        count: number of photos.

    Returns:
        The folder of the shards.

    Raises:
        CommandError: a command failed.
    """
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        pixels = np.full((HEIGHT, WIDTH, 3), (70, 90, 110), dtype=np.uint8)
        for place, mask in enumerate(_masks(number)):
            pixels[mask] = (60 + 30 * place, 190 - 25 * place, 120)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:06d}.jpg")
    run = partial(cuts3d, folder=folder, environment=neutral_environment())
    run("pack", "photos", "--out", "shards", "--name", "synthetic", "--shard-size", SHARD_SIZE)
    for base in sorted((folder / "shards").glob("synthetic-???.tar")):
        config = {"pseudo": {"method": "cuts3d"}, "features": {"backbone": "synthetic", "size": WIDTH}}
        write = partial(run_shards, [base], if_exists="overwrite")
        write(stage="pseudo", config=config, inputs=lambda base: {"base": base}, outcomes=_cut)
        write(
            stage="confidence",
            config={},
            inputs=lambda base: {"pseudo": require(base, "pseudo").tar},
            outcomes=_scored,
        )
    return folder / "shards"


def _masks(number: int) -> list[NDArray[np.bool_]]:
    """Return the ellipses of a photo, (h, w) bool each."""
    random = np.random.default_rng(number)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    found = []
    for _ in range(number % (MOST_MASKS + 1)):
        y, x, height, width = random.integers((60, 60, 20, 20), (HEIGHT - 60, WIDTH - 60, 90, 90))
        found.append(((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1)
    return found


def _cut(base: Path) -> Iterator[Outcome]:
    for sample in read_shard(base):
        number = int(sample.key)
        if number % 50 == 7:
            yield Outcome(key=sample.key, failure=FAILURES[number // 50 % len(FAILURES)])
            continue
        dropped = [DroppedCut(iteration=MOST_MASKS, reason=REASONS[number % 3])] if number % 4 == 0 else []
        stored = StoredMasks(
            size=(HEIGHT, WIDTH),
            method="cuts3d",
            instances=[StoredMask.of(encode_rle(mask)) for mask in _masks(number)],
            cut=ImageCut(grid=None, stopped=None, dropped=dropped),
        )
        yield Outcome(key=sample.key, members=masks.encode(stored), counts={"masks": len(stored.instances)})


def _scored(base: Path) -> Iterator[Outcome]:
    for sample in require(base, "pseudo").samples():
        count = len(json.loads(sample.members["pseudo.json"])["instances"])
        scores = np.random.default_rng(int(sample.key)).beta(6, 2, count)
        stored = StoredConfidence(
            counts=np.ones((count, 2, 2), dtype=np.uint8),
            scores=[round(float(score), 6) for score in scores],
            levels=6,
            floor=0.5,
            source="depth",
        )
        yield Outcome(key=sample.key, members=confidence.encode(stored))
