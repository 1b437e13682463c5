"""The state of a training: weights, optimizer, draws and position in the data. How it begins, is saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cuts3d_cli.config import SelfTrainConfig, as_dict
from cuts3d_cli.detector.checkpoints import (
    checkpoint_path,
    find_checkpoints,
    keep_last,
    load_checkpoint,
    save_checkpoint,
    set_aside,
)
from cuts3d_cli.detector.loading import load_start
from cuts3d_cli.detector.model import build_model
from cuts3d_cli.detector.order import Position, redistribute
from cuts3d_cli.detector.schedule import make_optimizer
from cuts3d_cli.detector.split import (
    Split,
    check_split,
    fits_in_memory,
    fitting_parts,
    resumed_split,
    split_of,
)
from cuts3d_cli.detector.task import Task, TrainingError, check_fingerprint, plain
from cuts3d_cli.detector.team import Team
from cuts3d_cli.devices import own_device
from cuts3d_cli.errors import Message, SettingError, WeightsError
from cuts3d_cli.weights.checkpoint import load_into
from cuts3d_cli.wording import Say, first_line


def load_initial(model: torch.nn.Module, task: Task, *, say: Say) -> None:
    """Load what a training begins with: a detector, or the weights of the backbone, or nothing.

    Args:
        model: as `build_model` builds it; takes the weights.
        task: the training.
        say: prints a status line.

    Raises:
        WeightsError, FileError, SettingError: they are missing, damaged, or of another network.
    """
    if task.init is not None:
        load_start(model, task.init, config=task.config, say=say)
    elif task.config.backbone_weights != "random":
        from cuts3d_cli.detector.resnet import load_resnet

        bottom_up: Any = model.backbone.bottom_up  # type: ignore[union-attr]
        say(f"backbone: {load_resnet(bottom_up, task.config.backbone_weights, say=say)}")


class TrainingState:
    """The state of a training in one of its processes, from a checkpoint or as it begins.

    Args:
        task: the training.
        team: the processes.
        say: prints a status line, in the first process.

    Attributes:
        model: the detector.
        optimizer: of its parameters.
        scaler: of mixed precision.
        amp: whether there is mixed precision.
        device: of this process.
        generator: of the draws of copy-paste.
        start: number of iterations that are finished.
        settled: whether the statistics of batch norm are settled for the weights.
        position: in the data, where the training starts.

    Raises:
        UsageError: the checkpoint is of another training, or of processes whose result would differ.
        WeightsError: weights are missing, damaged, or of another network.
    """

    def __init__(self, task: Task, *, team: Team, say: Say) -> None:
        self._task, self._config, self._team, self._say = task, task.config, team, say
        self._fingerprint = task.fingerprint()
        check_split(self._config, processes=team.world)
        self.device = own_device(task.device, alone=team.world == 1)
        # Build the model with the same weights in every process; all other draws differ by process.
        torch.manual_seed(self._config.seed)
        self.model = build_model(self._config, device=self.device, distributed=team.world > 1)
        self.generator = torch.Generator()
        self._seed(self._config.seed * 65536 + team.rank)
        self.amp = self._config.amp and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp)
        self.optimizer = make_optimizer(self.model, self._config)
        # Take weights, optimizer and position from a checkpoint, or start from the weights that are asked for.
        self.start, self.settled, self.position = 0, False, Position()
        self._split: Split | None = None
        self._damaged: list[Path] = []
        if task.resume:
            self._restore()
        else:
            self._initialise()

    @property
    def split(self) -> Split:
        """How a batch is shared; known after `join`."""
        assert self._split is not None
        return self._split

    def join(self) -> None:
        """Do what takes all processes: set aside what they have found damaged, and choose the parts of a batch.

        Raises:
            TrainingError: a single image does not fit into the memory of a GPU.
        """
        if self._team.first:
            for path in self._damaged:
                set_aside(path)
        if self._split is None:
            self._split = self._first_split()

    def save(self, done: int, position: Position) -> None:
        """Write a checkpoint with the state of all processes, and delete the oldest ones.

        Args:
            done: number of finished iterations.
            position: in the data, of this process.
        """
        own = {
            "position": asdict(position),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "generator": self.generator.get_state(),
        }
        every = self._team.gather(own)
        if self._team.first:
            content = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "iteration": done,
                "settled": self.settled,
                "processes": every,
                "split": asdict(self.split),
                "config": plain(as_dict(self._config)),
                "fingerprint": self._fingerprint,
            }
            save_checkpoint(checkpoint_path(self._task.out, done), content)
            keep_last(self._task.out, self._config.checkpoints_kept)
        self._team.wait()

    def _seed(self, seed: int) -> None:
        """Begin all draws of this process, apart from those of the order of the images."""
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)

    def _initialise(self) -> None:
        """Load the detector to start from, or the weights of the backbone.

        Raises:
            WeightsError: they are missing, damaged, or of another network.
        """
        load_initial(self.model, self._task, say=self._say)

    def _first_split(self) -> Split:
        """Return how batches are shared in a training that begins.

        Raises:
            TrainingError: a single image does not fit into the memory of a GPU.
        """
        config, world = self._config, self._team.world
        if config.accumulate != "auto":
            return split_of(config, processes=world, parts=config.accumulate, device=self.device)
        trial = build_model(config, device=self.device)
        parts = fitting_parts(
            config.images_per_batch // world,
            lambda count: fits_in_memory(trial, config, count=count),
            agree=self._team.agreed,
        )
        if parts is None:
            raise TrainingError(
                f"not even one image of {max(config.min_sizes)} pixels fits into the memory of {self.device}: lower"
                " min_sizes and max_size"
            )
        split = split_of(config, processes=world, parts=parts, device=self.device)
        self._say(
            f"gradients are accumulated over {split}" if parts > 1 else "the batch goes through the network at once"
        )
        return split

    def _restore(self) -> None:
        """Load the newest checkpoint that is sound. Damaged ones that are newer are named, and remembered.

        Raises:
            UsageError: the checkpoint is of another training, or of processes whose result would differ.
            WeightsError: all checkpoints are damaged.
        """
        damaged: dict[Path, WeightsError] = {}
        for path in reversed(find_checkpoints(self._task.out)):
            try:
                self._restore_from(path)
            except WeightsError as error:
                damaged[path] = error
            else:
                for flaw in damaged.values():
                    self._say(Message("warning: ", *flaw.parts))
                self._damaged = list(damaged)
                return
        if len(damaged) == 1:
            raise next(iter(damaged.values()))
        raise WeightsError(f"{self._task.out} holds no sound checkpoint: delete it to train again")

    def _restore_from(self, path: Path) -> None:
        """Load a checkpoint.

        Raises:
            UsageError, WeightsError: as `_restore`.
        """
        content = load_checkpoint(path)
        try:
            self._restore_content(content, path)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise WeightsError(f"{path} is damaged, or of another version ({what}): train again") from error

    def _restore_content(self, content: Mapping[str, Any], path: Path) -> None:
        # Check that it is the same training, and that batch norm mixes as many images as before.
        rescheduled = check_fingerprint(content["fingerprint"], self._fingerprint, path=path)
        if (done := int(content["iteration"])) > self._config.max_iter:
            section = "selftrain" if isinstance(self._config, SelfTrainConfig) else "train"
            problem = f"is {self._config.max_iter}, but {path} is after {done} iterations: set it to {done} or more, or"
            raise SettingError(f"{section}.max_iter", f"{problem} train into another folder")
        # A resumed run need not name the detector that it started from.
        self._fingerprint["init"] = content["fingerprint"].get("init") or self._fingerprint["init"]
        every, world = content["processes"], self._team.world
        former = split_of(self._config, processes=len(every), parts=1, device=self.device)  # of earlier versions
        before = Split(**content["split"]) if "split" in content else former
        self._split = resumed_split(self._config, before, processes=world, device=self.device, path=path)
        # Load the weights and the optimizer.
        load_into(self.model, content["model"], what="this detector", path=path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.start, self.settled = int(content["iteration"]), bool(content.get("settled"))
        # Continue all draws; where there are more processes or fewer, begin new ones.
        positions = [Position(**own["position"]) for own in every]
        if len(every) == world:
            own = every[self._team.rank]
            torch.set_rng_state(own["torch"])
            if own["cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda"], self.device)
            self.generator.set_state(own["generator"])
        else:
            entropy = np.random.SeedSequence([self._config.seed, self._team.rank, world, self.start])
            self._seed(int(entropy.generate_state(1)[0]))
            positions = redistribute(positions, world)
        self.position = positions[self._team.rank]
        # Report.
        self._say(f"resuming from {path}" + (f" with {', '.join(rescheduled)}" if rescheduled else ""))
        if self._split != before:
            self._say(
                f"the batch was shared by {before}, and is by {self._split} now: the result is the same in expectation,"
                " but no longer to the bit"
            )
