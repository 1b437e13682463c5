"""Counts what a training step hands to its device, and how often it waits for what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts torch's operations while it is entered; those of a backward pass only on a CPU.

    Attributes:
        count: operations that compute something: views are left out, draws on the CPU, too.
        waits: how often the CPU has to know values that a device computes: shapes that depend on them, as from bool
            indices and `nonzero`, and numbers that are taken out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.waits = 0
        self._drawn: list[torch.Tensor] = []  # kept, so that no other number takes their place in memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one operation and carry it out."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("rand", "randint", "randperm"):
            self._drawn.append(result)
        elif name == "_local_scalar_dense":
            self.waits += all(args[0].data_ptr() != drawn.data_ptr() for drawn in self._drawn)
        elif not func.is_view and name not in ("detach", "lift_fresh"):
            self.count += 1
            self.waits += name in ("nonzero", "masked_select", "unique")
            if name in ("index", "index_put", "index_put_"):
                self.waits += any(item is not None and item.dtype == torch.bool for item in args[1])
        return result
