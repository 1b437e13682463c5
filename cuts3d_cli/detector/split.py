"""How a batch is shared: among the processes, and within each among parts that go through the network in turn.

The gradients of the parts add up to one update (gradient accumulation), so that the memory of a GPU limits the size of
a part, not that of the batch. Batch norm sees a part at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from cuts3d_cli.config import SelfTrainConfig, TrainConfig
from cuts3d_cli.detector.maps import ConfidenceMaps, IndexedMasks
from cuts3d_cli.engine.batch_size import is_out_of_memory
from cuts3d_cli.errors import Setting, SettingError, UsageError
from cuts3d_cli.wording import counted

_MEMORY_SHARE = 0.9
"""The most of a GPU's memory that a trial may take: the optimizer's state and larger images come on top."""
_TRIAL_INSTANCES = 20
"""Instances of an image of the trial."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a batch is shared.

    Attributes:
        images: in the batch.
        processes: that share it equally.
        parts: of the share of each.
        synchronised: whether batch norm mixes the statistics of all processes, as SyncBN on GPUs does.
    """

    images: int
    processes: int
    parts: int
    synchronised: bool

    def __str__(self) -> str:
        """Return it in words."""
        parts = f", in {self.parts} parts each" if self.parts > 1 else ""
        return counted(self.processes, "process", "processes") + parts

    @property
    def share(self) -> int:
        """Number of images of a process."""
        return self.images // self.processes

    @property
    def part(self) -> int:
        """Number of images that are in a GPU's memory at a time, as far as the network is concerned."""
        return self.share // self.parts

    @property
    def normalised(self) -> int:
        """Number of images that batch norm mixes at a time."""
        return self.part * (self.processes if self.synchronised else 1)


def check_split(config: TrainConfig, *, processes: int) -> None:
    """Check that the batch can be shared among processes and parts.

    Args:
        config: the fields `images_per_batch`, `accumulate` and `copy_paste`.
        processes: number of them.

    Raises:
        SettingError: it cannot.
    """
    images, section = config.images_per_batch, _section(config)
    if images % processes:
        fewer = max(number for number in range(1, processes) if images % number == 0)
        raise SettingError(
            f"{section}.images_per_batch",
            f"is {images}, which {processes} processes cannot share equally: set it to"
            f" {-(-images // processes) * processes} and ",
            Setting(f"{section}.learning_rate"),
            f" in proportion, or start {counted(fewer, 'process', 'processes')} (",
            Setting("gpus", fewer),
            ")",
        )
    share = images // processes
    if config.accumulate != "auto" and share % config.accumulate:
        raise SettingError(
            f"{section}.accumulate",
            f"is {config.accumulate}, but a process has {counted(share, 'image')} of the batch: take"
            f" {', '.join(map(str, divisors(share)))} or auto",
        )
    if config.copy_paste and images == 1:
        raise SettingError(
            f"{section}.images_per_batch",
            "is 1, and copy-paste needs a second image: raise it, or set ",
            Setting(f"{section}.copy_paste", False),
        )


def split_of(config: TrainConfig, *, processes: int, parts: int, device: torch.device) -> Split:
    """Return how a batch is shared, given the number of processes and parts."""
    synchronised = config.norm == "SyncBN" and device.type == "cuda"
    return Split(images=config.images_per_batch, processes=processes, parts=parts, synchronised=synchronised)


def resumed_split(config: TrainConfig, before: Split, *, processes: int, device: torch.device, path: Path) -> Split:
    """Return how the batch is shared in a resumed training, which another number of processes may resume.

    The result is the same in expectation as long as batch norm mixes as many images as before.

    Args:
        config: which has passed `check_split`.
        before: how the batch was shared.
        processes: their number now.
        device: of this process.
        path: of the checkpoint, for messages.

    Raises:
        UsageError: batch norm would mix more or fewer images.
    """
    share, frozen, auto = config.images_per_batch // processes, config.norm == "FrozenBN", config.accumulate == "auto"
    possible = [split_of(config, processes=processes, parts=parts, device=device) for parts in divisors(share)]
    # Statistics that do not change mix nothing. Parts that are chosen here are no larger than before.
    same = [
        split
        for split in possible
        if split.normalised == before.normalised or (frozen and (split.part <= before.part or not auto))
    ]
    wanted = possible if auto else [split for split in possible if split.parts == config.accumulate]
    if found := [split for split in wanted if split in same]:
        return found[0]
    raise UsageError(
        f"{path} was trained with batch norm over {counted(before.normalised, 'image')} at a time, now it would be"
        f" {' or '.join(str(split.normalised) for split in wanted)}, which changes the result: ",
        *(("set ", Setting(f"{_section(config)}.accumulate", same[0].parts), ", or ") if same else ()),
        f"start {counted(before.processes, 'process', 'processes')} as before",
    )


def fitting_parts(share: int, fits: Callable[[int], bool], *, agree: Callable[[bool], bool]) -> int | None:
    """Find out in how few parts a process's share of the batch fits into memory.

    Args:
        share: number of images.
        fits: returns whether so many images fit at a time.
        agree: returns whether all processes say yes.

    Returns:
        The number of parts; None where not even single images fit.
    """
    return next((parts for parts in divisors(share) if agree(fits(share // parts))), None)


def fits_in_memory(model: torch.nn.Module, config: TrainConfig, *, count: int) -> bool:
    """Return whether the losses and gradients of so many large images fit into the memory of a GPU, by trying.

    The memory of a CPU is not tried out: any number fits.

    Args:
        model: in training mode; of a single process, since others may run out of memory earlier.
        config: the fields `min_sizes`, `max_size` and `amp`.
        count: number of images.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return True
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.random.fork_rng(devices=[device]):
            trial_step(model, config, count=count)
    except Exception as error:  # libraries of CUDA have errors of their own for it
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    return bool(torch.cuda.max_memory_reserved(device) <= _MEMORY_SHARE * total)


def trial_step(model: torch.nn.Module, config: TrainConfig, *, count: int) -> None:
    """Compute losses and gradients of images of noise that are as large as training images get.

    Args:
        model: in training mode.
        config: the fields `min_sizes`, `max_size` and `amp`.
        count: number of images.
    """
    device = next(model.parameters()).device
    # Squares along the diagonal of each image.
    side = max(config.min_sizes)
    size = (side, max(min(2 * side, config.max_size), side))
    masks = torch.zeros((_TRIAL_INSTANCES, *size), dtype=torch.bool, device=device)
    for number, mask in enumerate(masks):
        top, left = (number * extent // (2 * _TRIAL_INSTANCES) for extent in size)
        mask[top : top + side // 4 + 1, left : left + side // 4 + 1] = True
    instances = Instances(size)
    instances.gt_masks = IndexedMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.zeros(len(masks), dtype=torch.int64, device=device)
    instances.gt_confidence = ConfidenceMaps.of(masks.to(torch.float32))
    image = torch.randint(256, (3, *size), dtype=torch.uint8, device=device)
    batch = [{"image": image, "height": size[0], "width": size[1], "instances": instances} for _ in range(count)]
    # A step as in training, without its update.
    with EventStorage(), torch.autocast(device.type, enabled=config.amp and device.type == "cuda"):
        losses: dict[str, torch.Tensor] = model(batch)
    torch.stack(list(losses.values())).sum().backward()


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def _section(config: TrainConfig) -> str:
    return "selftrain" if isinstance(config, SelfTrainConfig) else "train"
