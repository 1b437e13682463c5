"""The statistics of batch norm for fixed weights, in place of the running averages of a training (CutLER's setting)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats


def has_statistics(model: torch.nn.Module) -> bool:
    """Return whether a model in training mode has batch norm that takes its statistics from batches."""
    return bool(get_bn_modules(model))


def settle(model: torch.nn.Module, batches: Iterable[list[dict[str, Any]]], *, count: int, amp: bool) -> None:
    """Compute the statistics of batch norm over some batches.

    The random generators and the numbers of batches end where they began: a training that goes on is not affected.

    Args:
        model: in training mode.
        batches: at least `count`, on the model's device, without copy-paste: photos as they are met later.
        count: number of batches.
        amp: mixed precision.
    """
    device = next(model.parameters()).device
    counts = [layer.num_batches_tracked for layer in get_bn_modules(model)]
    before = [count.clone() for count in counts]
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        EventStorage(),
        torch.no_grad(),
        torch.autocast(device.type, enabled=amp),
    ):
        update_bn_stats(model, batches, count)
        for number, former in zip(counts, before, strict=True):
            number.copy_(former)


@contextmanager
def kept_statistics(model: torch.nn.Module) -> Iterator[None]:
    """Put the buffers of a model back at the end of the block, so that a training goes on with its own."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
