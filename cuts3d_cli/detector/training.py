"""The training loop: batches, augmentation, losses, updates; what is logged and saved, and how a run is resumed.

detectron2's launcher or torchrun starts the processes, DistributedDataParallel joins them. On a CPU equal arguments
give equal weights; kernels of CUDA are not deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from cuts3d_cli.config import as_dict
from cuts3d_cli.detector import FINAL_WEIGHTS, SAMPLES
from cuts3d_cli.detector.checkpoints import (
    checkpoint_path,
    find_checkpoints,
    keep_last,
    load_checkpoint,
    save_checkpoint,
    save_weights,
    set_aside,
)
from cuts3d_cli.detector.copy_paste import CopyPaste
from cuts3d_cli.detector.data import Batches, SkippedSample
from cuts3d_cli.detector.loading import load_start
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.order import Position
from cuts3d_cli.detector.run_log import Averages, RunLog, TrainingEvents
from cuts3d_cli.detector.schedule import descend, learning_rate, make_optimizer, set_learning_rate
from cuts3d_cli.detector.stopping import StoppedError, StopRequest, stop_signals
from cuts3d_cli.detector.task import Task, check_fingerprint, plain
from cuts3d_cli.devices import own_device
from cuts3d_cli.errors import Cuts3dError, Message, UsageError, WeightsError
from cuts3d_cli.weights.checkpoint import load_into
from cuts3d_cli.wording import first_line

Batch = list[dict[str, Any]]
"""Samples as `samples.training_sample` makes them, with "key" and "shard"."""


class TrainingError(Cuts3dError):
    """Training cannot continue."""


def train(task: Task, events: TrainingEvents) -> Path:
    """Train a detector; called in every process.

    Args:
        task: what to learn from, how, and where to write.
        events: receives the events of the training.

    Returns:
        The safetensors file with the trained weights.

    Raises:
        TrainingError: the loss is not finite; the batch is saved.
        UsageError: a run cannot be resumed with this configuration or these shards.
        WeightsError, ShardError: weights or shards cannot be read.
    """
    return _Training(task, events).run()


class _Training:
    """A training in one of its processes."""

    def __init__(self, task: Task, events: TrainingEvents) -> None:
        self.task, self.config, self.events = task, task.config, events
        self.fingerprint = task.fingerprint()
        # Find this process's place among all, and its device.
        self.rank, self.world = comm.get_rank(), comm.get_world_size()
        self.first = self.rank == 0
        self.device = own_device(task.device, alone=self.world == 1)
        if self.config.images_per_batch % self.world:
            raise UsageError(
                f"images_per_batch {self.config.images_per_batch} is no multiple of the {self.world} processes: change"
                " it, or the number of GPUs"
            )
        # Build the model with the same weights in every process; all other draws differ by process.
        seed = self.config.seed * 65536 + self.rank
        torch.manual_seed(self.config.seed)
        self.model = build_model(self.config, device=self.device, distributed=self.world > 1)
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.amp = self.config.amp and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp)
        self.optimizer = make_optimizer(self.model, self.config)
        # Take weights, optimizer and position from a checkpoint, or start from the weights that are asked for.
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
            on_unusable=self._report_unusable,
        )
        self.copy_paste = CopyPaste(self.config)
        # Let the processes share their gradients.
        self.network: torch.nn.Module = self.model
        if self.world > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.network = torch.nn.parallel.DistributedDataParallel(self.model, device_ids=ids)

    def run(self) -> Path:
        """Train, and write the final weights."""
        self.model.train()
        if self.first:
            self.events.begin(start=self.start, total=self.config.max_iter)
        log = RunLog(self.task.out, start=self.start) if self.first else None
        with stop_signals() as stop, EventStorage(self.start):
            batches = iter(self.batches)
            try:
                self._iterate(batches, log, stop)
                self._recompute_batch_norm(batches, stop)
            finally:
                if log:
                    log.close()
        final = self.task.out / FINAL_WEIGHTS
        if self.first:
            save_weights(final, self.model.state_dict(), config=self.config)
        comm.synchronize()
        return final

    def _iterate(self, batches: Iterator[Batch], log: RunLog | None, stop: StopRequest) -> None:
        """Run the iterations that are left.

        Raises:
            TrainingError: the loss is not finite in one of the processes.
            StoppedError: one of the processes received a signal; the checkpoint is written.
        """
        config = self.config
        averages = Averages(images_per_batch=config.images_per_batch)
        for iteration in range(self.start, config.max_iter):
            # Wait for a batch; the first one of a run is drawn, too.
            with averages.waiting():
                batch = self._next(batches)
            if iteration == self.start and self.first:
                self._draw(batch)

            # Compute the losses, and see whether all processes can continue.
            rate = learning_rate(iteration, config)
            set_learning_rate(self.optimizer, rate)
            with torch.autocast(self.device.type, enabled=self.amp):
                losses: dict[str, torch.Tensor] = self.network(batch)
            total = torch.stack(list(losses.values())).sum()
            broken, stopped = self._agree(not bool(torch.isfinite(total)), stop)
            if broken:
                self._give_up(batch, losses, iteration=iteration, rate=rate)

            # Update the weights.
            descend(total, model=self.model, optimizer=self.optimizer, scaler=self.scaler, clip_norm=config.clip_norm)
            done = iteration + 1

            # Report.
            averages.add({**losses, "total": total})
            if self.first:
                self.events.advance(done)
            if done % config.log_every == 0 or done == config.max_iter:
                step = averages.step(done, learning_rate=rate, iterations_left=config.max_iter - done)
                if log:
                    log.write(step)
                    self.events.step(step)

            # Save, also where a signal ends the run.
            if stopped is not None or done % config.checkpoint_every == 0 or done == config.max_iter:
                self._save(done)
            if stopped is not None:
                self._stop(stopped, done)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch on this process's device, after copy-paste."""
        batch = [
            {**sample, "image": sample["image"].to(self.device), "instances": sample["instances"].to(self.device)}
            for sample in next(batches)
        ]
        return self.copy_paste(batch, generator=self.generator)

    def _draw(self, batch: Batch) -> None:
        """Draw a batch as a picture in the folder of the run."""
        from cuts3d_cli.figures.training_panel import draw_training_samples

        draw_training_samples(batch).save(self.task.out / SAMPLES)

    def _agree(self, broken: bool, stop: StopRequest) -> tuple[bool, int | None]:
        """Return whether any process has a broken loss, and the signal that any received: all do the same."""
        if self.world == 1:
            return broken, stop.signal
        said = torch.tensor([int(broken), stop.signal or 0], device=self.device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        return bool(said[0]), int(said[1]) or None

    def _give_up(self, batch: Batch, losses: Mapping[str, torch.Tensor], *, iteration: int, rate: float) -> NoReturn:
        """Save the batch at hand.

        Raises:
            TrainingError: always.
        """
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
            f"the loss is not finite at iteration {iteration} (learning rate {rate:g}); its batch is saved in {path}:"
            " resume from the last checkpoint with a lower learning_rate or a longer warmup_iter"
        )

    def _stop(self, number: int, done: int) -> NoReturn:
        """End the run for a signal, after its checkpoint.

        Raises:
            StoppedError: always.
        """
        self._say(f"stopped after iteration {done}, which is saved: resume from there")
        raise StoppedError(number)

    def _recompute_batch_norm(self, batches: Iterator[Batch], stop: StopRequest) -> None:
        """Recompute the statistics of batch norm for the final weights over many batches (CutLER's settings).

        Raises:
            StoppedError: one of the processes received a signal.
        """
        if not self.config.precise_bn or self.config.norm == "FrozenBN":
            return
        from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats

        if get_bn_modules(self.model):
            self._say(f"recomputing the statistics of batch norm over {self.config.precise_bn} batches")
            with torch.no_grad(), torch.autocast(self.device.type, enabled=self.amp):
                update_bn_stats(self.model, self._until_stopped(batches, stop), self.config.precise_bn)

    def _until_stopped(self, batches: Iterator[Batch], stop: StopRequest) -> Iterator[Batch]:
        """Yield batches without end, unless one of the processes received a signal."""
        while True:
            _, stopped = self._agree(False, stop)
            if stopped is not None:
                self._stop(stopped, self.config.max_iter)
            yield self._next(batches)

    def _save(self, done: int) -> None:
        """Write a checkpoint with the state of all processes, and delete the oldest ones."""
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
        """Load the newest checkpoint that is sound; return its iteration and the position in the data.

        Damaged ones that are newer are set aside, and named.

        Raises:
            UsageError: the checkpoint is of another training, or of another number of processes.
            WeightsError: all checkpoints are damaged.
        """
        damaged: dict[Path, WeightsError] = {}
        for path in reversed(find_checkpoints(self.task.out)):
            try:
                restored = self._restore_from(path)
            except WeightsError as error:
                damaged[path] = error
                continue
            for error in damaged.values():
                self._say(Message("warning: ", *error.parts))
            comm.synchronize()  # all have read what is renamed now
            if self.first:
                for other in damaged:
                    set_aside(other)
            return restored
        if len(damaged) == 1:
            raise next(iter(damaged.values()))
        raise WeightsError(f"{self.task.out} holds no sound checkpoint: delete it to train again")

    def _restore_from(self, path: Path) -> tuple[int, Position]:
        """Load a checkpoint; return its iteration and the position in the data.

        Raises:
            UsageError, WeightsError: as `_restore`.
        """
        content = load_checkpoint(path)
        try:
            return self._restore_content(content, path)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise WeightsError(f"{path} is damaged, or of another version ({what}): train again") from error

    def _restore_content(self, content: Mapping[str, Any], path: Path) -> tuple[int, Position]:
        # Check that it is the same training, and as many processes.
        rescheduled = check_fingerprint(content["fingerprint"], self.fingerprint, path=path)
        # A resumed run need not name the detector that it started from.
        self.fingerprint["init"] = content["fingerprint"].get("init") or self.fingerprint["init"]
        if len(content["processes"]) != self.world:
            raise UsageError(
                f"{path} was written by {len(content['processes'])} processes, now there are {self.world}: start the"
                " same number"
            )
        # Load the weights, the optimizer and the state of all random generators.
        load_into(self.model, content["model"], what="this detector", path=path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        own = content["processes"][self.rank]
        torch.set_rng_state(own["torch"])
        if own["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)
        self.generator.set_state(own["generator"])
        self._say(f"resuming from {path}" + (f" with {', '.join(rescheduled)}" if rescheduled else ""))
        return int(content["iteration"]), Position(**own["position"])

    def _initialise(self) -> None:
        """Load the detector to start from, or the weights of the backbone.

        Raises:
            WeightsError: they are missing, damaged, or of another network.
        """
        if self.task.init is not None:
            load_start(self.model, self.task.init, config=self.config, say=self._say)
        elif self.config.backbone_weights != "random":
            from cuts3d_cli.detector.resnet import load_resnet

            path = load_resnet(self.model.backbone.bottom_up, self.config.backbone_weights, say=self._say)
            self._say(f"backbone: {path}")

    def _say(self, line: str | Message) -> None:
        if self.first:
            self.events.say(line)

    def _report_unusable(self, item: SkippedSample) -> None:
        self._say(f"{item.shard}: {item.key} is left out: {item.reason}")
