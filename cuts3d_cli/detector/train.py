"""`cuts3d train`: a detector learns from shards with masks and Spatial Confidence."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cuts3d_cli.config import MAX_IMAGE_PIXELS, PRESETS, TrainConfig
from cuts3d_cli.detector import FINAL_WEIGHTS, METRICS
from cuts3d_cli.detector.card import describes, write_card
from cuts3d_cli.detector.processes import count_by_torchrun, rank_by_torchrun, train_in_processes
from cuts3d_cli.detector.task import Task, check_fingerprint, same_training
from cuts3d_cli.devices import choose_device, count_gpus, on_cuda
from cuts3d_cli.errors import Cuts3dError, OccupiedError, SettingError, UsageError, WeightsError
from cuts3d_cli.shards.names import generation_of, masks_of
from cuts3d_cli.wording import Say, counted

if TYPE_CHECKING:
    from cuts3d_cli.detector.evaluating import Evaluation
    from cuts3d_cli.detector.run_log import TrainingEvents

DETECTRON2_PACKAGE = Path(__file__).parent / "detectron2_package"
"""Source of a pure Python detectron2 0.6, which pip builds from PyPI's. It is part of the installed package."""
GET_DETECTRON2 = f"pip install {shlex.quote(str(DETECTRON2_PACKAGE))}"
NO_DETECTRON2 = f"detectron2 is not installed: run `{GET_DETECTRON2}`"


IfTrained = Literal["fail", "overwrite", "resume", "complete"]
"""What happens to a training that the folder already holds: it is an error, it is deleted, or it is resumed, in which
case there must be one. "complete" leaves a finished training as it is, resumes an unfinished one, else starts one."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training produced.

    Attributes:
        weights: the safetensors file.
        out: the folder with everything else.
        images: number of images with a record of masks that it learned from.
    """

    weights: Path
    out: Path
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {"weights": str(self.weights), "out": str(self.out), "images": self.images}


def require_detectron2() -> None:
    """Check that detectron2 is installed.

    Raises:
        Cuts3dError: it is not.
    """
    found = importlib.util.find_spec("detectron2")
    if found is None or found.origin is None:  # a bare folder of that name, such as the builder's, is no package
        raise Cuts3dError(NO_DETECTRON2)


def default_out(round: int) -> Path:
    """Name the folder of a round of training: `detector-initial`, `detector-st1`, ..."""
    return Path(f"detector-{generation_of(round)}")


def run(
    shards: Sequence[Path],
    *,
    round: int,
    out: Path | None,
    config: TrainConfig,
    device: str,
    gpus: int,
    if_exists: IfTrained,
    init: Path | None,
    events: TrainingEvents,
    evaluation: Evaluation | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> TrainingResult:
    """Train a detector.

    Args:
        shards: base shards with pseudo-masks and, where training uses it, Spatial Confidence.
        round: 0 learns from the pseudo-masks, 1 and later rounds from the masks of self-training.
        out: folder for everything that is written; by default `default_out`, in the working folder.
        config: of the training.
        device: "auto", "cpu", "cuda", ...
        gpus: number of GPUs of this machine to use; torchrun sets the number of processes itself.
        if_exists: what happens to a training that the folder already holds.
        init: a trained detector to start from.
        events: receives the events of the training; of the processes that torchrun started, in the first one alone.
        evaluation: of the detector while it is trained.
        max_image_pixels: photos with more pixels are left out.

    Returns:
        The final weights and where everything else is.

    Raises:
        UsageError: the folder or the device does not fit the request.
        ShardError, WeightsError: an input is missing or damaged.
        TrainingError: the loss is not finite, or a process ended unexpectedly.
    """
    # Choose the device, and check what would fail later.
    require_detectron2()
    folder = out or default_out(round)
    first = rank_by_torchrun() == 0
    chosen = choose_device(device)
    check_processes(config, gpus=gpus, device=chosen)
    if evaluation is not None and first:
        evaluation.check(say=events.say)
    task = task_of(
        shards,
        round=round,
        out=folder,
        config=config,
        init=init,
        device=chosen,
        max_image_pixels=max_image_pixels,
        say=events.say if first else None,
    )
    task = replace(task, evaluation=evaluation)
    images = sum(shard.samples for shard in task.shards)

    # Leave a finished training as it is, resume one that has a checkpoint, and start over one that has none yet.
    if if_exists == "complete":
        if (finished := finished_weights(task)) is not None:
            if first:
                events.say(f"{finished} already exists, with the same masks and configuration")
                if not describes(finished):  # the run ended between the weights and their card
                    write_card(task, round=round)
            return TrainingResult(weights=finished, out=folder, images=images)
        if_exists = "resume" if has_checkpoint(folder) else "overwrite" if (folder / METRICS).exists() else "fail"
    if first:
        if if_exists == "overwrite":
            check_beginning(task)
        prepare_folder(folder, if_exists=if_exists)

    # Point out settings that do not fit each other.
    if first:
        events.say(
            f"{counted(images, 'image')}, batch {config.images_per_batch}, learning rate {config.learning_rate:g}"
            f" ({config.learning_rate / config.images_per_batch:g} an image)"
        )
        if warning := batch_warning(config):
            events.say(warning)

    # Train; the first process describes the result.
    weights = train_in_processes(replace(task, resume=if_exists == "resume"), events, gpus=gpus)
    if first:
        write_card(task, round=round)
    return TrainingResult(weights=weights, out=folder, images=images)


def check_processes(config: TrainConfig, *, gpus: int, device: str) -> None:
    """Check that a training can use as many processes as are wanted, or as torchrun has started.

    Args:
        config: of the training.
        gpus: number of GPUs of this machine to use.
        device: one that exists.

    Raises:
        UsageError: there are not so many GPUs, or they cannot share a batch.
    """
    from cuts3d_cli.detector.split import check_split

    started = count_by_torchrun()
    check_split(config, processes=max(gpus, started))
    if gpus > 1:
        if started > 1:
            raise SettingError("gpus", f"is {gpus}, but torchrun has started {started} processes: leave it out")
        if not on_cuda(device):
            raise SettingError("gpus", f"is {gpus}, which needs CUDA, but training is on {device}")
        count_gpus(gpus, named=("gpus", str(gpus)), instead=("leave it out",))


def uses_confidence(config: TrainConfig) -> bool:
    """Return whether a training uses the Spatial Confidence of the masks."""
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
    say: Say | None = None,
) -> Task:
    """Find the masks of a training.

    Args:
        shards: base shards.
        round: 0 learns from the pseudo-masks.
        out: folder for everything that is written.
        config: of the training.
        init: a trained detector to start from.
        device: one that exists.
        max_image_pixels: photos with more pixels are left out.
        say: prints a warning.

    Returns:
        The training.

    Raises:
        ShardError: masks or confidence are missing, unfinished or stale.
    """
    from cuts3d_cli.detector.data import training_shards

    found = training_shards(shards, stage=masks_of(round), with_confidence=uses_confidence(config), say=say)
    return Task(config=config, shards=found, out=out, device=device, init=init, max_image_pixels=max_image_pixels)


def finished_weights(task: Task) -> Path | None:
    """Return the final weights of a training if it is finished, with the same configuration and masks, else None.

    A training whose final weights or last checkpoint are damaged is not finished: it resumes from a sound checkpoint.
    """
    from cuts3d_cli.detector.checkpoints import find_checkpoints, is_intact, load_checkpoint

    final = task.out / FINAL_WEIGHTS
    checkpoints = find_checkpoints(task.out)
    if not (final.is_file() and checkpoints and is_intact(final)):
        return None
    try:
        last = load_checkpoint(checkpoints[-1])
    except WeightsError:  # whoever resumes says so
        return None
    same = same_training(last["fingerprint"], task.fingerprint())
    return final if same and last["iteration"] == task.config.max_iter else None


def check_settings(folder: Path, config: TrainConfig, *, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Check that a training that a folder holds is of these settings, whatever masks it learned from.

    Args:
        folder: of the training; it need not exist.
        config: of the training.
        max_image_pixels: photos with more pixels are left out.

    Raises:
        UsageError: it is of others than the schedule, so that it cannot be resumed.
    """
    from cuts3d_cli.detector.checkpoints import find_checkpoints, load_checkpoint

    own = Task(config=config, shards=(), out=folder, device="cpu", max_image_pixels=max_image_pixels).fingerprint()
    for path in reversed(find_checkpoints(folder)):
        try:
            before = load_checkpoint(path).get("fingerprint")
        except WeightsError:  # whoever resumes passes over it
            continue
        if isinstance(before, dict):
            check_fingerprint(before, {**own, "shards": before.get("shards"), "init": None}, path=path)
        return


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint to resume from."""
    from cuts3d_cli.detector.checkpoints import find_checkpoints

    return bool(find_checkpoints(folder))


def batch_warning(config: TrainConfig) -> str | None:
    """Find out whether the size of the batch was changed without the learning rate.

    Returns:
        A warning, or None where a preset has the same batch size, or no preset the same learning rate.
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
        f" {config.images_per_batch}; in proportion it would be learning_rate {fitting:g}"
    )


def check_beginning(task: Task) -> None:
    """Check that a training can begin, before the one that its folder holds is thrown away for it.

    Args:
        task: the training.

    Raises:
        UsageError: it begins with weights that would be thrown away.
        WeightsError, FileError, SettingError: it begins with weights that are missing, damaged, or of another network.
    """
    from cuts3d_cli.detector.checkpoints import written_by_training
    from cuts3d_cli.detector.model import build_model
    from cuts3d_cli.detector.state import load_initial

    lost = {path.resolve() for path in written_by_training(task.out)}
    begins = task.init or Path(task.config.backbone_weights).expanduser()
    if begins.resolve() in lost:
        raise UsageError(
            f"{begins} is of the training in {task.out}, which is to be overwritten: choose another folder"
        )
    load_initial(build_model(task.config, device="cpu"), task, say=lambda line: None)  # said when it begins


def prepare_folder(folder: Path, *, if_exists: Literal["fail", "overwrite", "resume"]) -> None:
    """Create the folder of a training, or check that the one that exists can be used.

    Args:
        folder: of the training.
        if_exists: "resume" needs a checkpoint in it, "fail" needs it to be empty, "overwrite" deletes a training in it,
            and nothing else that is there.

    Raises:
        UsageError: the folder does not fit the request, or holds other things than a training.
    """
    from cuts3d_cli.detector.checkpoints import clear_unfinished, find_checkpoints, written_by_training

    clear_unfinished(folder)
    if if_exists == "resume":
        if not find_checkpoints(folder):
            raise UsageError(f"{folder} holds no checkpoint to resume from: start a new training")
    elif folder.exists() and any(folder.iterdir()):
        if if_exists == "fail":
            raise OccupiedError(
                f"{folder} is not empty: resume the training in it, overwrite it, or choose another folder"
            )
        if not (folder / METRICS).exists() and not find_checkpoints(folder):
            raise OccupiedError(f"{folder} is not empty and holds no run of `cuts3d train`: choose another folder")
        for path in written_by_training(folder):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
