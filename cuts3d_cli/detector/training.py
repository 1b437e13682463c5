"""The training loop: batches, augmentation, losses, steps; what is logged, what is kept, and how a run goes on.

Processes are detectron2's and torch's: its launcher or torchrun starts them, DistributedDataParallel joins them. On a
CPU equal arguments give equal weights; kernels of CUDA are not deterministic.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from cuts3d_cli.config import MAX_IMAGE_PIXELS, RunConfig, TrainConfig, as_dict, output_dict, recorded_limits
from cuts3d_cli.detector import FINAL_WEIGHTS, SAMPLES
from cuts3d_cli.detector.checkpoints import (
    checkpoint_path,
    find_checkpoints,
    keep_last,
    load_checkpoint,
    load_trained,
    save_checkpoint,
    save_weights,
)
from cuts3d_cli.detector.copy_paste import CopyPaste
from cuts3d_cli.detector.data import Batches, Position, Skipped, TrainingShard
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.run_log import RunLog, Step, Watcher
from cuts3d_cli.detector.schedule import descend, learning_rate, make_optimizer, set_learning_rate
from cuts3d_cli.detector.stopping import Stop, stop_signals
from cuts3d_cli.devices import own_device
from cuts3d_cli.errors import Cuts3dError, UsageError, WeightsError
from cuts3d_cli.shards.manifest import digest_file
from cuts3d_cli.weights.checkpoint import load_into
from cuts3d_cli.wording import first_line

SCHEDULE = frozenset({"max_iter", "learning_rate", "warmup_iter", "warmup_factor", "decay_steps", "decay_factor"})
"""Fields that a run may change when it goes on."""


class TrainingError(Cuts3dError):
    """Training cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training.

    Attributes:
        config: everything about it.
        shards: what to learn from.
        out: folder for all that is written.
        device: "cpu", "cuda", "cuda:1", ...; with several processes each takes its own GPU.
        init: a trained detector to begin with; None begins with the backbone's weights.
        resume: go on from the newest checkpoint in `out`.
        max_image_pixels: photos with more are not learned from.
    """

    config: TrainConfig
    shards: Sequence[TrainingShard]
    out: Path
    device: str
    init: Path | None = None
    resume: bool = False
    max_image_pixels: int = MAX_IMAGE_PIXELS

    def fingerprint(self) -> dict[str, Any]:
        """What must not change when a run goes on."""
        limits = recorded_limits(RunConfig(max_image_pixels=self.max_image_pixels))
        return {
            "config": plain({**output_dict(self.config), **limits}),
            "shards": {shard.base.name: shard.digest for shard in self.shards},
            "init": None if self.init is None else _digest(self.init),
        }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with lists in place of tuples, as a checkpoint gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def train(task: Task, watcher: Watcher) -> Path:
    """Train a detector; called in every process.

    Args:
        task: what to do.
        watcher: told how it goes.

    Returns:
        The safetensors file with the trained weights.

    Raises:
        TrainingError: the loss is no number any more; the batch is kept.
        UsageError: a run cannot go on with this configuration or these shards.
        WeightsError, ShardError: weights or shards cannot be read.
    """
    return _Training(task, watcher).run()


class _Training:
    def __init__(self, task: Task, watcher: Watcher) -> None:
        self.task, self.config, self.watcher = task, task.config, watcher
        self.fingerprint = task.fingerprint()
        self.rank, self.world = comm.get_rank(), comm.get_world_size()
        self.first = self.rank == 0
        self.device = own_device(task.device, alone=self.world == 1)
        if self.config.images_per_batch % self.world:
            raise UsageError(
                f"a batch of {self.config.images_per_batch} images cannot be split over {self.world} processes: change"
                " --images-per-batch or the number of GPUs"
            )
        seed = self.config.seed * 65536 + self.rank
        torch.manual_seed(self.config.seed)  # the same weights in every process
        self.model = build_model(self.config, device=self.device, distributed=self.world > 1)
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.amp = self.config.amp and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp)
        self.optimizer = make_optimizer(self.model, self.config)
        self.start, position = 0, Position()
        if task.resume:
            self.start, position = self._restore()
        else:
            self._initialise()
        self.batches = Batches(
            task.shards,
            config=self.config,
            batch_size=self.config.images_per_batch // self.world,
            rank=self.rank,
            world_size=self.world,
            start=position,
            max_image_pixels=task.max_image_pixels,
            skipped=self._skipped,
        )
        self.copy_paste = CopyPaste(self.config)
        self.network: torch.nn.Module = self.model
        if self.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.network = torch.nn.parallel.DistributedDataParallel(self.model, device_ids=ids)

    def run(self) -> Path:
        self.model.train()
        if self.first:
            self.watcher.begin(start=self.start, total=self.config.max_iter)
        log = RunLog(self.task.out, start=self.start) if self.first else None
        with stop_signals() as stop, EventStorage(self.start):
            batches = iter(self.batches)
            try:
                self._iterate(batches, log, stop)
                self._settle(batches)
            finally:
                if log:
                    log.close()
        final = self.task.out / FINAL_WEIGHTS
        if self.first:
            save_weights(final, self.model.state_dict(), config=self.config)
        comm.synchronize()
        return final

    def _iterate(self, batches: Iterator[list[dict[str, Any]]], log: RunLog | None, stop: Stop) -> None:
        config = self.config
        begun = time.perf_counter()
        sums: dict[str, torch.Tensor] = {}
        since, waited = 0, 0.0
        for iteration in range(self.start, config.max_iter):
            asked = time.perf_counter()
            batch = self._next(batches, draw=iteration == self.start)
            waited += time.perf_counter() - asked
            rate = learning_rate(iteration, config)
            set_learning_rate(self.optimizer, rate)
            with torch.autocast(self.device.type, enabled=self.amp):
                losses: dict[str, torch.Tensor] = self.network(batch)
            total = torch.stack(list(losses.values())).sum()
            broken, stopped = self._agree(not bool(torch.isfinite(total)), stop.asked)
            if broken:
                self._give_up(batch, losses, iteration=iteration, rate=rate)
            descend(total, model=self.model, optimizer=self.optimizer, scaler=self.scaler, clip_norm=config.clip_norm)
            for name, value in {**losses, "total": total}.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
            since += 1
            done = iteration + 1
            if self.first:
                self.watcher.advance(done)
            if done % config.log_every == 0 or done == config.max_iter:
                seconds = time.perf_counter() - begun
                step = Step(
                    iteration=done,
                    losses={name: round(float(value) / since, 6) for name, value in sums.items()},
                    learning_rate=rate,
                    images_per_second=round(since * config.images_per_batch / seconds, 3),
                    data_seconds=round(waited / since, 4),
                    seconds_left=round((config.max_iter - done) * seconds / since, 1),
                )
                if log:
                    log.write(step)
                    self.watcher.step(step)
                begun, sums, since, waited = time.perf_counter(), {}, 0, 0.0
            if stopped or done % config.checkpoint_every == 0 or done == config.max_iter:
                self._save(done)
            if stopped:
                if self.first:
                    self.watcher.say(f"stopped after iteration {done}: --resume goes on from there")
                raise KeyboardInterrupt

    def _next(self, batches: Iterator[list[dict[str, Any]]], *, draw: bool = False) -> list[dict[str, Any]]:
        batch = [
            {**sample, "image": sample["image"].to(self.device), "instances": sample["instances"].to(self.device)}
            for sample in next(batches)
        ]
        batch = self.copy_paste(batch, generator=self.generator)
        if draw and self.first:
            from cuts3d_cli.figures.training_panel import draw_training_samples

            draw_training_samples(batch).save(self.task.out / SAMPLES)
        return batch

    def _agree(self, broken: bool, stopped: bool) -> tuple[bool, bool]:
        """What any of the processes says, so that all do the same."""
        if self.world == 1:
            return broken, stopped
        said = torch.tensor([float(broken), float(stopped)], device=self.device)
        torch.distributed.all_reduce(said)
        return bool(said[0] > 0), bool(said[1] > 0)

    def _give_up(
        self, batch: list[dict[str, Any]], losses: Mapping[str, torch.Tensor], *, iteration: int, rate: float
    ) -> None:
        path = self.task.out / f"nonfinite-{iteration:07d}-rank{self.rank}.pth"
        kept = [
            {
                "key": sample["key"],
                "shard": sample["shard"],
                "image": sample["image"].cpu(),
                "masks": sample["instances"].gt_masks.dense().cpu(),
                "boxes": sample["instances"].gt_boxes.tensor.cpu(),
            }
            for sample in batch
        ]
        values = {name: value.item() for name, value in losses.items()}
        save_checkpoint(path, {"batch": kept, "losses": values, "learning_rate": rate})
        raise TrainingError(
            f"the loss is no number any more at iteration {iteration} (learning rate {rate:g}); its batch is kept in"
            f" {path}: --resume with a lower --learning-rate, or a longer --warmup-iter, from the last checkpoint"
        )

    def _settle(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        """Precise batch norm: statistics of the final weights, over many batches (CutLER's settings)."""
        if not self.config.precise_bn or self.config.norm == "FrozenBN":
            return
        from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

        if get_bn_modules(self.model):
            if self.first:
                self.watcher.say(f"settling batch norm over {self.config.precise_bn} batches")
            endless = (self._next(batches) for _ in iter(int, 1))
            with torch.no_grad(), torch.autocast(self.device.type, enabled=self.amp):
                update_bn_stats(self.model, endless, self.config.precise_bn)

    def _save(self, done: int) -> None:
        own = {
            "position": asdict(self.batches.position),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "generator": self.generator.get_state(),
        }
        every = comm.gather(own)
        if self.first:
            content = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "iteration": done,
                "processes": every,
                "config": plain(as_dict(self.config)),
                "fingerprint": self.fingerprint,
            }
            save_checkpoint(checkpoint_path(self.task.out, done), content)
            keep_last(self.task.out, self.config.checkpoints_kept)
        comm.synchronize()

    def _restore(self) -> tuple[int, Position]:
        path = find_checkpoints(self.task.out)[-1]
        content = load_checkpoint(path)
        try:
            return self._restore_from(content, path)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise WeightsError(f"{path} is damaged, or of another version ({what}): train again") from error

    def _restore_from(self, content: Mapping[str, Any], path: Path) -> tuple[int, Position]:
        rescheduled = check_fingerprint(content["fingerprint"], self.fingerprint, path=path)
        # A run that goes on need not be told again what it began with.
        self.fingerprint["init"] = content["fingerprint"].get("init") or self.fingerprint["init"]
        if len(content["processes"]) != self.world:
            raise UsageError(
                f"{path} was written by {len(content['processes'])} processes, now there are {self.world}: start as"
                " many"
            )
        load_into(self.model, content["model"], what="this detector", path=path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        own = content["processes"][self.rank]
        torch.set_rng_state(own["torch"])
        if own["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)
        self.generator.set_state(own["generator"])
        if self.first:
            self.watcher.say(f"going on from {path}" + (f" with {', '.join(rescheduled)}" if rescheduled else ""))
        return int(content["iteration"]), Position(**own["position"])

    def _initialise(self) -> None:
        if self.task.init is not None:
            state, _ = load_trained(self.task.init)
            load_into(self.model, state, what="this detector", path=self.task.init)
        elif self.config.backbone_weights != "random":
            from cuts3d_cli.detector.resnet import load_resnet

            path = load_resnet(self.model.backbone.bottom_up, self.config.backbone_weights, say=self._say)
            self._say(f"backbone: {path}")

    def _say(self, line: str) -> None:
        if self.first:
            self.watcher.say(line)

    def _skipped(self, item: Skipped) -> None:
        if self.first:
            self.watcher.say(f"{item.shard}: {item.key} is left out: {item.reason}")


def _digest(weights: Path) -> str:
    if not weights.is_file():
        raise WeightsError(f"{weights} does not exist: name a checkpoint that `cuts3d train` wrote")
    return digest_file(weights).sha256


def started_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two trainings began with the same detector, as far as both say so."""
    return None in (old.get("init"), new["init"]) or old["init"] == new["init"]


def check_fingerprint(old: Mapping[str, Any], new: Mapping[str, Any], *, path: Path) -> list[str]:
    """Refuse to go on with another configuration or other masks. The schedule may change on the way.

    Returns:
        What differs in the schedule, a few words each.

    Raises:
        UsageError: names what differs.
    """
    before, after = dict(old["config"]), dict(new["config"])
    differing = [name for name in after if before.get(name) != after[name]]
    changed = [name for name in differing if name not in SCHEDULE]
    if changed:
        shown = ", ".join(f"{name} {before.get(name)} -> {after[name]}" for name in changed[:3])
        raise UsageError(f"{path} was trained with another configuration ({shown}): set it back, or take another --out")
    if old["shards"] != new["shards"]:
        names = sorted({*old["shards"], *new["shards"]})
        other = [name for name in names if old["shards"].get(name) != new["shards"].get(name)]
        raise UsageError(f"{path} was trained on other masks ({', '.join(other[:3])}): take another --out")
    if not started_alike(old, new):
        raise UsageError(f"{path} began with another detector: take another --out")
    return [f"{name} {before.get(name)} -> {after[name]}" for name in differing]
