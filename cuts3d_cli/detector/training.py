"""The training loop: batches, augmentation, losses, updates; what is logged and saved, and how a run is resumed.

`processes` starts one process a GPU, DistributedDataParallel joins them. On a CPU equal arguments give equal weights;
kernels of CUDA are not deterministic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.utils.events import EventStorage

from cuts3d_cli.config import Precision, SelfTrainConfig
from cuts3d_cli.detector import BEST_WEIGHTS, FINAL_WEIGHTS, SAMPLES
from cuts3d_cli.detector.batch_norm import has_statistics, kept_statistics, settle
from cuts3d_cli.detector.checkpoints import save_checkpoint, save_weights
from cuts3d_cli.detector.copy_paste import CopyPaste
from cuts3d_cli.detector.data import Batches, SkippedSample
from cuts3d_cli.detector.evaluating import Share
from cuts3d_cli.detector.inference import Detector
from cuts3d_cli.detector.inference_settings import InferenceSettings
from cuts3d_cli.detector.order import Position
from cuts3d_cli.detector.run_log import Averages, DataWatch, RunLog, Scores, TrainingEvents
from cuts3d_cli.detector.schedule import learning_rate, set_learning_rate, update
from cuts3d_cli.detector.state import TrainingState
from cuts3d_cli.detector.stopping import StoppedError, StopRequest, stop_signals
from cuts3d_cli.detector.task import Task, TrainingError
from cuts3d_cli.detector.team import Team
from cuts3d_cli.errors import Message, Setting
from cuts3d_cli.wording import counted

Batch = list[dict[str, Any]]
"""Samples as `samples.training_sample` makes them, with "key" and "shard"."""


def train(task: Task, events: TrainingEvents, *, asked: Callable[[], int | None] = lambda: None) -> Path:
    """Train a detector; called in every process.

    Args:
        task: what to learn from, how, and where to write.
        events: receives the events of the training.
        asked: returns the number of a signal that the process which started this one has received.

    Returns:
        The safetensors file with the trained weights.

    Raises:
        TrainingError: the loss is not finite; the batch is saved.
        UsageError: a run cannot be resumed with this configuration or these shards.
        WeightsError, ShardError: weights or shards cannot be read.
    """
    team = Team()
    training: _Training = team.together(lambda: _Training(task, events, team, asked))
    return training.run()


class _Training:
    """A training in one of its processes. What needs the other processes begins with `run`."""

    def __init__(self, task: Task, events: TrainingEvents, team: Team, asked: Callable[[], int | None]) -> None:
        self.task, self.config, self.events = task, task.config, events
        self.team, self._asked = team, asked
        self.state = TrainingState(task, team=team, say=self._say)
        self.model, self.device, self.amp = self.state.model, self.state.device, self.state.amp
        self.network: torch.nn.Module = self.model
        self.batches = self._batches(self.state.position, on_unusable=self._report_unusable)
        self.copy_paste = CopyPaste(self.config)

    def run(self) -> Path:
        """Train, and write the final weights."""
        self.state.join()
        if self.team.world > 1:
            # Each process has statistics of batch norm of its own, or shares them by SyncBN.
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.network = torch.nn.parallel.DistributedDataParallel(
                self.model, device_ids=ids, broadcast_buffers=False
            )
        self.model.train()
        total, start = self.config.max_iter, self.state.start
        if self.team.first:
            self.events.begin(start=start, total=total)
        log = RunLog(self.task.out, start=start) if self.team.first else None
        with stop_signals() as stop:
            try:
                if 0 < start < total and self._lacks_scores(start, log):
                    self._evaluate(start, log, stop)
                with closing(iter(self.batches)) as batches:
                    self._iterate(batches, log, stop)
                if self._needs_settling():
                    self._settle(total, stop)
                    self.state.settled = True
                    self.state.save(total, self.batches.position)
                if self._lacks_scores(total, log):
                    self._evaluate(total, log, stop)
            finally:
                if log:
                    log.close()
        final = self.task.out / FINAL_WEIGHTS
        if self.team.first:
            save_weights(final, self.model.state_dict(), config=self.config)
        self.team.wait()
        return final

    def _batches(self, start: Position, *, on_unusable: Callable[[SkippedSample], None] | None = None) -> Batches:
        """Return this process's shares of the batches from a position on."""
        return Batches(
            self.task.shards,
            config=self.config,
            batch_size=self.config.images_per_batch // self.team.world,
            rank=self.team.rank,
            world_size=self.team.world,
            start=start,
            max_image_pixels=self.task.max_image_pixels,
            on_unusable=on_unusable,
        )

    # ---------------------------------------------------------------------------------------------- iterations

    def _iterate(self, batches: Iterator[Batch], log: RunLog | None, stop: StopRequest) -> None:
        """Run the iterations that are left.

        Raises:
            TrainingError: the loss is not finite in one of the processes.
            StoppedError: one of the processes received a signal; the checkpoint is written.
        """
        config, total = self.config, self.config.max_iter
        averages, watch = Averages(images_per_batch=config.images_per_batch, device=self.device), DataWatch()
        for iteration in range(self.state.start, total):
            # Wait for a batch, and paste; the first one of the training is drawn, too.
            with averages.waiting():
                batch: Batch = self.team.together(lambda: next(batches))
            batch = self._pasted(batch)
            if iteration == self.state.start and self.team.first and not (iteration and self._is_drawn):
                self._draw(batch)

            # Compute losses and gradients, and see whether all processes can continue.
            rate = learning_rate(iteration, config)
            set_learning_rate(self.state.optimizer, rate)
            losses, facts = self._losses(batch)
            broken, number = self.team.greatest(not bool(torch.isfinite(losses["total"])), self._signal(stop))
            if broken:
                self._give_up(batch, losses, iteration=iteration, rate=rate)

            # Update the weights.
            update(model=self.model, optimizer=self.state.optimizer, scaler=self.state.scaler, config=config)
            done, self.state.settled = iteration + 1, False

            # Report.
            averages.add(losses, facts)
            if self.team.first:
                self.events.advance(done)
            if done % config.log_every == 0 or done == total:
                step = averages.step(done, learning_rate=rate, iterations_left=total - done, gather=self.team.gather)
                if log and step:
                    log.write(step)
                    self.events.step(step)
                    if share := watch.limit(step):
                        self._say(self._slow_data(share))

            # Save, also where a signal ends the run, and evaluate.
            if number or done == total or done % config.checkpoint_every == 0 or self._is_scored(done):
                self.state.save(done, self.batches.position)
            if number:
                self._stop(number, done)
            if done < total and self._lacks_scores(done, log):
                with averages.paused():
                    self._evaluate(done, log, stop)

    def _pasted(self, batch: Batch) -> Batch:
        """Return this process's share of a batch on its device, after copy-paste."""
        partner = None
        if self.config.copy_paste and len(batch) == 1 and self.team.world > 1:
            partner = self._moved(self.team.from_neighbour(batch[0]))
        return self.copy_paste([self._moved(item) for item in batch], generator=self.state.generator, partner=partner)

    def _moved(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a sample on this process's device."""
        image, instances = sample["image"].to(self.device), sample["instances"].to(self.device)
        return {**sample, "image": image, "instances": instances}

    def _parts(self, batch: Batch) -> list[Batch]:
        """Return the parts of a batch that go through the network in turn."""
        size = self.state.split.part
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def _losses(self, batch: Batch) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Compute the losses of a batch and their gradients, which replace those of the batch before.

        Returns:
            The losses by name and their "total", scalars without a gradient, and what detectron2 counts on the way,
            such as numbers of foreground samples; both are means over the parts of the batch.
        """
        losses: dict[str, torch.Tensor] = {}
        facts: dict[str, list[float]] = {}
        self.state.optimizer.zero_grad(set_to_none=True)
        parts = self._parts(batch)
        for number, part in enumerate(parts, start=1):
            # The processes add up their gradients with those of the last part.
            alone: AbstractContextManager[Any] = nullcontext()
            if number < len(parts) and isinstance(self.network, torch.nn.parallel.DistributedDataParallel):
                alone = self.network.no_sync()
            with alone:
                with EventStorage() as storage, torch.autocast(self.device.type, enabled=self.amp):
                    found: dict[str, torch.Tensor] = self.network(part)
                total = torch.stack(list(found.values())).sum()
                self.state.scaler.scale(total / len(parts)).backward()
            for name, value in {**found, "total": total}.items():
                share = value.detach() / len(parts)
                losses[name] = losses[name] + share if name in losses else share
            for name, (latest, _) in storage.latest().items():
                facts.setdefault(name, []).append(float(latest))
        return losses, {name: sum(values) / len(values) for name, values in facts.items()}

    @property
    def _is_drawn(self) -> bool:
        """Whether the run that this one resumes has drawn its first batch."""
        return (self.task.out / SAMPLES).exists()

    def _draw(self, batch: Batch) -> None:
        """Draw a batch as a picture in the folder of the run."""
        from cuts3d_cli.figures.training_panel import draw_training_samples

        draw_training_samples(batch).save(self.task.out / SAMPLES)

    def _signal(self, stop: StopRequest) -> int:
        """Return the number of the signal that asks this process to stop, or 0."""
        return stop.signal or self._asked() or 0

    def _give_up(self, batch: Batch, losses: Mapping[str, torch.Tensor], *, iteration: int, rate: float) -> NoReturn:
        """Save the batch at hand.

        Raises:
            TrainingError: always.
        """
        path = self.task.out / f"nonfinite-{iteration:07d}-rank{self.team.rank}.pth"
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
        values = {name: value.item() for name, value in losses.items() if name != "total"}
        save_checkpoint(path, {"batch": kept, "losses": values, "learning_rate": rate})
        self.team.wait()  # the first process to end takes the others with it
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

    # ---------------------------------------------------------------------------------------------- evaluation

    def _needs_settling(self) -> bool:
        """Return whether the statistics of batch norm are running averages, and not to stay so."""
        return not self.state.settled and bool(self.config.precise_bn) and has_statistics(self.model)

    def _settle(self, done: int, stop: StopRequest) -> None:
        """Compute the statistics of batch norm for the weights as they are, over batches to come without copy-paste.

        Raises:
            StoppedError: one of the processes received a signal; the checkpoint was written before.
        """

        def until_stopped(batches: Iterator[Batch]) -> Iterator[Batch]:
            while True:
                for part in self._parts(self.team.together(lambda: next(batches))):
                    if number := self.team.greatest(self._signal(stop))[0]:
                        self._stop(number, done)
                    yield [self._moved(item) for item in part]

        self._say(
            f"recomputing the statistics of batch norm over {counted(self.config.precise_bn, 'batch', 'batches')}"
        )
        with closing(iter(self._batches(self.batches.position))) as batches:
            settle(self.model, until_stopped(batches), count=self.config.precise_bn, amp=self.amp)

    def _is_scored(self, done: int) -> bool:
        """Return whether the detector is to be evaluated after so many iterations."""
        if self.task.evaluation is None:
            return False
        return done % self.config.eval_every == 0 or done == self.config.max_iter

    def _lacks_scores(self, done: int, log: RunLog | None) -> bool:
        """Return whether the detector is to be evaluated after so many iterations, and that was not done before."""
        return self._is_scored(done) and not self.team.greatest(log is not None and done in log.scored)[0]

    def _evaluate(self, done: int, log: RunLog | None, stop: StopRequest) -> None:
        """Evaluate the detector, write the figures, and keep its weights if they are the best so far.

        Raises:
            StoppedError: one of the processes received a signal; the checkpoint was written before.
        """
        assert self.task.evaluation is not None
        share = Share(
            rank=self.team.rank,
            world=self.team.world,
            gather=self.team.gather,
            stopped=lambda: bool(self._signal(stop)),
        )
        with kept_statistics(self.model):
            if self._needs_settling():
                self._settle(done, stop)
            settings = InferenceSettings.of_training(self.config)
            precision: Precision = "float16" if self.amp else "float32"
            detector = Detector(self.model, settings=settings, device=self.device, precision=precision)
            results = self.task.evaluation(detector, share=share, say=self._say)
            self.model.train()
            if number := self.team.greatest(self._signal(stop))[0]:
                self._stop(number, done)
            if log:
                scores = Scores.of(done, results, best=log.best)
                if scores.best:
                    save_weights(self.task.out / BEST_WEIGHTS, self.model.state_dict(), config=self.config)
                log.write_scores(scores)
                self._say(str(scores))

    def _slow_data(self, share: float) -> Message:
        """Return a warning that the processes wait for data for a share of the time."""
        section = "selftrain" if isinstance(self.config, SelfTrainConfig) else "train"
        workers, cores = self.config.loader_workers, os.cpu_count() or 1
        return Message(
            f"warning: the training waits for data {share:.0%} of the time: raise ",
            Setting(f"{section}.loader_workers"),
            f" ({workers} for each of {counted(self.team.world, 'process', 'processes')}, on {cores} cores),"
            " or put the shards on a faster disk",
        )

    def _say(self, line: str | Message) -> None:
        if self.team.first:
            self.events.say(line)

    def _report_unusable(self, item: SkippedSample) -> None:
        self._say(f"{item.shard}: {item.key} is left out: {item.reason}")
