"""Benchmark of a device: images a second of `cuts3d pseudo`, network included, and what limits them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bench_common import Row, Table, interleaved, say
from bench_data import Photo

from cuts3d_cli.config import Config
from cuts3d_cli.devices import worker_count
from cuts3d_cli.engine.driver import run_shards
from cuts3d_cli.engine.results import Outcome
from cuts3d_cli.files import to_json_bytes
from cuts3d_cli.shards.manifest import load_manifest
from cuts3d_cli.shards.names import manifest_path, sidecar
from cuts3d_cli.shards.reader import read_shard
from cuts3d_cli.shards.writer import ShardWriter
from cuts3d_cli.sidecars.depth import StoredDepth, encode
from cuts3d_cli.stages import pseudo

NETWORK = ("features",)
GRAPHS = ("affinity", "sharpen", "eigen")
CUTS = ("cut", "crf", "encode")
WARM_UP = 8
"""Images of a shard of their own that come first: the network is loaded and the processes start with them."""


def throughput(photos: Sequence[Photo], *, config: Config, device: str, images: int, repeats: int) -> Table:
    """Cut photos over and over on a device, with the graphs there and with the graphs in the worker processes.

    Args:
        photos: with depth; they are taken in turn.
        config: of the run; its device is replaced.
        device: torch's name of it.
        images: how many are timed.
        repeats: rounds of both ways in turn.

    Returns:
        A row for each way. "busy" is the share of the time in which something worked: the device, the worker processes
        all together, and whoever reads and decodes. Where one is close to 1, it is the limit.
    """
    with tempfile.TemporaryDirectory(prefix="cuts3d-bench-") as name:
        folder = Path(name)
        bases = [_shard(folder / f"{part}-000.tar", photos, count) for part, count in (("a", WARM_UP), ("b", images))]
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
                "images at once": config.run.batch_size,
                "masks": middle.masks,
                "images a second": images / median(run.seconds["total"] for run in found),
                **_busy(middle, on_device=(*NETWORK, *GRAPHS) if graphs == "device" else NETWORK),
                "peak device memory, MB": middle.memory,
            }
        )
    return Table(f"images a second on {device}, network included", rows)


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """A run: seconds by step of the timed shard, its masks, processes, and memory of the device, if it tells."""

    seconds: Mapping[str, float]
    masks: int
    workers: int
    memory: float | None


def _run(bases: Sequence[Path], config: Config) -> _Timed:
    import torch

    say(f"pseudo: graphs by {config.run.graphs} on {config.run.device}")
    on_gpu = config.run.device.startswith("cuda")
    if on_gpu:
        torch.empty(1, device=config.run.device)  # there are no statistics before its first use
        torch.cuda.reset_peak_memory_stats(config.run.device)
    pseudo.run(bases, config=config)
    memory = torch.cuda.max_memory_allocated(config.run.device) / 1e6 if on_gpu else None
    manifest = load_manifest(manifest_path(sidecar(bases[-1], "pseudo")))
    return _Timed(
        seconds=manifest.seconds,
        masks=manifest.counts["masks"],
        workers=worker_count(config.run.workers),
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
    return {**shares, "limit": max(shares, key=lambda name: shares[name]).removesuffix(" busy")}


def _shard(base: Path, photos: Sequence[Photo], images: int) -> Path:
    """A base shard of photos in turn with its finished depth sidecar."""
    with ShardWriter(base) as writer:
        for number in range(images):
            photo = photos[number % len(photos)]
            buffer = io.BytesIO()
            photo.image.save(buffer, "JPEG", quality=90)
            facts = {"id": number, "source": f"{number:06d}.jpg", "width": photo.size[1], "height": photo.size[0]}
            writer.write(f"{number:06d}", {"jpg": buffer.getvalue(), "json": to_json_bytes(facts)})

    def depths(base: Path) -> Iterator[Outcome]:
        for number, sample in enumerate(read_shard(base)):
            depth = photos[number % len(photos)].depth()
            assert depth is not None
            stored = StoredDepth(
                depth=depth,
                minimum=0.0,
                maximum=1.0,
                unit="relative",
                direction="distance",
                conversion="none",
                model="made",
                backend="made",
            )
            yield Outcome(key=sample.key, members=encode(stored))

    run_shards(
        [base],
        stage="depth",
        config={"depth": {"backend": "made"}},
        inputs=lambda base: {"base": base},
        outcomes=depths,
        if_exists="overwrite",
    )
    return base
