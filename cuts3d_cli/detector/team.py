"""What the processes of a training tell one another, in memory of the processor, so that no GPU waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from cuts3d_cli.errors import Cuts3dError

PATIENCE = timedelta(hours=12)
"""How long a process waits for another one that lives, such as the one that compares detections with a ground truth."""


class Team:
    """The processes of a training. All of them must call a method at the same time."""

    def __init__(self) -> None:
        """Find this process's place among the others."""
        joined = distributed.is_available() and distributed.is_initialized()
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if joined else (0, 1)
        self._group: distributed.ProcessGroup | None = None
        if self.world > 1:
            group = distributed.new_group(backend="gloo", timeout=PATIENCE)
            assert isinstance(group, distributed.ProcessGroup)  # a number stands for a group without this process
            self._group = group

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def greatest(self, *numbers: int) -> list[int]:
        """Return the greatest of what the processes say, number by number."""
        said = torch.tensor([int(number) for number in numbers])
        if self._group is not None:
            distributed.all_reduce(said, distributed.ReduceOp.MAX, group=self._group)
        return [int(number) for number in said]

    def agreed(self, said: bool) -> bool:
        """Return whether all processes say yes."""
        return not self.greatest(not said)[0]

    def gather(self, thing: Any) -> list[Any]:
        """Return what the processes have, in the first one; nothing in the others."""
        if self._group is None:
            return [thing]
        found = [None] * self.world if self.first else None
        distributed.gather_object(thing, found, group=self._group)
        return found or []

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.greatest(0)

    def from_neighbour(self, thing: Any) -> Any:
        """Return what the next process has; that of the last one is the first."""
        received: list[Any] = [None]
        ahead, behind = (self.rank + 1) % self.world, (self.rank - 1) % self.world
        steps: list[Callable[[], Any]] = [
            lambda: distributed.send_object_list([thing], dst=behind, group=self._group),
            lambda: distributed.recv_object_list(received, src=ahead, group=self._group),
        ]
        # Half of them send first, so that they do not wait in a circle.
        for step in steps if self.rank % 2 else reversed(steps):
            step()
        return received[0]

    def together(self, call: Callable[[], Any]) -> Any:
        """Call something in each process, and raise everywhere what fails in one of them.

        Raises:
            Cuts3dError: the first one of any process.
        """
        result, failure = None, None
        try:
            result = call()
        except Cuts3dError as error:
            failure = error
        if self.greatest(failure is not None)[0]:
            every: list[Any] = [failure] * self.world
            if self._group is not None:
                distributed.all_gather_object(every, failure, group=self._group)
            raise next(error for error in every if error is not None)
        return result
