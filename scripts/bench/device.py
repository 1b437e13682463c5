"""Benchmark of a device: images per second of `cuts3d pseudo`, network included, and the bottleneck."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bench.common import Row, Table, interleaved, log
from bench.data import Photo
from cuts3d_cli.config import Config
from cuts3d_cli.stages import pseudo
from executable import cuts3d, neutral_environment
from scenes.files import write_depth

NETWORK = ("features",)
GRAPHS = ("affinity", "sharpen", "eigen")
CUTS = ("cut", "crf", "encode")
WARM_UP = 8
"""Images of a first shard that is not timed: it loads the network and starts the processes."""


def throughput(photos: Sequence[Photo], *, config: Config, device: str, images: int, repeats: int) -> Table:
    """Cut photos on a device over and over, with the graphs there and with the graphs in the worker processes.

    Args:
        photos: with depth, taken in turn.
        config: of the run; its device is replaced.
        device: torch's name of it.
        images: number of timed images.
        repeats: rounds of both ways in turn.

    Returns:
        A row for each way. "busy" is the share of the time in which something worked: the device, all worker processes
        together, and the reader, which decodes. The one close to 1 is the bottleneck.
    """
    with tempfile.TemporaryDirectory(prefix="cuts3d-bench-") as name:
        folder = Path(name)
        bases = [_shard(folder, part, photos, count) for part, count in (("a", WARM_UP), ("b", images))]
        runs = {}
        for graphs in ("device", "workers"):
            way = replace(config.run, device=device, graphs=graphs, if_exists="overwrite")
            runs[graphs] = partial(_run, bases, replace(config, run=way))
        timed = interleaved(runs, repeats=repeats).results
    rows = []
    for graphs, found in timed.items():
        middle = sorted(found, key=lambda run: run.seconds["total"])[(len(found) - 1) // 2]
        rows.append(
            {
                "graphs": graphs,
                "images": images,
                "workers": middle.workers,
                "batch size": config.run.batch_size,
                "masks": middle.masks,
                "images per second": images / median(run.seconds["total"] for run in found),
                **_busy(middle, on_device=(*NETWORK, *GRAPHS) if graphs == "device" else NETWORK),
                "peak device memory, MB": middle.memory,
            }
        )
    return Table(f"images per second on {device}, network included", rows)


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """Figures of a run.

    Attributes:
        seconds: of each step on the timed shard.
        masks: number of its masks.
        workers: number of processes.
        memory: peak memory of the device, megabytes; None on a CPU.
    """

    seconds: Mapping[str, float]
    masks: int
    workers: int
    memory: float | None


def _run(bases: Sequence[Path], config: Config) -> _Timed:
    """Cut the shards in this process, where the device's memory can be measured."""
    import torch

    log(f"pseudo: graphs by {config.run.graphs} on {config.run.device}")
    on_gpu = config.run.device.startswith("cuda")
    if on_gpu:
        torch.empty(1, device=config.run.device)  # there are no statistics before its first use
        torch.cuda.reset_peak_memory_stats(config.run.device)
    pseudo.run(bases, config=config)
    memory = torch.cuda.max_memory_allocated(config.run.device) / 1e6 if on_gpu else None
    manifest = json.loads(bases[-1].with_suffix(".pseudo.json").read_text(encoding="utf-8"))
    return _Timed(
        seconds=manifest["seconds"],
        masks=manifest["counts"]["masks"],
        workers=manifest["info"]["workers"],
        memory=memory,
    )


def _busy(run: _Timed, *, on_device: Sequence[str]) -> Row:
    total = run.seconds["total"]
    in_workers = [step for step in (*GRAPHS, *CUTS) if step not in on_device]

    def seconds(steps: Sequence[str]) -> float:
        return sum(run.seconds.get(step, 0.0) for step in steps)

    shares = {
        "device busy": seconds(on_device) / total,
        "workers busy": seconds(in_workers) / (max(run.workers, 1) * total),
        "reader busy": seconds(["read"]) / total,
    }
    return {**shares, "bottleneck": max(shares, key=lambda name: shares[name]).removesuffix(" busy")}


def _shard(folder: Path, name: str, photos: Sequence[Photo], images: int) -> Path:
    """Pack photos in turn, with their depth, into a base shard with a depth sidecar. Returns the shard."""
    source = folder / name
    for part in ("images", "depth"):
        (source / part).mkdir(parents=True)
    for number in range(images):
        photo = photos[number % len(photos)]
        assert photo.metres is not None
        photo.image.save(source / "images" / f"{number:06d}.jpg", quality=90)
        write_depth(source / "depth" / f"{number:06d}.png", photo.metres)
    run = partial(cuts3d, environment=neutral_environment())
    shards = folder / f"{name}-shards"
    run(
        *("pack", source / "images", "--depth-dir", source / "depth", "--out", shards, "--name", name),
        *("--shard-size", images),
    )
    run("depth", "--shards", shards, "--backend", "sensor")
    (base,) = (path for path in shards.glob("*.tar") if path.name.count(".") == 1)
    return base
