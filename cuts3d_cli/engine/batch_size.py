"""How many images go through a network at once: a number, or as many as the device's memory holds."""

from __future__ import annotations

import sys
from typing import Literal

from cuts3d_cli.config import RunConfig
from cuts3d_cli.devices import on_cuda
from cuts3d_cli.wording import Say

AUTO_FIRST = 4
"""Images of the first batch where the size is left to the device, and of all batches off CUDA."""
AUTO_MOST = 64
"""Images of the largest batch then: larger ones make no network faster."""
_ALLOCATORS = (
    "DefaultCPUAllocator",
    "_STATUS_ALLOC_FAILED",  # of cuBLAS, cuSOLVER, cuSPARSE and, up to its version 8, cuDNN
    "_DEVICE_ALLOCATION_FAILED",  # of cuDNN
    "CUDA error: out of memory",  # of the driver, which does not go through torch's allocator
)
"""Parts of messages of torch, of errors of no type of their own, that memory has run out."""


class BatchSize:
    """The size of batches, which falls when one does not fit into memory.

    Attributes:
        current: images of the next batch.
    """

    def __init__(self, asked: int | Literal["auto"], *, device: str = "cpu", say: Say | None = None) -> None:
        """Begin with a size.

        Args:
            asked: images; "auto" begins with few, and doubles them on CUDA as long as they fit.
            device: of torch.
            say: prints a line when the size falls.
        """
        self.current = AUTO_FIRST if asked == "auto" else asked
        self._grows = asked == "auto" and on_cuda(device)
        self._say = say

    @classmethod
    def of(cls, config: RunConfig, *, device: str, say: Say | None = None) -> BatchSize:
        """Return the size that a configuration asks for, on a device."""
        return cls(config.batch_size, device=device, say=say)

    def fitted(self, count: int) -> None:
        """Note that a batch of so many images went through."""
        if self._grows and count >= self.current:
            self.current = min(2 * self.current, AUTO_MOST)

    def exceeded(self, count: int) -> None:
        """Note that so many images, more than one, did not fit into memory: batches are halved from now on."""
        free_cached_memory()
        self._grows = False
        half = max(count // 2, 1)
        if half < self.current:
            self.current = half
            if self._say is not None:
                self._say(f"{count} images at once are more than the memory of the device holds: going on with {half}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out, on a device or in the machine."""
    torch = sys.modules.get("torch")  # whoever raised its error has loaded it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _ALLOCATORS)


def free_cached_memory() -> None:
    """Give memory back that torch keeps for later tensors of other sizes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
