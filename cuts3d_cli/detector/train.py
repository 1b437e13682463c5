"""`cuts3d train`: learns a detector from shards with masks and Spatial Confidence."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cuts3d_cli.config import MAX_IMAGE_PIXELS, PRESETS, TrainConfig
from cuts3d_cli.detector import FINAL_WEIGHTS, METRICS
from cuts3d_cli.detector.card import describes, write_card
from cuts3d_cli.devices import choose_device
from cuts3d_cli.errors import Cuts3dError, UsageError
from cuts3d_cli.shards.names import generation_of, masks_of

if TYPE_CHECKING:
    from cuts3d_cli.detector.run_log import Watcher
    from cuts3d_cli.detector.training import Task

NO_DETECTRON2 = "detectron2 is not installed: run `pip install ./scripts/detectron2` in a checkout of cuts3d"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a training.

    Attributes:
        weights: safetensors.
        out: the folder with everything else.
        images: images with masks on record that it learned from.
    """

    weights: Path
    out: Path
    images: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"weights": str(self.weights), "out": str(self.out), "images": self.images}


def require_detectron2() -> None:
    """Make sure that detectron2 is there.

    Raises:
        Cuts3dError: it is not.
    """
    found = importlib.util.find_spec("detectron2")
    if found is None or found.origin is None:  # a bare folder of that name, as the builder's, is no package
        raise Cuts3dError(NO_DETECTRON2)


def default_out(round: int) -> Path:
    """The folder of a round: `detector-initial`, `detector-st1`, ..."""
    return Path(f"detector-{generation_of(round)}")


def run(
    shards: Sequence[Path],
    *,
    round: int,
    out: Path | None,
    config: TrainConfig,
    device: str,
    gpus: int,
    resume: bool | Literal["if begun"],
    overwrite: bool,
    init: Path | None,
    watcher: Watcher,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Trained:
    """Train a detector.

    Args:
        shards: base shards with pseudo and, where it is used, confidence sidecars.
        round: 0 learns from the pseudo-masks, 1 and on from the masks of self-training.
        out: the folder for what is written; `detector-initial` in the working folder by default.
        config: of the training.
        device: "auto", "cpu", "cuda", ...
        gpus: GPUs of this machine; under torchrun it says how many processes there are.
        resume: go on from the newest checkpoint; "if begun" does so where there is one, begins where there is none, and
            leaves a finished training as it is.
        overwrite: throw away what is in the folder.
        init: a trained detector to begin with.
        watcher: told how it goes.
        max_image_pixels: photos with more are not learned from.

    Returns:
        Where the result lies.

    Raises:
        UsageError: the folder holds a run already, or the device is not there.
        ShardError, WeightsError: what it needs is missing or damaged.
        TrainingError: the loss is no number any more.
    """
    require_detectron2()
    folder = out or default_out(round)
    chosen = choose_device(device)
    if gpus > 1 and not chosen.startswith("cuda"):
        raise UsageError(f"--gpus {gpus} needs CUDA: this machine has none, or --device says {chosen}")
    task = replace(
        task_of(
            shards,
            round=round,
            out=folder,
            config=config,
            init=init,
            device=chosen,
            max_image_pixels=max_image_pixels,
        ),
        resume=bool(resume),
    )
    images = sum(shard.samples for shard in task.shards)
    if resume == "if begun":
        if (finished := finished_weights(task)) is not None:
            watcher.say(f"{finished} is there already, of the same masks and configuration")
            if not describes(finished):  # stopped between the weights and their card
                write_card(task, round=round)
            return Trained(weights=finished, out=folder, images=images)
        task = replace(task, resume=begun(folder))
        # A run that was killed before its first checkpoint begins anew.
        overwrite = overwrite or (not task.resume and (folder / METRICS).exists())
    prepare_folder(folder, resume=task.resume, overwrite=overwrite)
    watcher.say(
        f"{images} images, batch {config.images_per_batch}, learning rate {config.learning_rate:g}"
        f" ({config.learning_rate / config.images_per_batch:g} an image)"
    )
    if warning := batch_warning(config):
        watcher.say(warning)
    processes = max(gpus, int(os.environ.get("WORLD_SIZE", "1")))
    if config.copy_paste and config.images_per_batch == processes:
        watcher.say("warning: with one image a process nothing can be pasted from another: raise --images-per-batch")
    weights = _launch(task, watcher, gpus=gpus)
    if not _is_other_rank():
        write_card(task, round=round)
    return Trained(weights=weights, out=folder, images=images)


def uses_confidence(config: TrainConfig) -> bool:
    """Whether a training looks at the Spatial Confidence of the masks."""
    return config.soft_loss or (
        config.copy_paste and (config.copy_paste_select == "confident" or config.alpha != "none")
    )


def task_of(
    shards: Sequence[Path],
    *,
    round: int,
    out: Path,
    config: TrainConfig,
    init: Path | None,
    device: str = "cpu",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Task:
    """What a training is to do.

    Args:
        shards: base shards with their masks.
        round: 0 learns from the pseudo-masks.
        out: the folder for what is written.
        config: of the training.
        init: a trained detector to begin with.
        device: that is there.
        max_image_pixels: photos with more are not learned from.

    Raises:
        ShardError: masks or confidence are missing, unfinished, or were made from other files.
    """
    from cuts3d_cli.detector.data import training_shards
    from cuts3d_cli.detector.training import Task

    found = training_shards(shards, stage=masks_of(round), with_confidence=uses_confidence(config))
    return Task(config=config, shards=found, out=out, device=device, init=init, max_image_pixels=max_image_pixels)


def finished_weights(task: Task) -> Path | None:
    """The result of a training that was finished with the same configuration and masks, or None.

    Raises:
        WeightsError: its last checkpoint is damaged.
    """
    from cuts3d_cli.detector.checkpoints import find_checkpoints, load_checkpoint
    from cuts3d_cli.detector.training import started_alike

    final = task.out / FINAL_WEIGHTS
    checkpoints = find_checkpoints(task.out)
    if not (final.is_file() and checkpoints):
        return None
    last = load_checkpoint(checkpoints[-1])
    before, now = last["fingerprint"], task.fingerprint()
    same = all(before[part] == now[part] for part in ("config", "shards")) and started_alike(before, now)
    return final if same and last["iteration"] == task.config.max_iter else None


def begun(folder: Path) -> bool:
    """Whether a folder holds a checkpoint to go on from."""
    from cuts3d_cli.detector.checkpoints import find_checkpoints

    return bool(find_checkpoints(folder))


def batch_warning(config: TrainConfig) -> str | None:
    """Notice a batch that was changed without the learning rate, which then is too high or too low.

    Returns:
        A line for the user, or None where a preset has the same batch, or no preset the same learning rate.
    """
    batches = [
        section.images_per_batch
        for preset in PRESETS.values()
        for section in (preset.train, preset.selftrain)
        if section.learning_rate == config.learning_rate
    ]
    if not batches or config.images_per_batch in batches:
        return None
    fitting = config.learning_rate * config.images_per_batch / batches[0]
    return (
        f"warning: learning rate {config.learning_rate:g} is for a batch of {batches[0]}, this one has"
        f" {config.images_per_batch}; in proportion it would be --learning-rate {fitting:g}"
    )


def prepare_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder of a run, or see to it that what is there may be gone on with.

    Raises:
        UsageError: it holds a run and neither option is given, or no run to go on with.
    """
    from cuts3d_cli.detector.checkpoints import clear_unfinished, find_checkpoints

    if resume and overwrite:
        raise UsageError("--resume and --overwrite cannot both be")
    if _is_other_rank():  # the first process sees to it
        return
    clear_unfinished(folder)
    if resume and not find_checkpoints(folder):
        raise UsageError(f"{folder} holds no checkpoint to go on from: leave out --resume")
    if not resume and folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise UsageError(
                f"{folder} is not empty: pass --resume to go on, --overwrite to begin anew, or another --out"
            )
        if not (folder / METRICS).exists() and not find_checkpoints(folder):
            raise UsageError(f"{folder} is not empty and holds no run of `cuts3d train`: take another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _is_other_rank() -> bool:
    return int(os.environ.get("RANK", "0")) > 0


def _launch(task: Task, watcher: Watcher, *, gpus: int) -> Path:
    """In this process, in one for each GPU, or in those that torchrun started."""
    from detectron2.engine import launch

    from cuts3d_cli.detector.training import train

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _under_torchrun(task, watcher)
    if gpus > 1:
        from torch.multiprocessing import ProcessRaisedException, get_context

        told = get_context("spawn").SimpleQueue()
        try:
            launch(_in_process, gpus, dist_url="auto", args=(task, watcher, told))
        except ProcessRaisedException as error:
            if told.empty():
                raise
            raise told.get() from error
        return task.out / FINAL_WEIGHTS
    return train(task, watcher)


def _in_process(task: Task, watcher: Watcher, told: Any) -> None:
    """What each process of a GPU does. Errors that are explained in one line are told too: the launcher passes on their
    tracebacks alone, as text.
    """
    from cuts3d_cli.detector.training import train

    try:
        train(task, watcher)
    except Cuts3dError as error:
        told.put(error)
        raise


def _under_torchrun(task: Task, watcher: Watcher) -> Path:
    import torch

    from cuts3d_cli.detector.training import train

    cuda = task.device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        return train(task, watcher)
    finally:
        torch.distributed.destroy_process_group()
